"""The faults that `assert_resilient` knows: how each begins, and what is wrong with a client under it."""

import errno
import socket
import threading
from collections import deque
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

from safedial import _clock
from safedial._address import family_of
from safedial.testing.dials import Dials
from safedial.testing.fault import Fault
from safedial.testing.faults import address_not_available, ports_exhausted, self_connect
from safedial.testing.holders import holders
from safedial.testing.intercept import intercepting
from safedial.testing.names import name_failure, resolving
from safedial.testing.outage import Outage, Start
from safedial.testing.ports import dead_port, refused_port
from safedial.testing.sent import sent_to
from safedial.testing.servers import Server, hang_up

# As in `resilience`.
__tracebackhide__ = True
# Why no dial was seen.
UNSEEN = "the client did not dial, or dials in C, which assert_resilient does not see"
# How many look-ups fail.
_LOOK_UPS = 2
# Seconds for which a server hangs up.
_HANGS_UP = 1.0


class _Server(Outage):
    """A server that a client's dial may start: if it does not come up, the client is not to blame."""

    _start_error: BaseException | None = None

    def _come_up(self) -> Start:
        try:
            return super()._come_up()
        except BaseException as error:
            self._start_error = self._start_error or error
            raise

    def problems(self) -> list[str]:
        """Return no problem of the client's.

        Raises:
            OSError: it did not come up.
        """
        if isinstance(self._start_error, OSError):
            raise self._start_error
        if self._start_error is not None:  # the client was cancelled
            raise TimeoutError("the server had not come up again when the client's time was over")
        return []


class Setting(NamedTuple):
    """What `assert_resilient` was given."""

    server: Server
    host: str
    within: float
    dials_per_second: int

    def outage(self, server: Server | None = None, port: int | None = None) -> "_Server":
        """Return a server, which is down."""
        return _Server(self.server if server is None else server, host=self.host, port=port, within=self.within)


@dataclass(frozen=True, slots=True)
class Begun:
    """A fault that has begun: where to dial, and what is wrong with the client afterwards, apart from how it ended."""

    host: str
    port: int
    problems: Callable[[], list[str]] = list
    fault: Fault | None = None
    # What is wrong if the client was not seen to do anything.
    unseen: str = f"no Python connect() was seen: {UNSEEN}"

    @property
    def missed(self) -> bool:
        """Whether its fault was not triggered."""
        return self.fault is not None and not self.fault.triggered


# Begins a fault, which ends with the stack.
Begin: TypeAlias = Callable[[Setting, ExitStack], Begun]


class Scenario(NamedTuple):
    """A fault, and the end of a client that it lets pass."""

    begin: Begin
    # What the client's error must have as its errno; None if any error will do.
    code: int | None
    # Why the client can't connect; empty if it can.
    obstacle: str = ""


def _self_connect(setting: Setting, stack: ExitStack) -> Begun:
    port = dead_port(setting.host)
    fault = stack.enter_context(self_connect(port, unused="ignore"))
    sent = stack.enter_context(sent_to(port))

    def problems() -> list[str]:
        number = sent.count()
        said = [f"the client sent {counted(number, 'byte')} to itself"] if number else []
        if sent.incomplete:
            said.append("what the client sent to itself is not known: too many of its sockets closed at once")
        return said + _bind_problems(setting.host, port)

    return Begun(setting.host, port, problems, fault)


def _refused_port(setting: Setting, stack: ExitStack) -> Begun:
    return Begun(setting.host, stack.enter_context(refused_port(setting.host)))


def _address_not_available(setting: Setting, stack: ExitStack) -> Begun:
    outage = stack.enter_context(setting.outage())
    return _hit(outage, stack.enter_context(address_not_available(outage.port, unused="ignore")))


def _ports_exhausted(setting: Setting, stack: ExitStack) -> Begun:
    outage = stack.enter_context(setting.outage())
    return _hit(outage, stack.enter_context(ports_exhausted(outage.port, unused="ignore")))


def _hit(outage: Outage, fault: Fault) -> Begun:
    return Begun(outage.host, outage.port, fault=fault)


