"""``safedial demo``: arguments and exit status."""

import argparse
import importlib
import sys
from typing import Any


def add(commands: "argparse._SubParsersAction[Any]") -> None:  # pyright: ignore[reportPrivateUsage]  # it has no other
    """Add the command to *commands*."""
    demo = commands.add_parser(
        "demo",
        help="replay two outages on this kernel, without and with safedial",
        description="Replay two outages on this kernel, without and with safedial: a client connects to itself, and "
        "an ordinary connection has the port of a server that is down. Loopback only, less than a minute.",
        epilog="Exit status: 0 if safedial is clean, 1 if it is not, 2 if rich is missing.",
    )
    demo.set_defaults(run=_run)


def _run(_: argparse.Namespace) -> int:
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
