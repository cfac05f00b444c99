"""Is a client resilient? Its factory is called under each fault, and a table says what happened."""

import contextlib
import errno
import re
import socket
import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NoReturn

from safedial._address import seconds, shown
from safedial.testing.fault import Means
from safedial.testing.ports import check_whole
from safedial.testing.raised import error_chain
from safedial.testing.run import Factory, Outcome, run_client
from safedial.testing.scenarios import SCENARIOS, UNSEEN, Setting, counted
from safedial.testing.servers import Server, echo

# A failure shows the user's line, and not these frames: by pytest's convention, and by unittest's (unittest.result).
__tracebackhide__ = __unittest = True

# Columns of the table: pytest puts 12 before it. Lines of one cell: errors may have a page of text.
_WIDTH, _MOST_LINES = 68, 5
# Names of exceptions: httpx's ConnectTimeout, trio's TooSlowError, google.api_core's DeadlineExceeded. Not of base
# classes: urllib3's NewConnectionError, which it raises if the dial is refused, is a ConnectTimeoutError.
_TIMEOUT = re.compile("timed?_?out|too_?slow|deadline_?exceeded", re.IGNORECASE)


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


FAULTS = tuple(SCENARIOS)


def assert_resilient(
    connect: Factory,
    *,
    faults: Iterable[str] = FAULTS,
    server: Server = echo,
    host: str = "127.0.0.1",
    within: float = 5.0,
    dials_per_second: int = 20,
) -> list[Finding]:
    """Call a client factory under each fault. Return what happened, or fail if the client does not cope with all.

    Args:
        connect: called as ``connect(host, port)``, in a thread. It returns a connection, which is then closed, or a
            coroutine that returns one and is run in an asyncio event loop of its own.
        faults: some of the names in `FAULTS`. ``self_connect``: nobody listens, and the kernel connects the client to
            itself. ``refused_port``: nobody listens. ``outage``: three attempts are refused, then the server is back.
            ``hangs_up``: the server accepts and hangs up, for a second after the first dial, then serves.
            ``address_not_available``: the first connect finds no local port. ``ports_exhausted``: no connect finds
            one. ``frozen``: the server's backlog is full. ``name_failure``: *host* is a name, of which two look-ups
            fail with EAI_AGAIN. Default: all.
        server: the server, as for `Outage`. Default: an echo, for clients without a handshake.
        host: the numeric address to dial. Default: 127.0.0.1.
        within: seconds that each call may take, with the client's own retries and waits. Give the client shorter
            timeouts. A client that takes longer is ended: see below. Default: 5.
        dials_per_second: how many dials ``hangs_up`` lets pass within any one second. `reconnect` makes 6, a loop
            without a wait thousands. Default: 20.

    A client that takes too long is ended by an exception that is raised in its thread or task. If its thread sleeps by
    itself, or waits for another one, that comes only afterwards.

    Raises:
        AssertionError: the client connected to itself or sent bytes to itself, hung, went on retrying for too long,
            dialed too often, left a socket open, kept the server from binding, or raised an error that does not come
            from the kernel's (``__cause__`` and ``__context__`` are searched too; after ``hangs_up`` any error will
            do). The message is a table. What was sent to itself on a connection that is closed again is seen on Linux
            alone.
        Exception: the client's own, with its traceback, if it raised one before it dialed, and no OSError caused it:
            a mistake of its code, or a client that dials in C, which is not seen.
        TypeError, ValueError: an argument is wrong; the message names it.
        OSError: the server did not come up.
    """
    try:
        names, setting = _checked(connect, faults, server, host, within, dials_per_second)
    except (TypeError, ValueError) as error:
        raise error.with_traceback(None)  # noqa: B904  # it is the same exception
    try:
        findings = [_finding(name, connect, setting) for name in names]
    except OSError as error:  # the server did not come up
        raise error.with_traceback(None)  # noqa: B904  # as above
    if any(finding.problems for finding in findings):
        raise AssertionError(f"the client is not resilient\n{_table(findings)}")
    return findings


def _checked(
    connect: object, faults: Iterable[str], server: Server, host: str, within: float, dials_per_second: int
) -> tuple[list[str], Setting]:
    if not callable(connect):
        raise TypeError(f"connect must be callable, not {shown(connect)}")
    known = ", ".join(FAULTS)
    if isinstance(faults, str) or not isinstance(faults, Iterable):
        raise TypeError(f"faults must be a list of names, not {faults!r}: some of {known}")
    names = list(faults)
    if not names:
        raise ValueError(f"faults is empty; it must have some of {known}")
    for name in names:
        if name not in FAULTS:
            raise ValueError(f"faults: there is no {name!r}, only {known}")
    if not seconds("within", within):
        raise ValueError("within must be more than 0 seconds: every client takes some time")
    check_whole("dials_per_second", dials_per_second)
    setting = Setting(server, host, within, dials_per_second)
    setting.outage()  # checks the rest
    return names, setting


