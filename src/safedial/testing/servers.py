"""The two kinds of server behind an `Outage`: threads of this process, and a command of the user's.

Each listens on one port from the moment it is made, and can stop, die, freeze and thaw. When it does
so is not known here.
"""

import contextlib
import errno
import os
import selectors
import signal
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from typing import Protocol, TypeAlias

from safedial._dial.dialer import safe_connect
from safedial._tcp.selfconnect import RESET
from safedial.testing.connects import exempt

Address: TypeAlias = tuple[str, int]
Handler: TypeAlias = Callable[[socket.socket], object]

# Seconds for a process to end that was told to; PostgreSQL takes one. Then it is killed.
_PATIENCE = 10.0
# Seconds between two looks: at a process that starts, and at whether to go on accepting.
_LOOK = 0.02
# Seconds for a handler to end whose connection is shut down.
_GRACE = 0.2
# Connections that fill any backlog: net.core.somaxconn is 4096.
_MOST = 5000


class Server(Protocol):
    """A server that listens."""

    @property
    def alive(self) -> bool:
        """Whether it has not ended by itself."""
        ...

    def stop(self) -> None:
        """End as a server does that is told to."""
        ...

    def kill(self) -> None:
        """End as in a crash: connections are reset."""
        ...

    def freeze(self) -> None:
        """Accept nothing more."""
        ...

    def thaw(self) -> None:
        """Go on after `freeze`."""
        ...


def echo(connection: socket.socket) -> None:
    """Send back what comes, the default of an `Outage`."""
    while data := connection.recv(65536):
        connection.sendall(data)


def fill(address: Address) -> list[socket.socket]:
    """Fill the backlog of the server on *address*, which accepts nothing; return what fills it."""
    family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
    with contextlib.ExitStack() as stack, exempt():
        fillers: list[socket.socket] = []
        while len(fillers) < _MOST:
            filler = stack.enter_context(socket.socket(family, socket.SOCK_STREAM))
            filler.setblocking(False)
            fillers.append(filler)
            # On loopback the handshake is over at once, unless the backlog is full.
            if filler.connect_ex(address) and not _writable(filler):
                stack.pop_all()
                return fillers
        raise OSError(errno.ENOBUFS, f"{_MOST} connections did not fill the backlog of port {address[1]}")


def _writable(sock: socket.socket) -> bool:
    with selectors.DefaultSelector() as selector:
        selector.register(sock, selectors.EVENT_WRITE)
        return bool(selector.select(_LOOK))


class ThreadServer:
    """A thread that accepts, and one for each connection."""

    def __init__(self, address: Address, handler: Handler) -> None:
        """Listen on *address*; raise OSError where that can't be."""
        self._handler = handler
        self._port = address[1]
        family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        self._listener = socket.create_server(address, family=family)
        self._listener.settimeout(_LOOK)
        self._open: dict[socket.socket, threading.Thread] = {}
        self.thaw()

    @property
    def alive(self) -> bool:  # noqa: D102  # as in Server
        return True

    def stop(self) -> None:  # noqa: D102
        self._end(reset=False)

    def kill(self) -> None:  # noqa: D102
        self._end(reset=True)

    def freeze(self) -> None:  # noqa: D102
        self._over.set()
        self._acceptor.join()
        self._listener.listen(0)  # the smallest backlog, which is soon full

    def thaw(self) -> None:  # noqa: D102
        self._listener.listen()
        self._over = threading.Event()
        self._acceptor = threading.Thread(target=self._accept, name=f"server on port {self._port}", daemon=True)
        self._acceptor.start()

    def _end(self, *, reset: bool) -> None:
        self._over.set()
        self._acceptor.join()
        self._listener.close()
        for connection, thread in list(self._open.items()):
            with contextlib.suppress(OSError):
                if reset:
                    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
                connection.shutdown(socket.SHUT_RD)  # wakes a handler that reads
            _join(thread)
            if thread.is_alive():
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)  # and one that writes
                _join(thread)
            connection.close()  # whatever its handler waits for

    def _accept(self) -> None:
        while not self._over.is_set():
            try:
                connection, _ = self._listener.accept()
            except TimeoutError:
                continue
            except OSError:  # the client has gone, or no descriptor is free: then it waits still
                self._over.wait(_LOOK)
                continue
            connection.settimeout(None)
            thread = threading.Thread(target=self._handle, args=(connection,), daemon=True)
            self._open[connection] = thread
            thread.start()

    def _handle(self, connection: socket.socket) -> None:
        try:
            with connection, contextlib.suppress(OSError):  # the client has gone
                self._handler(connection)
        finally:
            self._open.pop(connection, None)


def _join(thread: threading.Thread) -> None:
    if thread is not threading.current_thread():  # a handler may end its own server
        thread.join(_GRACE)


class ProcessServer:
    """A command that serves: redis-server, say. It leads a process group of its own."""

    def __init__(self, address: Address, command: Sequence[str], within: float) -> None:
        """Run *command* and wait until it answers on *address*, for *within* seconds at most."""
        _check_free(address)
        host, port = address
        self._output = tempfile.TemporaryFile()  # noqa: SIM115  # lives as long as the process
        try:
            self._process = subprocess.Popen(  # noqa: S603  # the user's own command, without a shell
                [word.replace("{host}", host).replace("{port}", str(port)) for word in command],
                stdin=subprocess.DEVNULL,
                stdout=self._output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            try:
                self._await(address, within)
            except BaseException:
                self.kill()
                raise
        except BaseException:
            self._output.close()
            raise

    def stop(self) -> None:  # noqa: D102
        self.thaw()
        self._process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_PATIENCE)
        self.kill()

    def kill(self) -> None:  # noqa: D102
        self._signal(signal.SIGKILL)
        self._process.wait()
        self._output.close()

    def freeze(self) -> None:  # noqa: D102
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:  # noqa: D102
        self._signal(signal.SIGCONT)

    def _signal(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, number)

    def _await(self, address: Address, within: float) -> None:
        end = time.monotonic() + within
        while True:
            if (status := self._process.poll()) is not None:
                raise OSError(f"{self._process.args!r} ended with status {status}: {self._said()}")
            # Guarded: it dials a dead port in a loop.
            with contextlib.suppress(OSError), exempt(), safe_connect(address, within or _LOOK, policy=None):
                return
            if time.monotonic() > end:
                raise TimeoutError(f"{self._process.args!r} did not listen within {within:g} s: {self._said()}")
            time.sleep(_LOOK)

    @property
    def alive(self) -> bool:  # noqa: D102  # as in Server
        return self._process.poll() is None

    def _said(self) -> str:
        self._output.seek(0)
        return self._output.read()[-2000:].decode(errors="replace").strip() or "it said nothing"


def _check_free(address: Address) -> None:
    """Raise OSError where *address* is taken: by whoever it is, not by the command."""
    family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        if os.name == "posix":
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as servers do
        probe.bind(address)
