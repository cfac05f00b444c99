"""The verdicts on the errors that real clients raise: one for each client and each fault of a server."""

import asyncio
import contextlib
import functools
import importlib.util
import inspect
import logging
import socket
import struct
import threading
import time
import warnings
from concurrent.futures import ThreadPoolExecutor

from safedial._retry.transient import error_type, verdict
from tests.support import matrix

HOST = "127.0.0.1"


def judged(call):
    """Return the verdict's name and the type of the error that *call* raises; it may return a coroutine."""
    try:
        returned = call()
        if inspect.isawaitable(returned):
            asyncio.run(_wait(returned))
    except Exception as error:
        return verdict(error).name, error_type(error)
    return "no error", ""


async def _wait(awaitable):
    try:
        return await awaitable
    finally:
        await asyncio.sleep(0.01)  # asyncpg's transports are closed in a later turn of the loop


# --- Clients that the matrix lacks -----------------------------------------------------------------------


def pymemcache_(host, port):
    import pymemcache

    with contextlib.closing(pymemcache.Client((host, port), connect_timeout=1, timeout=1)) as client:
        return client.get("a")  # the matrix's set() waits for no answer


async def aio_pika_(host, port):
    import aio_pika

    await aio_pika.connect(host=host, port=port, timeout=1)


async def aiomqtt_(host, port):
    import aiomqtt

    async with aiomqtt.Client(host, port, timeout=1):
        pass


async def tornado_(host, port):
    import tornado.tcpclient

    stream = await tornado.tcpclient.TCPClient().connect(host, port, timeout=1)
    await asyncio.wait_for(stream.read_bytes(1), 1)


def pysocks(host, port):
    import socks

    with socks.socksocket() as sock:
        sock.set_proxy(socks.SOCKS5, host, port)
        sock.settimeout(1)
        sock.connect(("192.0.2.1", 80))


OTHERS = {
    "aio-pika": ("aio_pika", aio_pika_),
    "aiomqtt": ("aiomqtt", aiomqtt_),
    "tornado": ("tornado", tornado_),
    "PySocks": ("socks", pysocks),
}
CLIENTS = (
    {row.name: row.factory for row in matrix.ROWS if not row.lacking()}
    | {"pymemcache": pymemcache_}
    | {name: factory for name, (module, factory) in OTHERS.items() if importlib.util.find_spec(module)}
)
# They connect, and say nothing.
SILENT = {"socket", "asyncio", "uvloop", "trio", "anyio", "anyio on trio"}
# These drop what the kernel said of each server.
BLIND = {"kafka-python", "aiokafka", "nats-py"}
# These resolve in C, where no test reaches: without a name server the answer is another.
IN_C = {"uvloop", "mysql-connector, C", "psycopg2", "grpc", "PySocks"}

# --- Faults ----------------------------------------------------------------------------------------------


def hang_up(connection):
    """Read first what the client has to say: an end of file, and no reset."""
    connection.shutdown(socket.SHUT_WR)
    connection.settimeout(0.05)
    while connection.recv(4096):
        pass


def _reset(connection):
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def _say_nothing(connection):
    time.sleep(1.5)  # MySQL clients wait for the greeting without a limit


def serve(handle):
    """Return a listener; *handle* is called with each connection, in a thread of its own."""
    listener = socket.create_server((HOST, 0))

    def one(connection):
        with contextlib.suppress(OSError, EOFError), connection:
            handle(connection)

    def accept():
        with contextlib.suppress(OSError):  # closed
            while True:
                threading.Thread(target=one, args=listener.accept()[:1], daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    return listener


@contextlib.contextmanager
def serving(*steps):
    """The port of a server that follows *steps*: sends bytes, receives for None, or is called with the connection."""

    def follow(connection):
        connection.settimeout(5)
        for step in steps:
            if step is None:
                connection.recv(65536)
            elif callable(step):
                step(connection)
            else:
                connection.sendall(step)

    with serve(follow) as listener:
        try:
            yield listener.getsockname()[1]
        finally:
            listener.shutdown(socket.SHUT_RDWR)  # wakes accept()


def _refusing():
    sock = socket.socket()
    sock.bind((HOST, 0))
    return sock


FAULTS = {
    "refused": (HOST, _refusing),
    "both addresses refused": ("localhost", _refusing),
    "end of file": (HOST, lambda: serve(hang_up)),
    "reset": (HOST, lambda: serve(_reset)),
    "timed out": (HOST, lambda: serve(_say_nothing)),
    "no name": ("no-such-name.invalid", _refusing),
}


def judge(*names):
    """Return the verdict for each client and each of the faults *names*. Leaves threads behind: use a child process."""
    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")
    socket.getaddrinfo = _getaddrinfo
    cells, listeners = {}, []
    # One after the other, because clients that are imported in threads may deadlock. Time limits run side by side.
    with ThreadPoolExecutor(16) as pool:
        for fault in names:
            host, make = FAULTS[fault]
            listeners.append(listener := make())
            for name, factory in CLIENTS.items():
                dial = functools.partial(judged, functools.partial(factory, host, listener.getsockname()[1]))
                cells[fault, name] = pool.submit(dial)
                if fault != "timed out":
                    cells[fault, name].result()
    return {cell: dial.result() for cell, dial in cells.items()}


_real = socket.getaddrinfo


def _getaddrinfo(host, port, family=0, *args, **kwds):
    name = host.decode() if isinstance(host, bytes) else host
    if name == "no-such-name.invalid":
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
    if name == "localhost":
        addresses = (HOST,) if family == socket.AF_INET else ("::1", HOST)
        return [info for address in addresses for info in _real(address, port, family, *args, **kwds)]
    return _real(host, port, family, *args, **kwds)
