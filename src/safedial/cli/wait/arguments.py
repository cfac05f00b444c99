"""``safedial wait``: arguments and exit status."""

import argparse
import contextlib
import functools
import signal
import time
from typing import TYPE_CHECKING, Any

from safedial.cli.wait import mistakes, values
from safedial.cli.wait.progress import Progress
from safedial.cli.wait.targets import request

if TYPE_CHECKING:
    from collections.abc import Callable

    from safedial.cli.wait.progress import Outcome
    from safedial.cli.wait.run import Look

_DESCRIPTION = """\
Wait until each TARGET accepts connections, and then run COMMAND in the place
of this process. A connection to itself is never taken for a server.

a TARGET is one of:
  db:5432  [::1]:8080           host and port
  :8080                         a port of localhost; for --gone, of this host
  postgresql://user:pw@db/app   a URL, of which only host and port count
  https://web/health            an HTTP URL; its path and query are sent, but
                                no login; the answer must be 2xx or 3xx
  unix:/run/app.sock            a Unix socket
  '$DATABASE_URL'               a variable that has one of these
"""
_EPILOG = """\
A DURATION is in seconds, or has a unit: 60, 500ms, 1.5s, 2m, 1h.

exit status:
  0    ready; if there is a COMMAND, its own status
  1    waiting does not help: a permanent error
  2    the arguments are wrong
  124  timed out
  126  COMMAND can't be executed
  127  COMMAND is not found
  129  ended by SIGHUP (its terminal was closed)
  130  ended by SIGINT (Ctrl-C)
  143  ended by SIGTERM

examples:
  safedial wait db:5432 cache:6379 -- gunicorn app:app
  safedial wait '$DATABASE_URL' --stays 1s --timeout 2m -- ./start.sh
  safedial wait https://web/health --status 200 && ./smoke-test.sh
  safedial wait :8080 --gone -- ./server --port 8080
"""


def add(commands: "argparse._SubParsersAction[Any]") -> None:  # pyright: ignore[reportPrivateUsage]  # it has no other
    """Add the command to *commands*."""
    wait = commands.add_parser(
        "wait",
        help="wait until servers are ready, and then run a command",
        usage="safedial wait TARGET [TARGET ...] [options] [-- COMMAND [ARG ...]]",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        add_help=False,
        allow_abbrev=False,  # an option that comes later must not change what an abbreviation means
    )
    # Not "+": targets may stand before and after options, and argparse takes one group of them.
    wait.add_argument("targets", nargs="*", help=argparse.SUPPRESS)
    group = wait.add_argument_group("how long")
    group.add_argument(
        "--timeout",
        type=values.duration,
        default=60.0,
        metavar="DURATION",
        help="for all targets together (default: 60s; 0: no end)",
    )
    group.add_argument("--any", action="store_true", help="one TARGET that is ready is enough")
    group = wait.add_argument_group("what is ready (each holds for every TARGET)")
    group.add_argument(
        "--stays",
        type=values.duration,
        metavar="DURATION",
        help="the connection stays open for so long: a forwarder, such as Docker's, may accept before its server is "
        "up, and close it again",
    )
    group.add_argument("--tls", action="store_true", help="the TLS handshake succeeds")
    group.add_argument(
        "--ca", type=values.given, metavar="FILE", help="with TLS: trust the certificates in FILE, and no others"
    )
    group.add_argument("--insecure", action="store_true", help="with TLS: do not check the certificate")
    group.add_argument(
        "--http", type=values.given, metavar="PATH", help="GET PATH is answered with a status of 2xx or 3xx"
    )
    group.add_argument(
        "--status",
        type=values.statuses,
        metavar="CODES",
        help="with HTTP: the statuses that count, such as 200,204 or 2xx",
    )
    group.add_argument(
        "--expect",
        type=values.given,
        metavar="TEXT",
        help='the server sends TEXT: in its greeting, such as "SSH-2.0", or its HTTP answer',
    )
    group.add_argument("--gone", action="store_true", help="the reverse: no server, and one could bind the port")
    group = wait.add_argument_group("what is printed")
    group.add_argument("--quiet", action="store_true", help="nothing, unless the wait fails")
    group.add_argument("--json", action="store_true", help="also the result as a JSON object, on stdout")
    group.add_argument("--help", action="help", help="print this help")
    wait.set_defaults(run=_run, parser=wait, command=())


def _run(namespace: argparse.Namespace) -> int:
    targets = mistakes.parse_targets(namespace)
    mistakes.refuse_contradictions(namespace, targets)
    # Each as late as can be: in a container somebody waits for every import.
    from safedial.cli.wait import command, run, show, signals

    look, any_of, timeout = _look(namespace), namespace.any, namespace.timeout or None
    progresses = [Progress(target, gone=namespace.gone) for target in targets]
    quiet: contextlib.AbstractContextManager[Callable[[Progress], object]] = contextlib.nullcontext(lambda _: None)
    began = time.monotonic()
    with signals.noted() as noted:
        with quiet if namespace.quiet else show.showing(progresses, any_of=any_of, timeout=timeout) as changed:
            outcome = run.wait(progresses, look, any_of=any_of, timeout=timeout, changed=changed, noted=noted)
        after = time.monotonic() - began
        if outcome != "ready":
            from safedial.cli.wait import refused

            refused.explain(progresses)
        if namespace.json:
            from safedial.cli.wait import as_json

            show.result(as_json.as_json(progresses, outcome, _status(outcome), after))
    outcome = noted.first or outcome  # COMMAND must not run after a signal, however late it came
    if outcome != "ready":
        show.failure(progresses, outcome, after)
        return _status(outcome)
    return command.run(namespace.command[1:]) if namespace.command else 0


def _look(namespace: argparse.Namespace) -> "Look":
    """Return what looks at a target, as the options say."""
    if namespace.gone:
        from safedial.cli.wait import gone

        return gone.look
    from safedial.cli.wait import probe

    asked = probe.Asked(
        tls=namespace.tls,
        insecure=namespace.insecure,
        ca=namespace.ca,
        http=None if namespace.http is None else request(namespace.http),
        statuses=namespace.status or probe.SUCCESS,
        expect=namespace.expect,
        stays=namespace.stays or 0.0,
    )
    if asked.ca is not None:
        try:
            probe.context(insecure=False, ca=asked.ca)
        except ValueError as error:
            namespace.parser.error(f"--ca {error}")
    return functools.partial(probe.probe, asked=asked)


def _status(outcome: "Outcome") -> int:
    if isinstance(outcome, signal.Signals):
        return 128 + outcome  # as a shell's
    return {"ready": 0, "timed out": 124, "failed": 1}[outcome]  # 124 is timeout(1)'s