def _finding(name: str, factory: Factory, setting: Setting) -> Finding:
    scenario, within = SCENARIOS[name], setting.within
    with contextlib.ExitStack() as stack:
        begun = scenario.begin(setting, stack)
        outcome = run_client(factory, begun.host, begun.port, within)
        more = begun.problems()
    unseen = not outcome.dials and (begun.fault is None or begun.missed)
    reported = outcome.error is not None and _reports(scenario.code, outcome.error)
    if outcome.error is not None and outcome.own_mistake and unseen and (scenario.code is None or not reported):
        _raise(outcome.error, name)
    problems = ["the client was connected to itself"] if outcome.self_connected else []
    if unseen:
        problems.append(begun.unseen)
    elif begun.missed:
        problems.append("the fault was not triggered: the client dials from a port it chose")
    if outcome.returned and scenario.obstacle and not unseen:
        problems.append(f"the client returned, although {scenario.obstacle}")
    if outcome.error is not None and not reported and not unseen:
        where = f", raised at {outcome.raised_at}" if outcome.raised_at else ""
        problems.append(f"the error {_missing(scenario.code)}{where}")
    if outcome.hung or outcome.retrying:
        problems.append(f"{'the client hung: ' * outcome.hung}no end within {within:g} s{_why_no_end(outcome)}")
    problems += more
    if outcome.leaked:
        problems.append(f"sockets left open: {outcome.leaked}")
    means = None if begun.fault is None else begun.fault.means
    return Finding(name, tuple(map(_one_line, problems)), _one_line(_happened(outcome)), means)


def _raise(error: BaseException, scenario: str) -> NoReturn:
    """Raise a client's own mistake, with its traceback: a table would say less."""
    with contextlib.suppress(Exception):  # a frozen dataclass
        error.add_note(
            f"safedial: raised in assert_resilient's scenario {scenario!r}, before a dial was seen: {UNSEEN}"
        )
    raise error


def _why_no_end(outcome: Outcome) -> str:
    if outcome.clock_stood:
        return ": the clock of the test is frozen, so that no time limit of the client's ends"
    if outcome.retrying:
        return ": give the client fewer retries, or assert_resilient a longer within"
    if outcome.dialing or not outcome.dials:  # it may dial in C
        return ""
    return "; no dial is under way, so it sleeps, or waits for something else"


def _happened(outcome: Outcome) -> str:
    if outcome.hung:
        return "hung"
    if outcome.retrying:
        last = "" if outcome.last_wait is None else f", last wait {outcome.last_wait:.2g} s"
        return f"still retrying: {counted(outcome.dials, 'dial')}{last}"
    return "returned" if outcome.returned else _words(outcome.error)


def _missing(code: int | None) -> str:
    if code == errno.ETIMEDOUT:
        return "is not a timeout"
    return f"does not say {'EAI_AGAIN' if code == socket.EAI_AGAIN else errno.errorcode[code or 0]}"


def _reports(code: int | None, error: BaseException | None) -> bool:
    """Return whether *error*, or an exception that it comes from, has the errno *code*, at least in words.

    Timeouts often have none.
    """
    for each in error_chain(error):
        timed_out = isinstance(each, TimeoutError) or _TIMEOUT.search(type(each).__name__)
        in_words = f"[Errno {code}]" in _words(each)  # psycopg; asyncio's "Multiple exceptions"
        if code in (None, getattr(each, "errno", None)) or in_words or (timed_out and code == errno.ETIMEDOUT):
            return True
    return False


def _words(error: BaseException | None) -> str:
    try:
        return f"{type(error).__name__}: {error}"
    except Exception:  # its own __str__ fails
        return type(error).__name__


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _table(findings: Sequence[Finding]) -> str:
    width = max(len(finding.fault) for finding in findings)
    lines: list[str] = []
    for finding in findings:
        head = f"  {finding.fault:{width}}  {'FAILED' if finding.problems else 'ok    '}  "
        # Of an error that is right, its class is enough.
        happened = finding.happened if finding.problems else finding.happened.partition(":")[0]
        lines += _wrapped(happened, head, " " * len(head))
        for problem in finding.problems:
            lines += _wrapped(problem, "    - ", "      ")
    return "\n".join(lines)


def _wrapped(text: str, head: str, below: str) -> list[str]:
    lines = textwrap.wrap(
        text, _WIDTH, initial_indent=head, subsequent_indent=below, break_on_hyphens=False, break_long_words=False
    )
    if len(lines) > _MOST_LINES:
        lines[2 : 3 - _MOST_LINES] = [f"{below}..."]  # the reason often comes last
    return lines
