"""`safedial.testing` as pytest fixtures.

Loaded through the ``pytest11`` entry point; ``-p no:safedial`` disables it. `safedial.testing` is imported when a
fixture is used.
"""

from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from safedial.testing import Fault, HangingUp, Outage


# Whether the test has passed up to now; None until its call has ended.
_passed = pytest.StashKey[bool | None]()
# The messages of faults that had no effect on a test that has passed.
_unused = pytest.StashKey[list[str]]()


# The outermost, so that it sees how a test ends that is expected to fail. Not wrapper=True: pluggy has it from 1.2 on,
# and Debian 12 has 1.0 beside its Python 3.11.
@pytest.hookimpl(hookwrapper=True, tryfirst=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, Any, None]:
    """Note whether the test has passed, for the fixtures that end after it."""
    report: pytest.TestReport = (yield).get_result()
    item.stash[_unused] = []
    passed = None  # a plugin may run the item again
    if report.when == "call":  # that of a subtest, too
        passed = report.passed and not hasattr(report, "wasxfail") and item.stash.get(_passed, None) is not False
    item.stash[_passed] = passed


# The last, after pytest's own, which ends the fixtures.
@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown(item: pytest.Item) -> None:
    """Fail if faults had no effect: once for all of them, and not if an error has ended the teardown."""
    unused = item.stash.get(_unused, None)
    if unused:
        pytest.fail("\n".join(unused), pytrace=False)


class _NotPassedError(Exception):
    """Ends the faults of a test that has failed or was skipped: after an exception, an unused one says nothing."""


def _entering(name: str, request: pytest.FixtureRequest) -> Iterator[Callable[..., Any]]:
    """Yield a function that makes and enters a context manager of `safedial.testing`, which ends with the test.

    If the test has passed, it is an error if the function was never called, or if a context manager says that it had
    no effect.
    """
    from safedial import testing

    called = False
    messages: list[str] = []

    def enter(*args: Any, **kwds: Any) -> Any:
        nonlocal called
        __tracebackhide__ = called = True  # a wrong argument shows the user's line
        try:
            manager: Any = getattr(testing, name)(*args, **kwds)
            entered = manager.__enter__()
        except (TypeError, ValueError, OSError) as error:  # of an argument, or of the system
            raise error.with_traceback(None)  # noqa: B904  # it is the same exception

        def leave(*raised: Any) -> None:
            try:
                manager.__exit__(*raised)
            except (AssertionError, UserWarning) as unused:  # a warning if warnings are errors
                if hasattr(unused, "__notes__"):  # raised by the function that an outage serves with
                    raise
                messages.append(str(unused))

        stack.push(leave)
        return entered

    enter.__qualname__ = str(request.fixturename)  # pytest shows it as an argument of the test
    with suppress(_NotPassedError), ExitStack() as stack:
        yield enter
        if not request.node.stash.get(_passed, None):
            raise _NotPassedError
        if not called:
            fixture = request.fixturename
            where = f"call it, or get it by request.getfixturevalue({fixture!r}) where it is needed"
            messages.append(f"{fixture} was requested and never called: {where}")
    # At the end of an interrupted session, there is no teardown of the item.
    request.node.stash.setdefault(_unused, []).extend(reversed(messages))  # in the order of the calls


@pytest.fixture
def self_connect(request: pytest.FixtureRequest) -> "Iterator[Callable[..., Fault]]":
    """``self_connect(port, times=None)``: dials of *port* connect to themselves.

    The kernel really connects them so, if Python code dials. Hits *times*
    connects, or all until the test ends, without a ``with``. Returns the
    `safedial.testing.Fault`, which counts them.

    A client that closes such a socket without a reset leaves the port in
    TIME_WAIT. Then its next connects are refused, for a second or a minute.
    These do not count.

    If the test passes and none was hit, that is an error, which says what was
    dialed instead. ``unused="warn"`` makes it a warning, ``unused="ignore"``
    nothing.

    Example::

        import pytest
        from safedial import safe_connect


        def test_client_reports_it_as_refused(self_connect, dead_port):
            fault = self_connect(dead_port)
            with pytest.raises(ConnectionRefusedError):
                safe_connect(("127.0.0.1", dead_port))
            assert fault.triggered == 3  # safe_connect tries again at once
    """
    yield from _entering("self_connect", request)


