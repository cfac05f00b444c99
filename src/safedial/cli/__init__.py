"""The command line, ``safedial``: each command is a package, whose ``arguments`` add it here and run it.

May import everything; only ``python -m safedial`` imports it. rich is imported when a command needs it, so that this
module works without the extra ``cli``.
"""

import argparse
import contextlib
import shlex
import sys
from collections.abc import Sequence

import safedial
from safedial.cli.demo import arguments as demo
from safedial.cli.doctor import arguments as doctor
from safedial.cli.wait import arguments as wait

# The exit status of an error that no command expects. Python's own, 1, is an answer of some: "at risk".
_FAILED = 2


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line *argv*, `sys.argv` by default, and return the exit status."""
    parser = argparse.ArgumentParser(prog="safedial", description="Dial TCP safely, never connected to yourself.")
    parser.add_argument("--version", action="version", version=f"safedial {safedial.__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="command", dest="chosen")
    for command in (demo, doctor, wait):
        command.add(commands)
    # What follows "--" is another program's, and each version of argparse would look at it in its own way.
    words = list(sys.argv[1:] if argv is None else argv)
    end = words.index("--") if "--" in words else len(words)
    arguments, unknown = parser.parse_known_args(words[:end])
    if "command" in arguments:  # it takes one, and judges what is unknown
        arguments.words, arguments.command, arguments.unknown = words[:end], words[end:], unknown
    elif unknown or words[end:]:
        commands.choices[arguments.chosen].error(f"unrecognized arguments: {shlex.join([*unknown, *words[end:]])}")
    try:
        return int(arguments.run(arguments))
    except KeyboardInterrupt:
        return 130  # a shell's status for a process that SIGINT ended: 128 + 2
    except OSError as error:  # that no command expects: standard output is full, or closed
        with contextlib.suppress(OSError, AttributeError):  # AttributeError: stderr is closed, too, and None
            sys.stderr.write(f"safedial: {error}\n")
        return _FAILED
    except Exception as error:
        sys.excepthook(type(error), error, error.__traceback__)
        return _FAILED
