"""The sentences of the wait: what is waited for, the last error of each target, and what to do about it.

Pure functions. Each fact has a line of its own that begins with the target, so that grep finds it. Errors are in a few
words, without secrets and control characters.
"""

import os
import re
import signal
import socket
import ssl
from collections.abc import Sequence

from safedial._address import printable
from safedial._retry.transient import error_type
from safedial._sentences import one_line
from safedial.cli.wait.progress import NotReady, Outcome, Progress
from safedial.cli.wait.targets import Target
from safedial.errors import PortsExhaustedError, SelfConnectError

# An error is cut after so many characters: it may have what a server sent.
_LONGEST = 200
_LOCAL = re.compile(r"localhost\.?|127\..*|::1")
# Of x509_vfy.h: what is wrong with a certificate that --ca does not mend.
_WRONG_TIME, _WRONG_NAME = (9, 10), (62, 63, 64)

BEHIND = "A forwarder, such as docker's, or a proxy accepts, but the server behind it is not up: see the server's log."
_ROUTE = "There is no route to this host: is the network up, and are both hosts on it?"
_SILENT = "The host is down, or a firewall or network policy drops the packets."
# By OpenTelemetry's error.type, as `safedial._retry.kinds` has it. A NotReady may have a hint of its own.
_HINTS = {
    "timed_out": _SILENT,
    "host_unreachable": _ROUTE,
    "network_unreachable": _ROUTE,
    "connection_reset": BEHIND,
    "connection_closed": BEHIND,
    "connection_aborted": BEHIND,
    "broken_pipe": BEHIND,
    "too_many_open_files": "This process may open more files with a higher ulimit -n.",
    "address_not_available": "This host has no address of that kind: is IPv6 switched off?",
}


def opening(targets: Sequence[Progress], *, any_of: bool, timeout: float | None) -> str:
    """Say what is waited for, and how long."""
    names = ", ".join(each.target.name for each in targets)
    which = f"one of {names}" if any_of and len(targets) > 1 else names
    what = f"Waiting until a server can bind {which}" if targets[0].gone else f"Waiting for {which}"
    return f"{what}, {'without a time limit' if timeout is None else f'for at most {_seconds(timeout)}'}."


def state(progress: Progress) -> str:
    """Say how far the wait for one target is."""
    wanted = "free" if progress.gone else "ready"
    name, error = progress.target.name, progress.error
    if progress.state == "ready":
        return f"{name}: {wanted} after {_seconds(progress.ready_after or 0.0)}"
    if progress.state == "not needed":
        return f"{name}: not needed"
    what = "failed" if progress.state == "failed" else f"not {wanted} yet" if error else "waiting"
    return f"{name}: {what}" + (f": {said(error)}" if error else "")


def failure(targets: Sequence[Progress], ended: Outcome, *, after: float) -> tuple[str, ...]:
    """Say how a wait *ended* that failed, *after* so many seconds: a line each.

    Lines follow for each target that is not ready: its last error, and a hint.
    """
    how = f"Ended by {ended.name}" if isinstance(ended, signal.Signals) else ended.capitalize()
    lines = [f"{how} after {_seconds(after)}{': waiting does not help' if ended == 'failed' else ''}."]
    for each in targets:
        if each.error and each.state in ("waiting", "failed"):
            name = each.target.name
            what = "failed" if each.state == "failed" else "not free" if each.gone else "not ready"
            rounds = f" ({each.rounds} {'round' if each.rounds == 1 else 'rounds'})" if each.rounds else ""
            lines.append(f"{name}: {what}: {said(each.error)}{rounds}")
            if help_ := hint(each):
                lines.append(f"{name}: hint: {help_}")
    return tuple(lines)