@pytest.fixture
def address_not_available(request: pytest.FixtureRequest) -> "Iterator[Callable[..., Fault]]":
    """``address_not_available(port=None, times=1)``: connects find no local port.

    They fail with EADDRNOTAVAIL; then they work again. Hits *times* connects to
    *port*, or to any port; ``times=None``: all. Returns the
    `safedial.testing.Fault`. ``unused`` is as for `self_connect`.

    Example::

        from safedial import safe_connect


        def test_again(outage, address_not_available, fast_retries):
            server = outage()
            address_not_available(server.port, times=2)
            safe_connect(server.address, steer=False).close()
            assert len(fast_retries) == 2
    """
    yield from _entering("address_not_available", request)


@pytest.fixture
def ports_exhausted(request: pytest.FixtureRequest) -> "Iterator[Callable[..., Fault]]":
    """``ports_exhausted(port)``: no local port is left to reach *port*.

    Each connect to it fails with EADDRNOTAVAIL, until the test ends. Returns
    the `safedial.testing.Fault`. ``unused`` is as for `self_connect`.

    Example::

        import pytest
        from safedial import PortsExhaustedError, safe_connect


        def test_client_says_so(outage, ports_exhausted, fast_retries):
            server = outage()
            ports_exhausted(server.port)
            with pytest.raises(PortsExhaustedError, match="no local port"):
                safe_connect(server.address)
    """
    yield from _entering("ports_exhausted", request)


@pytest.fixture
def refused_port() -> Iterator[int]:
    """A port of 127.0.0.1 that refuses every connect.

    It is bound, and nobody listens.

    Example::

        import socket
        import pytest


        def test_refused(refused_port):
            with pytest.raises(ConnectionRefusedError):
                socket.create_connection(("127.0.0.1", refused_port))
    """
    from safedial.testing import refused_port

    with refused_port() as port:
        yield port


@pytest.fixture
def dead_port() -> int:
    """A free port of 127.0.0.1 that the kernel may draw as the local port.

    So a loop that dials it may be connected to itself.

    Example::

        import pytest
        import safedial


        def test_storm(dead_port):
            for _ in range(1000):
                with pytest.raises(ConnectionRefusedError):
                    safedial.safe_connect(("127.0.0.1", dead_port), policy=None)
    """
    from safedial.testing import dead_port

    return dead_port()


@pytest.fixture
def silent_port() -> Iterator[int]:
    """A port of 127.0.0.1 that never answers: a connect to it times out.

    Example::

        import socket
        import pytest


        def test_client_gives_up(silent_port):
            address = ("127.0.0.1", silent_port)
            with pytest.raises(TimeoutError):
                socket.create_connection(address, timeout=0.1)
    """
    from safedial.testing import silent_port

    with silent_port() as port:
        yield port


@pytest.fixture
def server_port() -> Iterator[int]:
    """A free port of 127.0.0.1 for a server that a test starts again and again.

    No client can draw it as its local port, and no other test gets it.

    Example::

        import socket


        def test_server_comes_back(server_port):
            address = ("127.0.0.1", server_port)
            for _ in range(2):
                with socket.create_server(address) as server:
                    socket.create_connection(server.getsockname()).close()
    """
    from safedial.testing import server_port

    with server_port() as port:
        yield port


