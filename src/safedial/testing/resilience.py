"""Is a client resilient? Its factory is called under each fault, and a table says what happened."""

import contextlib
import errno
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from safedial._address import seconds, shown
from safedial.testing.fault import Fault, Means
from safedial.testing.faults import address_not_available, ports_exhausted, self_connect
from safedial.testing.outage import Outage
from safedial.testing.ports import dead_port, refused_port
from safedial.testing.run import Factory, error_chain, run_client
from safedial.testing.servers import Server, echo


@dataclass(frozen=True, slots=True)
class Finding:
    """What one fault did to a client.

    Attributes:
        fault: the fault's name.
        problems: what is wrong, in words; empty if nothing is.
        happened: what the client did, in words.
        means: how the fault was made, as in `Fault`; None if a server or a held port was enough.
    """

    fault: str
    problems: tuple[str, ...]
    happened: str
    means: Means | None = None


# For each fault: the errno that the client's error must have, and why the client can't connect; empty if it can.
_EXPECTED = {
    "self_connect": (errno.ECONNREFUSED, "nobody listens"),
    "refused_port": (errno.ECONNREFUSED, "nobody listens"),
    "address_not_available": (errno.EADDRNOTAVAIL, ""),
    "ports_exhausted": (errno.EADDRNOTAVAIL, "no local port was free"),
    "outage": (errno.ECONNREFUSED, ""),
    "frozen": (errno.ETIMEDOUT, "nothing answers"),
}

FAULTS = tuple(_EXPECTED)


def assert_resilient(
    connect: Factory,
    *,
    faults: Iterable[str] = FAULTS,
    server: Server = echo,
    host: str = "127.0.0.1",
    within: float = 5.0,
) -> list[Finding]:
    """Call a client factory under each fault. Return what happened, or fail if the client does not cope with all.

    Args:
        connect: called as ``connect(host, port)``, in a thread. It returns a connection, which is then closed, or a
            coroutine that returns one and is run in an event loop of its own.
        faults: some of the names in `FAULTS`. ``self_connect``: nobody listens, and the kernel connects the client to
            itself. ``refused_port``: nobody listens. ``outage``: three attempts are refused, then the server is back.
            ``address_not_available``: the first connect finds no local port. ``ports_exhausted``: no connect finds
            one. ``frozen``: the server's backlog is full. Default: all.
        server: the server, as for `Outage`. Default: an echo, for clients without a handshake.
        host: the numeric address to dial. Default: 127.0.0.1.
        within: seconds that each call may take, with the client's own retries and waits. Give the client shorter
            timeouts. Default: 5.

    Raises:
        AssertionError: the client connected to itself, hung, left a socket open, kept the server from binding, or
            raised an error that does not come from the kernel's (``__cause__`` and ``__context__`` are searched too).
            The message is a table.
        TypeError, ValueError: an argument is wrong; the message names it.
    """
    if not callable(connect):
        raise TypeError(f"connect must be callable, not {shown(connect)}")
    names = list(faults) if isinstance(faults, Iterable) else []
    if isinstance(faults, str) or not names or any(name not in FAULTS for name in names):
        kind = ValueError if isinstance(faults, Iterable) else TypeError
        raise kind(f"faults must be some of {', '.join(FAULTS)}, not {faults!r}")
    if not seconds("within", within):
        raise ValueError("within must be more than 0 seconds: every client takes some time")
    findings = [_finding(name, connect, server, host, within) for name in names]
    if any(finding.problems for finding in findings):
        raise AssertionError(f"the client is not resilient\n{_table(findings)}")
    return findings


def _finding(name: str, factory: Factory, server: Server, host: str, within: float) -> Finding:
    code, obstacle = _EXPECTED[name]
    outage = Outage(server, host=host, port=dead_port(host) if name == "self_connect" else None, within=within)
    with contextlib.ExitStack() as stack:
        port, fault = _begin(name, outage, stack)
        outcome = run_client(factory, host, port, within)
    problems: list[str] = []
    if outcome.returned and obstacle:
        problems.append(f"the client returned, although {obstacle}")
    if not (outcome.returned or outcome.hung or _reports(code, outcome.error)):
        says = "is not a timeout" if code == errno.ETIMEDOUT else f"does not say {errno.errorcode[code]}"
        problems.append(f"the error {says}")
    if fault is not None and not fault.triggered:
        causes = "the client dials in C, or not at all, or from a port that it chose itself"
        problems.append(f"the fault was not triggered: {causes}")
    if name == "self_connect":
        problems += _bind_problems(outage)
    if not outcome.dialed:
        problems.append("no Python connect() was seen: the client did not dial, or dials in C")
    if outcome.hung:
        problems.append(f"the client hung: no end after {within:g} s")
    if outcome.self_connected:
        problems.append("the client was connected to itself")
    if outcome.leaked:
        problems.append(f"sockets left open: {outcome.leaked}")
    happened = "hung" if outcome.hung else "returned" if outcome.returned else _words(outcome.error)
    means = None if fault is None else fault.means
    return Finding(name, tuple(_one_line(problem) for problem in problems), _one_line(happened), means)


def _begin(name: str, outage: Outage, stack: contextlib.ExitStack) -> tuple[int, Fault | None]:
    """Begin the fault *name*, which ends with *stack*. Return the port to dial, and the `Fault` if a connect fails."""
    if name == "self_connect":
        return outage.port, stack.enter_context(self_connect(outage.port, unused="ignore"))
    if name == "refused_port":
        return stack.enter_context(refused_port(outage.host)), None
    stack.enter_context(outage)
    if name == "address_not_available":
        return outage.port, stack.enter_context(address_not_available(outage.port, unused="ignore"))
    if name == "ports_exhausted":
        return outage.port, stack.enter_context(ports_exhausted(outage.port, unused="ignore"))
    if name == "outage":
        outage.refuse_for(3, unused="ignore")  # the table says it
    else:
        outage.freeze()
    return outage.port, None


def _reports(code: int, error: BaseException | None) -> bool:
    """Return whether *error*, or an exception that it comes from, has the errno *code*. Timeouts often have none."""
    for each in error_chain(error):
        timed_out = isinstance(each, TimeoutError) or "Timeout" in type(each).__name__
        if getattr(each, "errno", None) == code or (timed_out and code == errno.ETIMEDOUT):
            return True
    return False


def _bind_problems(outage: Outage) -> list[str]:
    try:
        start = outage.start()
    except OSError as error:
        # The notes say who holds the port.
        return ["; ".join([f"the server could not bind: {error}", *getattr(error, "__notes__", ())])]
    outage.kill()
    return [f"the server could not bind at once: {', '.join(start.holders)}"] if start.binds > 1 else []


def _words(error: BaseException | None) -> str:
    try:
        return f"{type(error).__name__}: {error}"
    except Exception:  # its own __str__ fails
        return type(error).__name__


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _table(findings: Sequence[Finding]) -> str:
    width = max(len(finding.fault) for finding in findings)
    rows: list[str] = []
    for finding in findings:
        by = f" (by {finding.means})" if finding.means else ""
        rows.append(f"  {finding.fault:{width}}  {'FAILED' if finding.problems else 'ok    '}  {finding.happened}{by}")
        rows += [f"  {'':{width}}          - {problem}" for problem in finding.problems]
    return "\n".join(rows)
