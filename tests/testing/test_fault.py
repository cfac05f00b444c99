"""A fault that has hit nothing: what it says when it ends, where, and when it is silent."""

import contextlib
import functools
import socket
import sys
import threading
import traceback

import pytest

import safedial
from safedial import testing
from safedial.testing.fault import LOOKUPS, Fault, must_hit
from safedial.testing.manager import managed
from tests.support import dials

HOST = "127.0.0.1"
NOTHING = "no Python connect() was seen: the client dials in C, or not at all, or in another process"
MAKERS = {
    "self_connect(5)": functools.partial(testing.self_connect, 5),
    "address_not_available()": testing.address_not_available,
    "address_not_available(5)": functools.partial(testing.address_not_available, 5),
    "ports_exhausted(5)": functools.partial(testing.ports_exhausted, 5),
}


@pytest.fixture(params=MAKERS)
def call(request):
    return request.param


@pytest.fixture
def make(call):
    return MAKERS[call]


def dial(host, port):
    with socket.socket() as sock:
        sock.connect_ex((host, port))


def said(make, client):
    """Return what an unused fault says after ``client()``."""
    with pytest.raises(AssertionError) as caught, make():
        client()
    return str(caught.value)


def is_patched():
    return not {"connect", "connect_ex"}.isdisjoint(vars(socket.socket))


class TestUnused:
    def test_is_an_error(self, call, make):
        assert said(make, lambda: None) == f"{call} hit no connect; {NOTHING}"

    def test_can_be_a_warning_at_the_line_of_the_user(self, call, make):
        manager = make(unused="warn")
        with pytest.warns(UserWarning, match="hit no connect") as caught, manager:
            line = sys._getframe().f_lineno - 1
        assert [str(each.message) for each in caught] == [f"{call} hit no connect; {NOTHING}"]
        assert [(each.filename, each.lineno) for each in caught] == [(__file__, line)]

    def test_can_be_ignored(self, make):
        with make(unused="ignore") as fault:
            pass
        assert fault.triggered == 0

    def test_one_hit_is_enough(self, refused_port):
        for make in (testing.self_connect, testing.address_not_available, testing.ports_exhausted):
            port = testing.dead_port()
            with make(port) as fault, pytest.raises(OSError, match=r"refused|connected to itself|no local port"):
                safedial.safe_connect((HOST, port), policy=None)
            assert fault.triggered

    @pytest.mark.parametrize("unused", ["error", "warn"])
    def test_exception_of_the_block_wins(self, make, unused):
        with pytest.raises(AssertionError, match="my own") as caught, make(unused=unused):
            raise AssertionError("my own")
        assert caught.value.__context__ is None

    @pytest.mark.parametrize("unused", ["error", "warn"])
    def test_traceback_is_short(self, make, unused):
        with pytest.raises((AssertionError, UserWarning), match="hit no connect") as caught, make(unused=unused):
            pass
        _, ours = traceback.extract_tb(caught.value.__traceback__)
        assert (ours.filename, ours.name) == (testing.manager.__file__, "__exit__")

    @pytest.mark.parametrize(("unused", "error"), [("no", ValueError), (None, TypeError), (True, TypeError)])
    def test_bad_values(self, make, unused, error):
        with pytest.raises(error, match=r"unused must be one of error, warn, ignore, not "), make(unused=unused):
            pytest.fail("it began")
        assert not is_patched()

    def test_decorator_makes_a_new_fault_for_each_call(self, dead_port):
        @testing.self_connect(dead_port, times=1)
        def client(port):
            """Dials."""
            with pytest.raises(ConnectionRefusedError):
                safedial.safe_connect((HOST, port), policy=None)
            return port

        assert client.__doc__ == "Dials."
        assert [client(dead_port), client(dead_port)] == [dead_port, dead_port]
        with pytest.raises(AssertionError, match=f"dialed instead: {HOST} port "):
            client(testing.dead_port())

    def test_decorator_of_a_coroutine_function(self, dead_port):
        @testing.self_connect(dead_port)
        async def client(port):
            with pytest.raises(safedial.SelfConnectError):
                await safedial.open_connection(HOST, port, policy=None)
            return port

        assert dials.run(client(dead_port)) == dead_port

    def test_decorator_of_a_class(self, dead_port):
        with pytest.raises(TypeError, match="decorate the methods of Client"):

            @testing.self_connect(dead_port)
            class Client:
                pass

    def test_decorator_of_a_function_that_calls_itself(self, dead_port):
        @testing.self_connect(dead_port)
        def client(again):
            client(False) if again else dial(HOST, dead_port)

        with pytest.raises(AssertionError, match="hit no connect"):  # the inner fault is nearer to the kernel
            client(True)


