"""The TLS handshake of `open_connection` and `create_connection` is the last step of a round."""

import asyncio
import contextlib
import errno
import socket
import ssl
import struct
from pathlib import Path

import pytest
import tenacity

import safedial
from safedial import testing
from safedial.adapters import asyncio as adapter
from tests.dial.test_leaks import CancelledAt
from tests.support import dials, left, web
from tests.support.policies import retrying
from tests.support.resolvers import addresses

HOST = "127.0.0.1"
# For this part alone: which errors a policy takes for transient is tested elsewhere.
again = tenacity.retry_if_exception_type((ConnectionError, TimeoutError))


@pytest.fixture(autouse=True)
def _nothing_for_the_loops_exception_handler(caplog):
    yield
    assert not [record for record in caplog.records if record.name == "asyncio" and record.levelname == "ERROR"]


def hello(sock):
    """Read the client's hello, so that what follows hits the handshake."""
    assert sock.recv(65536)


def end(sock):
    hello(sock)


def end_at_once(sock):
    sock.shutdown(socket.SHUT_WR)
    while sock.recv(65536):  # what is not read would make a reset of the close
        pass


def reset(sock):
    hello(sock)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def stay_silent(sock):
    while sock.recv(65536):
        pass


def serve(sock):
    """Greet over TLS at once, so that the first data comes together with the end of the handshake."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    web.authority().issue_cert("localhost", HOST).configure_cert(context)
    with contextlib.suppress(ssl.SSLError), context.wrap_socket(sock, server_side=True) as over_tls:
        over_tls.sendall(b"hello")
        while over_tls.recv(65536):
            pass


@contextlib.contextmanager
def tls_server(*faults):
    """A TLS server whose first connections meet *faults*. Yield its address and the list of its connections."""
    met = []

    def handle(sock):
        met.append(fault := faults[len(met)] if len(met) < len(faults) else serve)
        with contextlib.suppress(OSError):
            fault(sock)

    with testing.Outage(handle) as server:
        yield server.address, met


def connections(port):
    """Return the descriptors of this process that are connected to *port*: the clients' ends."""
    table = Path("/proc/thread-self/net/tcp")
    rows = [row.split() for row in table.read_text().splitlines()[1:]] if table.exists() else []
    clients = {f"socket:[{row[9]}]" for row in rows if row[2].endswith(f":{port:04X}")}
    return clients & set(left.open_descriptors().values())


@contextlib.asynccontextmanager
async def nothing_left(address):
    """Whatever ends the block, the client's sockets are closed a few turns of the loop later."""
    yield
    for _ in range(10):
        await asyncio.sleep(0)
    assert not connections(address[1])
    assert len(asyncio.all_tasks()) == 1


async def greeting(address, **options):
    """Dial, and return the server's first bytes."""
    async with nothing_left(address):
        reader, writer = await safedial.open_connection(*address, **{"ssl": web.client_context()} | options)
        try:
            return await reader.readexactly(5)
        finally:
            writer.transport.abort()


def fail(address, loop_factory, *, dialed=None, errors=OSError, **options):
    """Return the error of a dial that fails, and leaves nothing, while its error is at hand."""

    async def main():
        async with nothing_left(address):
            with pytest.raises(errors) as caught:
                await safedial.open_connection(*(dialed or address), **{"ssl": web.client_context()} | options)
        return caught.value

    return dials.run(main(), loop_factory)


def steps(events):
    """Return what the policy saw: the kind and the round of each event."""
    return [(event.kind, event.round) for event in events if event.kind in ("failed", "retry", "connected")]


