"""Is a client resilient? Its factory, run through the faults, and a table of what happened."""

import errno
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from safedial._address import seconds, shown
from safedial.testing.faults import Fault, Means, address_not_available, ports_exhausted, self_connect
from safedial.testing.outage import Outage
from safedial.testing.ports import dead_port, refused_port
from safedial.testing.servers import Handler, echo
from safedial.testing.trial import Factory, Trial, attempt, chain

_Scenario: TypeAlias = Callable[["_Case"], "_Result"]


@dataclass(frozen=True, slots=True)
class Finding:
    """What one fault did to a client.

    Attributes:
        fault: its name.
        problems: what is wrong, in words; empty where nothing is.
        happened: what the client did, in words.
        means: how the fault was made, as in `Fault`; None where it took no more than a server.
    """

    fault: str
    problems: tuple[str, ...]
    happened: str
    means: Means | None = None


@dataclass(frozen=True, slots=True)
class _Result:
    """What came of one fault: the client's trial, what is wrong with it, how the fault was made."""

    trial: Trial
    problems: list[str]
    means: Means | None = None


@dataclass(frozen=True, slots=True)
class _Case:
    """A client on trial, and what it dials."""

    factory: Factory
    server: Handler | Sequence[str]
    host: str
    within: float

    def attempt(self, port: int) -> Trial:
        return attempt(self.factory, self.host, port, self.within)

    def outage(self, port: int | None = None) -> Outage:
        return Outage(self.server, host=self.host, port=port, within=self.within)


def _self_connect(case: _Case) -> "_Result":
    port = dead_port(case.host)
    with self_connect(port) as fault:
        trial = case.attempt(port)
        problems = _refused(trial) + _reached(fault)
    try:
        with case.outage(port) as server:
            if server.started is not None and server.started.binds > 1:
                problems.append(f"the server could not bind at once: {', '.join(server.started.holders)}")
    except OSError as error:
        # Who holds the port is in the notes.
        problems.append("; ".join([f"the server could not bind: {error}", *getattr(error, "__notes__", ())]))
    return _Result(trial, problems, fault.means)


def _refused_port(case: _Case) -> "_Result":
    with refused_port(case.host) as port:
        trial = case.attempt(port)
    return _Result(trial, _refused(trial))


def _address_not_available(case: _Case) -> "_Result":
    with case.outage() as server, address_not_available(server.port) as fault:
        trial = case.attempt(server.port)
    problems = _reached(fault) + ([] if trial.returned else _raised(trial, errno.EADDRNOTAVAIL))
    return _Result(trial, problems, fault.means)


def _ports_exhausted(case: _Case) -> "_Result":
    with case.outage() as server, ports_exhausted(server.port) as fault:
        trial = case.attempt(server.port)
    return _Result(trial, _reached(fault) + _raised(trial, errno.EADDRNOTAVAIL), fault.means)


def _outage(case: _Case) -> "_Result":
    with case.outage() as server:
        server.refuse_for(dials=3)
        trial = case.attempt(server.port)
    return _Result(trial, [] if trial.returned else _raised(trial, errno.ECONNREFUSED))


def _frozen(case: _Case) -> "_Result":
    with case.outage() as server:
        server.freeze()
        trial = case.attempt(server.port)
    if trial.returned:
        return _Result(trial, ["it returned, though nothing answers"])
    said = trial.hung or _timed_out(trial.error)
    return _Result(trial, [] if said else ["its error does not say that it timed out"])


