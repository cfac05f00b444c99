"""Is a client resilient? Its factory is called under each fault, and a table says what happened."""

import errno
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from safedial._address import seconds, shown
from safedial.testing.faults import Fault, Means, address_not_available, ports_exhausted, self_connect
from safedial.testing.outage import Outage
from safedial.testing.ports import dead_port, refused_port
from safedial.testing.run import Factory, Outcome, error_chain, run_client
from safedial.testing.servers import Handler, echo


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


# The client's outcome, the problems that only this fault can show, and how the fault was made.
_Result: TypeAlias = tuple[Outcome, list[str], Means | None]


@dataclass(frozen=True, slots=True)
class _Client:
    """A client under test."""

    factory: Factory
    server: Handler | Sequence[str]
    host: str
    within: float

    def run(self, port: int) -> Outcome:
        return run_client(self.factory, self.host, port, self.within)

    def outage(self, port: int | None = None) -> Outage:
        return Outage(self.server, host=self.host, port=port, within=self.within)


def _self_connect(client: _Client) -> _Result:
    port = dead_port(client.host)
    with self_connect(port) as fault:
        outcome = client.run(port)
        problems = _must_be_refused(outcome) + _must_trigger(fault)
    try:
        with client.outage(port) as server:
            if server.started is not None and server.started.binds > 1:
                problems.append(f"the server could not bind at once: {', '.join(server.started.holders)}")
    except OSError as error:
        # The notes say who holds the port.
        problems.append("; ".join([f"the server could not bind: {error}", *getattr(error, "__notes__", ())]))
    return outcome, problems, fault.means


def _refused_port(client: _Client) -> _Result:
    with refused_port(client.host) as port:
        outcome = client.run(port)
    return outcome, _must_be_refused(outcome), None


def _address_not_available(client: _Client) -> _Result:
    with client.outage() as server, address_not_available(server.port) as fault:
        outcome = client.run(server.port)
    problems = [] if outcome.returned else _must_raise(errno.EADDRNOTAVAIL, outcome)
    return outcome, _must_trigger(fault) + problems, fault.means


def _ports_exhausted(client: _Client) -> _Result:
    with client.outage() as server, ports_exhausted(server.port) as fault:
        outcome = client.run(server.port)
    return outcome, _must_trigger(fault) + _must_raise(errno.EADDRNOTAVAIL, outcome), fault.means


def _outage(client: _Client) -> _Result:
    with client.outage() as server:
        server.refuse_for(dials=3)
        outcome = client.run(server.port)
    return outcome, [] if outcome.returned else _must_raise(errno.ECONNREFUSED, outcome), None


def _frozen(client: _Client) -> _Result:
    with client.outage() as server:
        server.freeze()
        outcome = client.run(server.port)
    if outcome.returned:
        return outcome, ["the client returned, although nothing answers"], None
    chain = error_chain(outcome.error)
    timed_out = any(isinstance(each, TimeoutError) or "Timeout" in type(each).__name__ for each in chain)
    return outcome, [] if outcome.hung or timed_out else ["the error is not a timeout"], None


_SCENARIOS: dict[str, Callable[[_Client], _Result]] = {
    "self_connect": _self_connect,
    "refused_port": _refused_port,
    "address_not_available": _address_not_available,
    "ports_exhausted": _ports_exhausted,
    "outage": _outage,
    "frozen": _frozen,
}

FAULTS = tuple(_SCENARIOS)


def assert_resilient(
    connect: Factory,
    *,
    faults: Iterable[str] = FAULTS,
    server: Handler | Sequence[str] = echo,
    host: str = "127.0.0.1",
    within: float = 5.0,
) -> list[Finding]:
    """Call a client factory under each fault, and fail with a table if the client does not cope with all.

    Args:
        connect: called as ``connect(host, port)``, in a thread. It returns a connection, which is then
            closed, or a coroutine that does, which is run in an event loop of its own.
        faults: some of the names in `FAULTS`. ``self_connect``: nobody listens, and the kernel
            connects the client to itself. ``refused_port``: nobody listens. ``outage``: three attempts
            are refused, then the server is back. ``address_not_available``: the first connect finds no
            local port. ``ports_exhausted``: no connect finds one. ``frozen``: the server's backlog is
            full. Default: all.
        server: the server, as for `Outage`. Default: an echo, for clients without a handshake.
        host: the numeric address to dial. Default: 127.0.0.1.
        within: seconds that each call may take, with the client's own retries and waits. Give the client
            shorter timeouts. Default: 5.

    Returns:
        What happened, fault by fault.

    Raises:
        AssertionError: the client connected to itself, hung, left a socket open, kept the server from
            binding, or raised an error that does not come from the kernel's (``__cause__`` and
            ``__context__`` are searched too). The message is a table.
        TypeError, ValueError: an argument is wrong; the message names it.
    """
    if not callable(connect):
        raise TypeError(f"connect must be callable, not {shown(connect)}")
    if not isinstance(faults, Iterable):
        raise TypeError(f"faults must be some of {', '.join(FAULTS)}, not {faults!r}")
    names = list(faults)
    if isinstance(faults, str) or not names or any(name not in FAULTS for name in names):
        raise ValueError(f"faults must be some of {', '.join(FAULTS)}, not {faults!r}")
    if not seconds("within", within):
        raise ValueError("within must be more than 0 seconds: every client takes some time")
    Outage(server, host=host)  # checks both
    client = _Client(connect, server, host, within)
    findings = [_finding(name, client) for name in names]
    if any(finding.problems for finding in findings):
        raise AssertionError(f"the client is not resilient\n{_table(findings)}")
    return findings


def _finding(name: str, client: _Client) -> Finding:
    outcome, problems, means = _SCENARIOS[name](client)
    if not outcome.dialed:
        problems.append("no Python connect() was seen: the client did not dial, or dials in C")
    if outcome.hung:
        problems.append(f"the client hung: no end after {client.within:g} s")
    if outcome.self_connected:
        problems.append("the client was connected to itself")
    if outcome.leaked:
        problems.append(f"sockets left open: {outcome.leaked}")
    happened = "hung" if outcome.hung else "returned" if outcome.returned else _words(outcome.error)
    return Finding(name, tuple(_one_line(problem) for problem in problems), _one_line(happened), means)


def _words(error: BaseException | None) -> str:
    try:
        return f"{type(error).__name__}: {error}"
    except Exception:  # its own __str__ fails
        return type(error).__name__


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _must_trigger(fault: Fault) -> list[str]:
    if fault.triggered:
        return []
    return ["the fault was not triggered: the client dials in C, or not at all, or from a port that it chose itself"]


def _must_be_refused(outcome: Outcome) -> list[str]:
    if outcome.returned:
        return ["the client returned, although nobody listens"]
    return _must_raise(errno.ECONNREFUSED, outcome)


def _must_raise(code: int, outcome: Outcome) -> list[str]:
    if outcome.hung:
        return []  # which is reported anyway
    if outcome.returned:
        return ["the client returned, although it can't have connected"]
    if any(getattr(each, "errno", None) == code for each in error_chain(outcome.error)):
        return []
    return [f"the error does not say {errno.errorcode[code]}"]


def _table(findings: Sequence[Finding]) -> str:
    width = max(len(finding.fault) for finding in findings)
    rows: list[str] = []
    for finding in findings:
        by = f" (by {finding.means})" if finding.means else ""
        rows.append(f"  {finding.fault:{width}}  {'FAILED' if finding.problems else 'ok    '}  {finding.happened}{by}")
        rows += [f"  {'':{width}}          - {problem}" for problem in finding.problems]
    return "\n".join(rows)
