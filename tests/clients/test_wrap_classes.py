"""Wrapped classes stay classes, and wrapped functions keep what they are known by."""

import copy
import functools
import inspect
import pickle
import socket
from abc import ABC, abstractmethod
from typing import Generic, TypeVar

import pika
import psycopg
import psycopg2.extensions
import pymysql
import pytest
from psycopg.rows import DictRow, dict_row

import safedial
from safedial import testing
from tests.clients.test_wrap import retrying
from tests.support import faults

HOST = "127.0.0.1"
T = TypeVar("T")


class Meta(type):
    """A metaclass of a library's."""

    calls = 0

    def __call__(cls, *args, **kwds):
        Meta.calls += 1
        return super().__call__(*args, **kwds)


class Client(Generic[T], metaclass=Meta):
    """A library's client."""

    __slots__ = ("sock",)

    def __init__(self, host: str, port: int = 0):
        self.sock = socket.create_connection((host, port))

    @classmethod
    def local(cls, port):
        return cls(HOST, port)

    def close(self):
        self.sock.close()


class Abstract(ABC):
    @abstractmethod
    def ask(self): ...


@safedial.wrap
class Decorated:
    def __init__(self, host, port):
        self.sock = socket.create_connection((host, port))


@safedial.wrap
def decorated(address):
    return socket.create_connection(address)


class TestClass:
    def test_stays_what_it_is(self):
        safe = safedial.wrap(Client)
        assert isinstance(safe, type)
        assert issubclass(safe, Client)
        assert isinstance(safe, Meta)
        for name in ("__name__", "__qualname__", "__module__", "__doc__", "__init__", "close"):
            assert getattr(safe, name) is getattr(Client, name), name
        assert safe.__wrapped__ is Client
        assert inspect.signature(safe) == inspect.signature(Client)

    def test_makes_its_own_instances(self):
        safe = safedial.wrap(Client)
        with testing.Outage() as server:
            for client in (safe(*server.address), safe.local(server.port), safe[int](*server.address)):
                assert type(client) is safe
                assert isinstance(client, Client)
                assert not hasattr(client, "__dict__"), "it has slots alone"
                client.close()
        assert Meta.calls == 3

    @pytest.fixture(autouse=True)
    def _no_calls(self):
        Meta.calls = 0

    @pytest.mark.parametrize("make", [lambda safe: safe, lambda safe: safe[int], lambda safe: type("Sub", (safe,), {})])
    def test_is_guarded_when_it_is_called(self, make, force, dead_port):
        fault = force(dead_port)
        with pytest.raises(ConnectionRefusedError):
            make(safedial.wrap(Client))(HOST, dead_port)
        assert fault.triggered == 3, "the default policy dials again"
        faults.assert_server_can_bind(HOST, dead_port)

    def test_each_round_makes_a_new_instance(self):
        with testing.Outage() as server:
            server.refuse_for(dials=2)
            safedial.wrap(Client, policy=retrying(5))(*server.address).close()
        assert Meta.calls == 3

    def test_subclass_has_a_signature_of_its_own(self):
        class Own(safedial.wrap(Client)):
            def __init__(self, port, *, name):
                super().__init__(HOST, port)
                self.name = name

        assert list(inspect.signature(Own).parameters) == ["port", "name"]
        with testing.Outage() as server:
            client = Own(server.port, name="a")
            assert client.name == "a"
            client.close()

    def test_generic_stays_generic(self):
        safe = safedial.wrap(Client)
        assert safe.__parameters__ == Client.__parameters__
        assert safe[int].__origin__ is safe
        alias = safedial.wrap(Client[int])
        assert issubclass(alias.__origin__, Client)
        assert alias.__args__ == (int,)

    def test_abstract_class_stays_abstract(self):
        with pytest.raises(TypeError, match="abstract"):
            safedial.wrap(Abstract)()

    def test_class_without_subclasses_becomes_a_function(self):
        class Final:
            def __init_subclass__(cls):
                raise RuntimeError("it has no subclasses")

        for kind in (Final, bool):
            assert inspect.isfunction(safedial.wrap(kind))

    def test_of_pika(self, refused_port):
        safe = safedial.wrap(pika.BlockingConnection)
        assert issubclass(safe, pika.BlockingConnection)
        with pytest.raises(pika.exceptions.AMQPConnectionError):
            safe(pika.ConnectionParameters(HOST, refused_port))

    def test_decorator_can_be_pickled_by_name(self):
        for made in (Decorated, decorated):
            assert pickle.loads(pickle.dumps(made)) is made
            assert copy.copy(made) is made


class TestDriversClass:
    @pytest.mark.parametrize("kind", [psycopg.Connection, psycopg.AsyncConnection, pymysql.connections.Connection])
    def test_stays_what_it_is(self, kind):
        safe = safedial.wrap(kind)
        assert issubclass(safe, kind)
        assert type(safe) is type(kind)
        assert (safe.__name__, safe.__qualname__) == (kind.__name__, kind.__qualname__)
        assert inspect.signature(safe) == inspect.signature(kind)
        assert inspect.signature(safe.connect) == inspect.signature(kind.connect)
        assert inspect.iscoroutinefunction(safe.connect) == inspect.iscoroutinefunction(kind.connect)

    def test_generic_stays_generic(self, refused_port):
        for safe in (safedial.wrap(psycopg.Connection)[DictRow], safedial.wrap(psycopg.Connection[DictRow])):
            assert issubclass(safe.__origin__, psycopg.Connection)
            with pytest.raises(psycopg.OperationalError, match="refused"):
                safe.connect(host=HOST, port=refused_port, row_factory=dict_row)

    def test_of_psycopg2_is_a_connection_factory(self, refused_port):
        safe = safedial.wrap(psycopg2.extensions.connection)
        assert issubclass(safe, psycopg2.extensions.connection)
        with pytest.raises(psycopg2.OperationalError, match="refused"):
            safe(f"host={HOST} port={refused_port}")


class TestFunction:
    def test_keeps_what_it_is_known_by(self):
        def connect(host: str, *, port: int = 0) -> socket.socket:
            """Connect."""
            raise AssertionError

        connect.own = "attribute"
        wrapped = safedial.wrap(connect)
        assert wrapped.__wrapped__ is connect
        assert (wrapped.__name__, wrapped.__doc__, wrapped.own) == ("connect", "Connect.", "attribute")
        assert inspect.signature(wrapped) == inspect.signature(connect)
        assert inspect.signature(safedial.wrap(functools.partial(connect, "db"))).parameters.keys() == {"port"}

    def test_bound_method_is_a_factory_too(self):
        class Server:
            def dial(self):
                return socket.create_connection(address)

        with testing.Outage() as server:
            address = server.address
            safedial.wrap(Server().dial)().close()