@pytest.mark.parametrize("fault", [end, end_at_once, reset], ids=lambda fault: fault.__name__)
class TestHandshakeThatFails:
    def test_next_round_dials_anew(self, loop_factory, fault, events):
        with tls_server(fault, fault) as (address, met):
            policy = retrying(9, retry=again)
            options = {"policy": policy, "on_event": events.append}
            assert dials.run(greeting(address, **options), loop_factory) == b"hello"
        assert met == [fault, fault, serve]
        assert steps(events) == [("failed", 1), ("retry", 1), ("failed", 2), ("retry", 2), ("connected", 3)]
        assert all(event.address == address for event in events if event.kind in ("failed", "connected"))

    def test_last_error_has_its_notes(self, loop_factory, fault):
        with tls_server(*[fault] * 9) as (address, met):
            error = fail(address, loop_factory, policy=retrying(3, retry=again))
        assert met == [fault] * 3
        assert isinstance(error, ConnectionResetError)
        summary, each = error.__notes__
        assert f"gave up dialing {HOST} port {address[1]} after 3 rounds" in summary
        assert f"{HOST} port {address[1]}, rounds 1 to 3:" in each

    def test_without_policy_it_is_dialed_once(self, loop_factory, fault):
        with tls_server(*[fault] * 9) as (address, met):
            fail(address, loop_factory, policy=None)
        assert met == [fault]


def test_silent_server_times_out(loop_factory):
    with tls_server(*[stay_silent] * 9) as (address, met):
        error = fail(address, loop_factory, total_timeout=0.2, policy=safedial.reconnect())
    assert (type(error), error.errno) == (TimeoutError, errno.ETIMEDOUT)
    assert f"{HOST} port {address[1]} could not be reached within total_timeout, 0.2 s" in str(error)
    assert any("round 1: timed out" in note for note in error.__notes__)
    assert met == [stay_silent]


def test_silence_after_other_failures_has_the_last_one_as_its_cause(loop_factory):
    with tls_server(reset, *[stay_silent] * 9) as (address, _):
        error = fail(address, loop_factory, total_timeout=0.3, policy=retrying(9, retry=again))
    assert error.errno == errno.ETIMEDOUT
    assert isinstance(error.__cause__, ConnectionResetError)


def test_loops_own_limit_fails_the_round(loop_factory):
    with tls_server(stay_silent) as (address, met):
        options = {"ssl_handshake_timeout": 0.4, "policy": retrying(2, retry=again)}
        assert dials.run(greeting(address, **options), loop_factory) == b"hello"
    assert met == [stay_silent, serve]


def test_silent_server_and_new_event_loop(loop_factory):
    """The loop's own ``create_connection`` is bound by the Dialer's total_timeout too."""

    async def main():
        with pytest.raises(TimeoutError, match="within total_timeout"):
            await asyncio.open_connection(*address, ssl=web.client_context())

    dialer = safedial.Dialer(total_timeout=0.2)
    kind = asyncio.SelectorEventLoop if loop_factory is None else type(probe := loop_factory())
    if loop_factory is not None:
        probe.close()
    with tls_server(stay_silent) as (address, met):
        dials.run(main(), lambda: adapter.new_event_loop(kind, dialer=dialer))
    assert met == [stay_silent]


@pytest.mark.parametrize("context", [ssl.create_default_context, web.client_context], ids=["authority", "name"])
def test_certificate_failure_is_permanent(loop_factory, context):
    """An unknown authority, and a certificate for another name."""
    with tls_server() as (address, met):
        options = {"policy": safedial.reconnect(), "total_timeout": 60}
        error = fail(address, loop_factory, ssl=context(), server_hostname="elsewhere.example", **options)
    assert isinstance(error, ssl.SSLCertVerificationError)
    assert met == [serve]


def test_certificate_failure_behind_a_refused_address_is_permanent(loop_factory, events):
    with tls_server() as (address, met), testing.refused_port() as dead_port:
        resolver = addresses((HOST, dead_port), address)
        error = fail(
            address,
            loop_factory,
            dialed=("localhost", 1),
            ssl=ssl.create_default_context(),
            resolver=resolver,
            policy=safedial.reconnect(),
            on_event=events.append,
        )
    assert isinstance(error, ssl.SSLCertVerificationError)
    assert steps(events) == [("failed", 1), ("failed", 1)]
    assert met == [serve]