_SCENARIOS: dict[str, _Scenario] = {
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
    """Run a client factory through faults, and fail with a table where it does not stand them.

    Args:
        connect: called as ``connect(host, port)``, in a thread; returns a connection, or a coroutine
            that does, which is run in an event loop of its own. What it returns is closed.
        faults: the names of some of `FAULTS`. ``self_connect``: nobody listens, and the kernel
            connects the client to itself. ``refused_port``: nobody listens. ``outage``: nobody
            listens for three dials. ``address_not_available``: the first connect finds no local
            port. ``ports_exhausted``: none does. ``frozen``: the server's backlog is full.
            Default: all.
        server: what serves, as for `Outage`. Default: an echo, for clients without a handshake.
        host: the numeric address to dial. Default: 127.0.0.1.
        within: seconds that each call may take, its own retries and waits included; give the client
            timeouts that are shorter. Default: 5.

    Returns:
        What happened, fault by fault.

    Raises:
        AssertionError: the client connected to itself, hung, left a socket open, raised another
            error than the kernel's (looked for on ``__cause__`` and ``__context__`` as well), or
            kept the server from binding. The message is a table.
        TypeError, ValueError: an argument is of no use; the message names it.
    """
    if not callable(connect):
        raise TypeError(f"connect must be callable, not {shown(connect)}")
    if not isinstance(faults, Iterable):
        raise TypeError(f"faults must be some of {', '.join(FAULTS)}, not {faults!r}")
    names = list(faults)
    if isinstance(faults, str) or not names or any(name not in FAULTS for name in names):
        raise ValueError(f"faults must be some of {', '.join(FAULTS)}, not {faults!r}")
    if not seconds("within", within):
        raise ValueError("within must be more than 0 seconds: no client ends in none")
    Outage(server, host=host)  # which checks them
    case = _Case(connect, server, host, within)
    findings = [_finding(name, case) for name in names]
    if any(finding.problems for finding in findings):
        raise AssertionError(f"the client is not resilient\n{_table(findings)}")
    return findings


def _finding(name: str, case: _Case) -> Finding:
    result = _SCENARIOS[name](case)
    trial, problems = result.trial, [" ".join(problem.split()) for problem in result.problems]
    if not trial.dialed:
        problems.append("no connect of its was seen: it does not dial, or in C, past the faults")
    if trial.hung:
        problems.append(f"it hung: no end after {case.within:g} s")
    if trial.to_itself:
        problems.append("it was connected to itself")
    if trial.leaked:
        problems.append(f"sockets left open: {trial.leaked}")
    happened = "no end" if trial.hung else "returned" if trial.returned else _words(trial.error)
    return Finding(name, tuple(problems), " ".join(happened.split()), result.means)


def _words(error: BaseException | None) -> str:
    try:
        return f"{type(error).__name__}: {error}"
    except Exception:  # its own __str__ fails
        return type(error).__name__


def _reached(fault: Fault) -> list[str]:
    return [] if fault.befell else ["the fault did not reach it: it dials in C, or not at all, or from a port it chose"]


def _refused(trial: Trial) -> list[str]:
    return ["it returned, though nobody listens"] if trial.returned else _raised(trial, errno.ECONNREFUSED)


def _raised(trial: Trial, code: int) -> list[str]:
    """Return what is wrong where *trial* should have ended with the errno *code*."""
    if trial.hung:
        return []  # which is said already
    if trial.returned:
        return ["it returned, though it can't have connected"]
    if code in _errnos(trial.error):
        return []
    return [f"its error does not say {errno.errorcode[code]}"]


def _timed_out(error: BaseException | None) -> bool:
    return any(isinstance(each, TimeoutError) or "Timeout" in type(each).__name__ for each in chain(error))


def _errnos(error: BaseException | None) -> set[int | None]:
    return {getattr(each, "errno", None) for each in chain(error)}


def _table(findings: Sequence[Finding]) -> str:
    width = max(len(finding.fault) for finding in findings)
    rows: list[str] = []
    for finding in findings:
        by = f" (by {finding.means})" if finding.means else ""
        rows.append(f"  {finding.fault:{width}}  {'FAILED' if finding.problems else 'ok    '}  {finding.happened}{by}")
        rows += [f"  {'':{width}}          - {problem}" for problem in finding.problems]
    return "\n".join(rows)