def said(error: Exception) -> str:
    """Return *error* in a few words."""
    if isinstance(error, SelfConnectError):
        return "Connection refused (the kernel connected the socket to itself; it was released)"
    if isinstance(error, PortsExhaustedError):
        return "no local port is free to reach it"
    text = getattr(error, "strerror", None) or one_line(error)
    if type(error).__module__ == "builtins" and isinstance(error, OSError) and error.errno:
        text = os.strerror(error.errno)  # asyncio has words of its own: "Connect call failed ('127.0.0.1', 5432)"
    if isinstance(error, TimeoutError) and not str(error):  # asyncio's
        text = "timed out"
    elif isinstance(error, socket.gaierror):
        text = f"the name does not resolve: {text}"
    elif isinstance(error, ssl.SSLCertVerificationError):
        text = f"its certificate is not accepted: {error.verify_message}"
    elif isinstance(error, ssl.SSLError) and error.reason:
        text = f"TLS failed: {error.reason.replace('_', ' ').lower()}"
    text = printable(" ".join(str(text).split()))
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."


def hint(progress: Progress) -> str:
    """Return what may be wrong, or what to look at, in one sentence; empty if nothing is known, or nothing is wrong."""
    target, error = progress.target, progress.error
    if error is None or progress.state not in ("waiting", "failed"):
        return ""
    if isinstance(error, NotReady) and error.hint:
        return error.hint
    kind = error_type(error)
    if isinstance(error, PortsExhaustedError):
        return f"To see what uses the local ports up: safedial doctor {target.port}"
    if kind == "address_in_use":
        return f"To see who has the port, and how to free it: safedial doctor {target.port}"
    if kind == "self_connect":
        return f"Nobody listens there, and the kernel may draw this port: safedial doctor {target.port}"
    if kind == "connection_refused":
        return _refused(target)
    if kind == "timed_out" and _LOCAL.fullmatch(target.host):
        return "The server does not accept connections, and its backlog is full: it is busy, or it hangs."
    if kind == "name_resolution_error":
        return (
            f"Is the name right, and its server up and on the same network? To look it up: getent hosts {target.host}"
        )
    if isinstance(error, ssl.SSLError) and re.search("ALERT|UNSUPPORTED_PROTOCOL", error.reason or ""):
        return (
            "It speaks TLS, but in another version, or with a certificate of the client, which safedial does not have."
        )
    if kind == "tls_error":
        return hint_for_tls(target)
    if kind == "certificate_error":
        return _certificate(error, target)
    if kind == "permission_denied" and progress.gone:
        return f"Only root may bind ports such as {target.port}: net.ipv4.ip_unprivileged_port_start"
    if kind == "permission_denied":
        return "A firewall, a sandbox or a policy of this host forbids the connection."
    return _HINTS.get(kind, "")


def hint_for_tls(target: Target) -> str:
    """Return the hint for a handshake that failed."""
    if target.tls:
        without = "If not, write a URL without TLS, such as http:// or redis://"
    else:
        without = "PostgreSQL and MySQL do not: leave --tls out, which holds for every TARGET."
    return f"Does it speak TLS on this port from the first byte on? {without}"


def hint_for_status(status: int) -> str:
    """Return the hint for an HTTP *status* that is not enough."""
    if status in (401, 403):
        return f"The server is up, and wants a login, which safedial never sends: is --status {status} enough?"
    if status == 404:
        return "The server is up, but has no such path."
    if status >= 500:
        return "The server is up, and says that it is not ready: see its log."
    return f"The server is up. If that answer is enough: --status {status}"


def _refused(target: Target) -> str:
    if target.path:
        return "A file is there, but no server listens on it: it may be left over from one that has ended."
    if _LOCAL.fullmatch(target.host):
        return "Nobody listens on that port. In a container, localhost is the container itself: give the server's name."
    return "The host is up, but nobody listens on that port: has the server started, and not only on its localhost?"


def _certificate(error: Exception, target: Target) -> str:
    code = getattr(error, "verify_code", None)
    if code in _WRONG_NAME:
        name = target.host or "localhost"
        return f"The certificate is for other names than {name}: wait for one of these, or --insecure"
    if code in _WRONG_TIME:
        return "The certificate is not valid now: renew it, or set the clock. To wait without checking it: --insecure"
    return "If an authority of your own has signed it: --ca FILE. To wait without checking it: --insecure"


def _seconds(number: float) -> str:
    """Return *number* of seconds as a person reads it: one decimal, if there is one."""
    return f"{round(number, 1):g} s" if number < 1e6 else f"{number:.0f} s"