def test_all_errors_has_the_handshakes(loop_factory):
    with tls_server(reset) as (address, _), testing.refused_port() as dead_port:
        resolver = addresses((HOST, dead_port), address)
        options = {"resolver": resolver, "all_errors": True, "policy": None, "server_hostname": "localhost"}
        group = fail(address, loop_factory, dialed=("db", 1), errors=ExceptionGroup, **options)
    assert [type(error) for error in group.exceptions] == [ConnectionRefusedError, ConnectionResetError]


class TestProtocols:
    def test_each_handshake_has_a_new_protocol(self, loop_factory):
        made, received = [], None

        class Protocol(asyncio.Protocol):
            def __init__(self):
                self.calls = []
                made.append(self)

            def connection_made(self, transport):
                self.calls.append("made")

            def data_received(self, data):
                self.calls.append(data)
                received.set()

        async def main():
            nonlocal received
            received = asyncio.Event()
            options = {"ssl": web.client_context(), "policy": retrying(9, retry=again)}
            async with nothing_left(address):
                transport, protocol = await adapter.create_connection(Protocol, *address, **options)
                await received.wait()
                transport.abort()
                return protocol

        with tls_server(reset, end) as (address, _):
            used = dials.run(main(), loop_factory)
        assert made[2] is used
        assert [each.calls[:2] for each in made] == [[], [], ["made", b"hello"]]

    def test_factory_that_raises_leaves_nothing(self, loop_factory):
        def broken():
            raise ZeroDivisionError

        async def main():
            async with nothing_left(address):
                with pytest.raises(ZeroDivisionError):
                    await adapter.create_connection(broken, *address, ssl=web.client_context())

        with tls_server() as (address, _):
            dials.run(main(), loop_factory)

    def test_interrupted_hook_closes_the_connection(self, loop_factory):
        class Interrupt(BaseException):
            pass

        def hook(event):
            raise Interrupt

        with tls_server() as (address, _):
            fail(address, loop_factory, errors=Interrupt, on_event=hook)


class Broken(ssl.SSLContext):
    def wrap_bio(self, *args, **kwds):
        raise LookupError("no such key")


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"server_hostname": ".bad"}, ValueError),  # IDNA: an empty label
        ({"server_hostname": "a" * 300}, ValueError),
        ({"server_hostname": "a" * 300, "ssl": True}, ValueError),
        ({"ssl": Broken(ssl.PROTOCOL_TLS_CLIENT)}, LookupError),
        ({"ssl": ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)}, ssl.SSLError),
    ],
    ids=["name", "long name", "long name, default context", "context", "server's context"],
)
def test_tls_that_cant_begin_leaves_nothing(loop_factory, options, error):
    """asyncio's own dial leaves the socket open: github.com/python/cpython/issues/153133."""
    with tls_server(*[stay_silent] * 9) as (address, _):
        fail(address, loop_factory, errors=error, policy=safedial.reconnect(), **options)


@pytest.mark.parametrize("turns", range(6))
def test_cancelled_handshake_leaves_nothing(loop_factory, turns):
    async def main():
        async with nothing_left(address):
            dial = safedial.open_connection(*address, ssl=web.client_context(), policy=safedial.reconnect())
            task = asyncio.create_task(dial)
            for _ in range(turns):
                await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

    with tls_server(*[stay_silent] * 9) as (address, _):
        dials.run(main(), loop_factory)


def test_handshake_cancelled_before_it_began_leaves_nothing():
    async def main():
        async with nothing_left(address):
            with pytest.raises(asyncio.CancelledError):
                await CancelledAt(safedial.open_connection(*address, ssl=web.client_context()), 0)

    with tls_server(*[stay_silent] * 9) as (address, _):
        dials.run(main())
