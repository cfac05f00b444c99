"""pytest fixtures that make the kernel misbehave: `safedial.testing`, for tests that ask for it by name.

Found through the ``pytest11`` entry point; ``-p no:safedial`` leaves it out. It does nothing until a
fixture is used, and imports what the fixture needs only then.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

import pytest

if TYPE_CHECKING:
    from safedial.testing import Fault, Outage

P = ParamSpec("P")
T = TypeVar("T")


def _until_the_end(stack: ExitStack, begin: "Callable[P, AbstractContextManager[T]]") -> Callable[P, T]:
    """Return a function that enters what *begin* returns, until *stack* closes."""

    def begun(*args: P.args, **kwds: P.kwargs) -> T:
        return stack.enter_context(begin(*args, **kwds))

    return begun


@pytest.fixture
def self_connect() -> "Iterator[Callable[..., Fault]]":
    """``self_connect(port, times=None)``: connects to *port* really connect to themselves.

    From the call to the end of the test, whoever makes them in Python; *times* of them, or all.
    Returns the `safedial.testing.Fault`, which counts them.

    Example::

        import pytest
        from safedial import safe_connect


        def test_client_takes_a_self_connect_for_refused(self_connect, dead_port):
            fault = self_connect(dead_port)
            with pytest.raises(ConnectionRefusedError):
                safe_connect(("127.0.0.1", dead_port))
            assert fault.triggered == 3  # safe_connect dialed again, at once
    """
    from safedial.testing import self_connect

    with ExitStack() as stack:
        yield _until_the_end(stack, self_connect)


@pytest.fixture
def address_not_available() -> "Iterator[Callable[..., Fault]]":
    """``address_not_available(port=None, times=1)``: connects fail with EADDRNOTAVAIL, then work again.

    To *port*, or to any; *times* of them, or with None all. Returns the `safedial.testing.Fault`.

    Example::

        from safedial import safe_connect


        def test_client_dials_again(outage, address_not_available, fast_retries):
            server = outage()
            address_not_available(server.port, times=2)
            safe_connect(server.address, steer=False).close()
            assert len(fast_retries) == 2
    """
    from safedial.testing import address_not_available

    with ExitStack() as stack:
        yield _until_the_end(stack, address_not_available)


@pytest.fixture
def ports_exhausted() -> "Iterator[Callable[[int], Fault]]":
    """``ports_exhausted(port)``: no local port is left towards *port*, until the test ends.

    Example::

        import pytest
        from safedial import PortsExhaustedError, safe_connect


        def test_client_says_what_is_short(outage, ports_exhausted, fast_retries):
            server = outage()
            ports_exhausted(server.port)
            with pytest.raises(PortsExhaustedError, match="no local port is free"):
                safe_connect(server.address)
    """
    from safedial.testing import ports_exhausted

    with ExitStack() as stack:
        yield _until_the_end(stack, ports_exhausted)


@pytest.fixture
def refused_port() -> Iterator[int]:
    """A port of 127.0.0.1 that is held without listening: it refuses for as long as the test runs.

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
    """A port of 127.0.0.1 where nobody listens, of the kind that a loop may connect to itself on.

    It is inside the ephemeral range, of the parity that the kernel prefers, and nobody holds it.

    Example::

        import safedial


        def test_storm(dead_port):
            for _ in range(1000):
                try:
                    safedial.safe_connect(("127.0.0.1", dead_port), policy=None)
                except ConnectionRefusedError:
                    pass
    """
    from safedial.testing import dead_port

    return dead_port()


@pytest.fixture
def outage() -> "Iterator[Callable[..., Outage]]":
    """``outage(server=echo, ...)``: a `safedial.testing.Outage`, a server that goes and comes back.

    Takes what `Outage` takes, a function or a command line among it. It is up, and gone when the
    test ends.

    Example::

        from safedial import reconnect, safe_connect


        def test_client_waits_for_its_server(outage, fast_retries):
            server = outage()
            server.refuse_for(attempts=5)
            with safe_connect(server.address, policy=reconnect()) as sock:
                sock.sendall(b"hello")
                assert sock.recv(5) == b"hello"
    """
    from safedial.testing import Outage

    with ExitStack() as stack:
        yield _until_the_end(stack, Outage)


@pytest.fixture
def fast_retries() -> Iterator[list[float]]:
    """The waits of all tenacity policies, recorded instead of slept: a list of seconds.

    Example::

        import pytest
        import tenacity


        def test_backoff(fast_retries):
            flaky = tenacity.retry(wait=tenacity.wait_exponential(), stop=tenacity.stop_after_attempt(4))(int)
            with pytest.raises(tenacity.RetryError):
                flaky("no number")
            assert fast_retries == [1, 2, 4]
    """
    from safedial.testing import fast_retries

    with fast_retries() as waits:
        yield waits


@pytest.fixture
def in_namespace() -> "Callable[..., Any]":
    """``in_namespace(function, *args, port_range=None)``: what a function returns in a network of its own.

    In a child process, where the kernel draws from the ports that are given, for C libraries too.
    The test is skipped where no unprivileged namespace can be. Takes what
    `safedial.testing.in_namespace` takes.

    Example::

        import socket


        def dial_until_it_meets_itself():
            return any(socket.socket().connect_ex(("127.0.0.1", 40000)) == 0 for _ in range(100))


        def test_two_ports_are_few(in_namespace):
            assert in_namespace(dial_until_it_meets_itself, port_range=(40000, 40001))
    """
    from safedial.testing import in_namespace, namespace_unavailable

    if reason := namespace_unavailable():
        pytest.skip(reason)
    return in_namespace
