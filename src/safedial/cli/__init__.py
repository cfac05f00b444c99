"""The command line, ``safedial``: each command is a package, whose ``arguments`` add it here and run it.

May import everything; only ``python -m safedial`` imports it. rich is imported when a command needs it, so that this
module works without the extra ``cli``.
"""

import argparse
from collections.abc import Sequence

import safedial
from safedial.cli.demo import arguments as demo
from safedial.cli.doctor import arguments as doctor


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line *argv*, `sys.argv` by default, and return the exit status."""
    parser = argparse.ArgumentParser(prog="safedial", description="Dial TCP safely, never connected to yourself.")
    parser.add_argument("--version", action="version", version=f"safedial {safedial.__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="command")
    for command in (demo, doctor):
        command.add(commands)
    arguments = parser.parse_args(argv)
    try:
        return int(arguments.run(arguments))
    except KeyboardInterrupt:
        return 130  # a shell's status for a process that SIGINT ended: 128 + 2
