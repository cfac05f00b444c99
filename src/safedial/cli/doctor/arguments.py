"""``safedial doctor``: arguments and exit status."""

import argparse
import sys
from typing import Any

_DESCRIPTION = """\
Say whether this machine is at risk, and what to do.

A client that dials a dead port on its own host can be connected to itself. And
an ordinary connection can draw the port of a server that is down. Either way
the server can't start. It happens to ports that connect() draws: those of the
ephemeral range that are not reserved.

The doctor looks at each port that something here listens on, and at each PORT.
It changes nothing, but binds each PORT for a moment, to try whether a server
can. What it could not look at is "not checked", never "safe"."""
_EPILOG = """\
exit status:
  0  nothing is at risk
  1  something is at risk or taken, on a PORT or on another port
  2  something could not be checked or written, or the arguments are wrong

examples:
  safedial doctor                  each port that something listens on
  safedial doctor 5432             why can't PostgreSQL bind its port?
  sudo safedial doctor --pid 4242  the container in which process 4242 runs
  safedial doctor --json           for a program (schema: docs/command-line.md)"""

# Characters of a number, and of what an error repeats of an argument.
_LONGEST = 20


def add(commands: "argparse._SubParsersAction[Any]") -> None:  # pyright: ignore[reportPrivateUsage]  # it has no other
    """Add the command to *commands*."""
    doctor = commands.add_parser(
        "doctor",
        help="say whether this machine is at risk, and what to do",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    doctor.add_argument("ports", metavar="PORT", nargs="*", type=_port, help="look at this port, too")
    doctor.add_argument(
        "--pid", metavar="PID", type=_pid, help="look at the network namespace of this process, such as a container's"
    )
    doctor.add_argument("--json", action="store_true", help="print one JSON object with all that was seen")
    doctor.set_defaults(run=_run)


def _port(text: str) -> int:
    if not 1 <= _number(text) <= 65535:
        hint = ": write spaces between ports" if "," in text else ""
        raise argparse.ArgumentTypeError(f"a port is a number from 1 to 65535, not {_short(text)}{hint}")
    return int(text)


def _pid(text: str) -> int:
    if not 1 <= _number(text) < 2**31:
        raise argparse.ArgumentTypeError(f"a process has a number, not {_short(text)}")
    return int(text)


def _number(text: str) -> int:
    return int(text) if text.isascii() and text.isdigit() and len(text) <= _LONGEST else 0


def _short(text: str) -> str:
    return repr(text if len(text) <= _LONGEST else f"{text[:_LONGEST]}...")


def _run(arguments: argparse.Namespace) -> int:
    from safedial.cli.doctor import as_json, judge, look, remedies, report

    ports = tuple(dict.fromkeys(arguments.ports))
    try:
        facts = look.look(ports, pid=arguments.pid)
    except OSError as error:  # only with --pid
        hint = " (root may)" if isinstance(error, PermissionError) else ""
        sys.stderr.write(f"safedial doctor can't look at process {arguments.pid}: {error.strerror}{hint}\n")
        return 2
    diagnosis = judge.judge(facts, ports)
    helps = remedies.remedies(facts, diagnosis, pid=arguments.pid)
    if arguments.json:
        report.write(as_json.as_json(facts, diagnosis, helps))
    else:
        report.run(facts, diagnosis, helps)
    return diagnosis.status
