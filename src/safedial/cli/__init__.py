"""The command line: ``safedial demo``.

Parses arguments and maps what happens to exit statuses. May import anything of safedial; nothing
imports it but ``python -m safedial``. What needs rich is imported when its command runs, so that
this module works without the extra ``cli``.
"""

import argparse
import importlib
import sys
from collections.abc import Sequence

import safedial

# What a shell reports for a process that SIGINT ended: 128 + 2.
_INTERRUPTED = 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line *argv*, `sys.argv` by default, and return the exit status."""
    parser = argparse.ArgumentParser(prog="safedial", description="Dial TCP safely, never connected to yourself.")
    parser.add_argument("--version", action="version", version=f"safedial {safedial.__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="command")
    summary = "replay the self-connect outage on this kernel, and how safedial avoids it"
    demo = commands.add_parser(
        "demo",
        help=summary,
        description=f"{summary[0].upper()}{summary[1:]}. Loopback only, less than a minute.",
        epilog="Exit status: 0 where safedial's row is clean, 1 where it is not, 2 where rich is missing.",
    )
    demo.set_defaults(run=_demo)
    arguments = parser.parse_args(argv)
    try:
        status: int = arguments.run()
    except KeyboardInterrupt:
        return _INTERRUPTED
    return status


def _demo() -> int:
    try:
        # Asked for by itself, so that an ImportError of our own is not taken for its absence.
        importlib.import_module("rich")
    except ImportError:
        sys.stderr.write("safedial demo needs rich for its progress bar and table: pip install 'safedial[cli]'\n")
        return 2
    from safedial.cli import demo_report

    try:
        return demo_report.run()
    except OSError as error:
        sys.stderr.write(f"safedial demo could not be played: {error}\n")
        return 1