@pytest.fixture
def name_failure(request: pytest.FixtureRequest) -> "Iterator[Callable[..., Fault]]":
    """``name_failure(name, error=socket.EAI_AGAIN, times=None)``: look-ups fail.

    Those of *name* raise the resolver's own `socket.gaierror`. Hits *times*
    look-ups, or all until the test ends. Returns the `safedial.testing.Fault`,
    which counts them. ``unused`` is as for `self_connect`.

    Example::

        from safedial import reconnect, safe_connect


        def test_client_waits_for_the_name(name_failure, fast_retries, outage):
            fault = name_failure("localhost", times=3)
            address = ("localhost", outage().port)
            safe_connect(address, policy=reconnect()).close()
            assert fault.triggered == len(fast_retries) == 3
    """
    yield from _entering("name_failure", request)


@pytest.fixture
def outage(request: pytest.FixtureRequest) -> "Iterator[Callable[..., Outage]]":
    """``outage(server=echo, ...)``: a server that goes away and comes back.

    A `safedial.testing.Outage`, with its arguments; *server* is a function or a
    command. It is up when it is returned, and is killed when the test ends. A
    command also ends if pytest is killed. Its methods: ``stop``, ``kill``,
    ``freeze``, ``start``, ``refuse_for``. ``refuse_for(2)`` counts dials of
    Python: for a client in C give ``refuse_for(seconds=0.5)``, or the server
    never comes back.

    What a function raises is an error of the test. ``latency=`` delays its
    answers, ``reset_after=`` resets the connection after so many bytes.

    For several tests, write a fixture of your own, with ``scope="module"``, and
    in it ``with safedial.testing.Outage() as server: yield server``. So it is
    with each fixture here.

    Example::

        from safedial import reconnect, safe_connect


        def test_client_waits_for_its_server(outage, fast_retries):
            server = outage()
            server.refuse_for(5)
            with safe_connect(server.address, policy=reconnect()) as sock:
                sock.sendall(b"hello")
                assert sock.recv(5) == b"hello"
    """
    yield from _entering("Outage", request)


@pytest.fixture
def hanging_up(request: pytest.FixtureRequest) -> "Iterator[Callable[..., HangingUp]]":
    """``hanging_up(dials=None, server=echo, ...)``: a server that hangs up.

    It closes the first *dials* connections at once, and then serves; None: all.
    Returns a `safedial.testing.HangingUp`, an `Outage` that counts them.
    ``unused`` is as for `self_connect`.

    Example::

        from safedial import connections, reconnect


        def test_client_dials_again_after_a_hang_up(hanging_up, fast_retries):
            server = hanging_up(dials=2)
            for connection in connections(server.address, policy=reconnect()):
                with connection as sock:
                    sock.sendall(b"hello")
                    if sock.recv(5) == b"hello":
                        break
            assert server.hung_up == 2
    """
    yield from _entering("hanging_up", request)


@pytest.fixture
def fast_retries() -> Iterator[list[float]]:
    """The waits of all tenacity policies, in seconds, recorded instead of slept.

    Policies and the time limits of dials count them as if they had been slept.

    Example::

        import pytest
        from safedial import reconnect, safe_connect


        def test_client_gives_up_after_a_minute(refused_port, fast_retries):
            address = ("127.0.0.1", refused_port)
            with pytest.raises(ConnectionRefusedError):
                safe_connect(address, policy=reconnect(within=60))
            assert 55 < sum(fast_retries) <= 60
    """
    from safedial.testing import fast_retries

    with fast_retries() as waits:
        yield waits


@pytest.fixture
def in_namespace() -> "Callable[..., Any]":
    """``in_namespace(function, *args, port_range=None)``: runs in its own network.

    The function runs in a network namespace. The kernel draws local ports from
    *port_range* there, for C libraries too. Takes the arguments of
    `safedial.testing.in_namespace`. Skips the test if this process can't make a
    namespace.

    Example::

        import socket


        def connects_to_itself():
            address = ("127.0.0.1", 40000)
            dials = (socket.socket().connect_ex(address) for _ in range(100))
            return 0 in dials


        def test_self_connect_among_two_ports(in_namespace):
            assert in_namespace(connects_to_itself, port_range=(40000, 40001))
    """
    from safedial.testing import in_namespace, no_namespace

    if reason := no_namespace():
        pytest.skip(reason)
    return in_namespace