class TestDialedInstead:
    def test_other_ports(self, refused_port, dead_port):
        def client():
            for _ in range(3):
                dial(HOST, refused_port)
            dial("localhost", refused_port)

        said_instead = f"dialed instead: {HOST} port {refused_port} (3 times); localhost port {refused_port}"
        for make in (testing.self_connect, testing.address_not_available, testing.ports_exhausted):
            words = said(lambda make=make: make(dead_port), client)
            assert words == f"{make.__name__}({dead_port}) hit no connect; {said_instead}"

    def test_many_are_counted(self, dead_port):
        ports = [testing.dead_port() for _ in range(9)]
        words = said(lambda: testing.self_connect(dead_port), lambda: [dial(HOST, port) for port in ports])
        assert words.endswith(f"{HOST} port {ports[4]}; 4 more")

    def test_long_names_are_cut(self):
        with pytest.raises(AssertionError) as caught, must_hit(Fault("fault()", 5, None, "error")) as fault:
            fault.trigger(("x" * 10_000, 6))
        assert len(str(caught.value)) < 300

    def test_a_server_that_listens(self, server, mechanism):
        host, port = server.getsockname()
        words = said(lambda: testing.self_connect(port), lambda: dial(host, port))
        assert f"dialed instead: {host} port {port}: a server listens there, or " in words

    def test_a_port_in_time_wait(self, dead_port, mechanism):
        """The next test, on the same port, is refused."""
        with testing.self_connect(dead_port):
            dial(HOST, dead_port)
        words = said(lambda: testing.self_connect(dead_port), lambda: dial(HOST, dead_port))
        assert words.endswith("a socket has the port, perhaps in TIME_WAIT")

    def test_a_source_port_that_the_client_chose(self, server):
        def client():
            socket.create_connection(server.getsockname(), source_address=(HOST, 0)).close()

        host, port = server.getsockname()
        for make in (testing.self_connect, testing.address_not_available, testing.ports_exhausted):
            words = said(lambda make=make: make(port), client)
            assert words.endswith(f"instead: {host} port {port}: its socket had a source port already")

    def test_an_unknown_name(self):
        def client():
            with pytest.raises(socket.gaierror):
                dial("no.such.invalid", 5)

        words = said(testing.address_not_available, client)
        assert "dialed instead: no.such.invalid port 5: " in words
        assert "name" in words.lower().partition("port 5: ")[2]

    def test_an_address_of_another_host(self):
        """In the documentation's network (RFC 5737); nothing is sent."""

        def client():
            with socket.socket() as sock:
                sock.setblocking(False)
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_DONTROUTE, 1)
                sock.connect_ex(("192.0.2.1", 5))

        assert "dialed instead: 192.0.2.1 port 5: " in said(lambda: testing.self_connect(5), client)

    def test_clients_in_threads(self, dead_port):
        ports = [testing.dead_port() for _ in range(4)]

        def clients():
            threads = [threading.Thread(target=lambda p=p: [dial(HOST, p) for _ in range(25)]) for p in ports]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()

        words = said(lambda: testing.self_connect(dead_port), clients)
        assert words.count("(25 times)") == len(ports)


class TestLayer:
    """The connects are the kernel's own again, whichever way a fault ends."""

    @pytest.mark.parametrize("unused", ["error", "warn", "ignore"])
    def test_is_gone_after_an_unused_fault(self, make, unused):
        with contextlib.suppress(AssertionError, UserWarning), make(unused=unused):
            assert is_patched()
        assert not is_patched()

    @pytest.mark.parametrize("raised", [LookupError, KeyboardInterrupt, GeneratorExit, StopIteration])
    def test_is_gone_after_an_exception(self, make, raised):
        with pytest.raises(raised), make():
            raise raised
        assert not is_patched()

    def test_is_gone_after_a_fault_that_never_ended(self, make):
        manager = make()
        manager.__enter__()
        assert is_patched()
        del manager
        assert not is_patched()

    def test_is_not_there_before(self, make):
        manager = make()
        assert not is_patched()
        with pytest.warns(UserWarning, match="never entered"):
            del manager


class TestOfLookups:
    """A fault of look-ups counts with the same class."""

    @pytest.fixture
    def failing(self):
        @managed
        def failing(name):
            with must_hit(Fault(f"failing({name!r})", None, None, "error", LOOKUPS)) as fault:
                yield fault

        return lambda: failing("db")

    def test_says_what_was_looked_up_instead(self, failing):
        with pytest.raises(AssertionError) as caught, failing() as fault:
            fault.note("cache")
        assert str(caught.value) == "failing('db') hit no look-up; looked up instead: cache"

    def test_says_that_nothing_was(self, failing):
        assert said(failing, lambda: None).startswith("failing('db') hit no look-up; no look-up by Python was seen: ")

    def test_a_hit(self, failing):
        with failing() as fault:
            assert fault.trigger(("db", None))
        assert fault.triggered == 1

    def test_a_hit_that_is_reverted(self, failing):
        def look_up(fault):
            assert fault.trigger(("db", None))
            fault.revert("db, in vain")

        with pytest.raises(AssertionError, match=r"looked up instead: db, in vain$"), failing() as fault:
            look_up(fault)