def _outage(setting: Setting, stack: ExitStack) -> Begun:
    outage = stack.enter_context(setting.outage())
    outage.refuse_for(3, unused="ignore")
    return Begun(outage.host, outage.port, outage.problems)


class _HangsUp:
    """Hangs up for a while, and then lets another server take its place; at once if the client dials too often.

    It goes by the clock that `fast_retries` moves on by each wait.
    """

    def __init__(self, setting: Setting, stack: ExitStack) -> None:
        self._server = setting.outage()
        self._hanging = setting.outage(hang_up, self._server.port)
        self._limit = setting.dials_per_second
        self._recent: deque[float] = deque()  # when the dials of the last second began
        self._first: float | None = None
        self._too_many = self._over = False
        self._lock = threading.RLock()
        stack.callback(self._end)
        stack.enter_context(self._hanging)
        stack.enter_context(intercepting(Dials(self._server.port, self._dial_begins).intercept))
        self.begun = Begun(self._server.host, self._server.port, self._problems)

    def _dial_begins(self, _: socket.socket) -> None:
        with self._lock:
            if self._over:
                return
            now = _clock.now()
            self._first = now if self._first is None else self._first
            self._recent.append(now)
            while now - self._recent[0] >= 1:
                self._recent.popleft()
            self._too_many = len(self._recent) > self._limit
            if self._too_many or now - self._first > _HANGS_UP:
                self._serve()

    def _serve(self) -> None:
        self._over = True
        self._hanging.kill()
        self._server.start()

    def _end(self) -> None:
        with self._lock:  # a client that could not be cancelled may dial again, and must not start the server
            self._over = True
        self._server.kill()

    def _problems(self) -> list[str]:
        with self._lock:
            if not self._over:  # the client gave up
                self._serve()
        return self._server.problems() + self._too_often()

    def _too_often(self) -> list[str]:
        return [f"more than {counted(self._limit, 'dial')} in one second"] if self._too_many else []


def _hangs_up(setting: Setting, stack: ExitStack) -> Begun:
    return _HangsUp(setting, stack).begun


def _frozen(setting: Setting, stack: ExitStack) -> Begun:
    outage = stack.enter_context(setting.outage())
    outage.freeze()
    return Begun(outage.host, outage.port)


def _name_failure(setting: Setting, stack: ExitStack) -> Begun:
    outage = stack.enter_context(setting.outage())
    # No resolver knows it (RFC 6761), so that a look-up that is not hit fails; and each thread's client has its own.
    name = f"server-{outage.port}.safedial.invalid"
    stack.enter_context(resolving(name, outage.host))
    fault = stack.enter_context(name_failure(name, times=_LOOK_UPS, unused="ignore"))
    unseen = "the fault was not triggered: the client resolves names in C, or not at all"
    return Begun(name, outage.port, fault=fault, unseen=unseen)


SCENARIOS = {
    "self_connect": Scenario(_self_connect, errno.ECONNREFUSED, "nobody listens"),
    "refused_port": Scenario(_refused_port, errno.ECONNREFUSED, "nobody listens"),
    "address_not_available": Scenario(_address_not_available, errno.EADDRNOTAVAIL),
    "ports_exhausted": Scenario(_ports_exhausted, errno.EADDRNOTAVAIL, "no local port was free"),
    "outage": Scenario(_outage, errno.ECONNREFUSED),
    "hangs_up": Scenario(_hangs_up, None),
    "frozen": Scenario(_frozen, errno.ETIMEDOUT, "nothing answers"),
    "name_failure": Scenario(_name_failure, socket.EAI_AGAIN),
}


def counted(number: int, word: str) -> str:
    """Return *number* and *word*, which is in the plural unless it is one."""
    return f"{number:,} {word}{'s' * (number != 1)}"


def _bind_problems(host: str, port: int) -> list[str]:
    try:
        # Any server will do, and without patience: a connection that a client closed may be in its way for a minute.
        socket.create_server((host, port), family=family_of(host)).close()
    except OSError as error:
        return [f"the server could not bind port {port}: {'; '.join(holders(port)) or error}"]
    return []
