"""The command line, ``safedial demo``: arguments and exit statuses.

May import everything; only ``python -m safedial`` imports it. rich is imported when a command needs it, so that this
module works without the extra ``cli``.
"""

import argparse
import importlib
import sys
from collections.abc import Sequence

import safedial


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line *argv*, `sys.argv` by default, and return the exit status."""
    parser = argparse.ArgumentParser(prog="safedial", description="Dial TCP safely, never connected to yourself.")
    parser.add_argument("--version", action="version", version=f"safedial {safedial.__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="command")
    demo = commands.add_parser(
        "demo",
        help="replay two outages on this kernel, without and with safedial",
        description="Replay two outages on this kernel, without and with safedial: a client connects to itself, and "
        "an ordinary connection has the port of a server that is down. Loopback only, less than a minute.",
        epilog="Exit status: 0 if safedial is clean, 1 if it is not, 2 if rich is missing.",
    )
    demo.set_defaults(run=_demo)
    try:
        return int(parser.parse_args(argv).run())
    except KeyboardInterrupt:
        return 130  # a shell's status for a process that SIGINT ended: 128 + 2


def _demo() -> int:
    try:
        importlib.import_module("rich")  # by itself: an ImportError in our own modules is a bug
    except ImportError:
        sys.stderr.write("safedial demo needs rich for its progress bar and table: pip install 'safedial[cli]'\n")
        return 2
    from safedial.cli.demo import report

    try:
        return report.run()
    except OSError as error:
        sys.stderr.write(f"safedial demo could not run: {error}\n")
        return 1
