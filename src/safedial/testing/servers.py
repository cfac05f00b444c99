"""The two kinds of server behind an `Outage`: threads of this process, and a command of the user's.

Each listens on its port once `begin` is over. An interrupt may end that half-way, so it is no part of the making: who
has made a server can end it at any moment. Neither is started again after its end: a new one is made.
"""

import _socket
import contextlib
import errno
import inspect
import os
import selectors
import signal
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from typing import IO, TypeAlias

from safedial import _clock
from safedial._address import family_of
from safedial._dial.dialer import safe_connect
from safedial._tcp.selfconnect import RESET
from safedial.testing.freezable import freezable
from safedial.testing.intercept import bypassing
from safedial.testing.ports import bind
from safedial.testing.process_group import ProcessGroup

Address: TypeAlias = tuple[str, int]
Handler: TypeAlias = Callable[[socket.socket], object]
# A handler, or a command as a list of words.
Server: TypeAlias = Handler | Sequence[str]

# As in `resilience`.
__tracebackhide__ = True
# Seconds that a command has to end after SIGTERM, before it is killed; PostgreSQL takes one.
_PATIENCE = 10.0
# Seconds between two looks: at a command that starts, and at whether to go on accepting. No connect on loopback takes
# as long, unless the backlog is full.
_LOOK = 0.02
# Seconds that a handler has to end after its connection was shut down, and all of them have before.
_GRACE = 0.2
# Seconds between two looks at whether a handler has taken what has come.
_TURN = 0.001
# Connections that fill any backlog: net.core.somaxconn is 4096.
_MOST = 5000


def echo(connection: socket.socket) -> None:
    """Send back all data that comes; the default handler of an `Outage`."""
    while data := connection.recv(65536):
        connection.sendall(data)


def hang_up(connection: socket.socket) -> None:
    """Let a client read an end of file at once; a handler.

    To close the connection is not enough: if the client has sent something, it reads a reset instead. The end of file
    comes first here. So it is still read after the reset (tcp_recvmsg), and only what the client sends then fails.
    """
    connection.shutdown(socket.SHUT_WR)


def check_not_async(server: object) -> None:
    """Raise TypeError if *server* is an async function, which no thread would await."""
    if inspect.iscoroutinefunction(server):
        raise TypeError("server must be a plain function, not an async one: it is called in a thread of its own")


def fill(address: Address) -> contextlib.ExitStack:
    """Fill the backlog of a server that accepts nothing. Return the stack that closes the connections in it."""
    with contextlib.ExitStack() as stack:
        for _ in range(_MOST):
            # Of the class that has no fault and no guard, whose hooks are for the program's own dials.
            filler = stack.enter_context(contextlib.closing(_socket.socket(family_of(address[0]), socket.SOCK_STREAM)))
            filler.settimeout(_LOOK)
            try:
                filler.connect(address)
            except TimeoutError:
                return stack.pop_all()
        raise OSError(errno.ENOBUFS, f"{_MOST} connections did not fill the backlog of port {address[1]}")


class ThreadServer:
    """A thread that accepts, and one thread for each connection.

    The handler gets a connection, and an event that is set when this server ends. *failed* is called with what a
    handler raises, unless it is an OSError, or this server was ending its connection.
    """

    alive = True

    def __init__(
        self,
        address: Address,
        handler: Callable[[socket.socket, threading.Event], object],
        failed: Callable[[BaseException], object],
    ) -> None:
        self._address, self._handler, self._failed = address, handler, failed
        self._listener: socket.socket | None = None
        self._open: dict[socket.socket, threading.Thread] = {}
        self._thawed, self._ended, self._over = threading.Event(), threading.Event(), threading.Event()
        self._acceptor = threading.Thread()

    def begin(self) -> None:
        """Listen."""
        self._listener = socket.create_server(self._address, family=family_of(self._address[0]))
        self._listener.settimeout(_LOOK)
        self.thaw()

    def freeze(self) -> None:
        """Accept nothing more, and let the handlers wait."""
        self._thawed.clear()
        self._over.set()
        self._acceptor.join()
        if self._listener is not None:
            self._listener.listen(0)  # the smallest backlog, which is soon full

    def thaw(self) -> None:
        """Accept connections."""
        self._thawed.set()
        if self._listener is not None:
            self._listener.listen()
            self._over = threading.Event()
            self._acceptor = threading.Thread(
                target=self._accept, args=(self._listener,), name="server of an outage", daemon=True
            )
            self._acceptor.start()

    def end(self, *, kill: bool) -> None:
        """Stop listening, and close the connections. If *kill* is set, reset them."""
        self._over.set()
        if self._acceptor.is_alive():  # one whose start was interrupted ends by itself
            self._acceptor.join()
        self.leave_to_parent()
        if self._thawed.is_set():
            self._settle()
        self._ended.set()
        for connection, thread in list(self._open.items()):
            if kill:
                with contextlib.suppress(OSError):
                    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            # The first wakes a handler that reads, the second one that writes.
            for direction in (socket.SHUT_RD, socket.SHUT_RDWR):
                with contextlib.suppress(OSError):
                    connection.shutdown(direction)
                if thread is not threading.current_thread():  # a handler may end its own server
                    thread.join(_GRACE)
                if not thread.is_alive():
                    break
            connection.close()  # even if its handler waits for something else

    def leave_to_parent(self) -> None:
        """Close this process's copy of what listens."""
        if self._listener is not None:
            self._listener.close()

    def _settle(self) -> None:
        """Let the handlers take what their clients have sent, or that those have gone.

        So it does not depend on chance whether an exception of a handler is its own, or comes from the end.
        """
        end = _clock.real() + _GRACE
        for connection, thread in list(self._open.items()):
            if thread is not threading.current_thread():
                while thread.is_alive() and _has_come(connection) and _clock.real() < end:
                    thread.join(_TURN)

    def _accept(self, listener: socket.socket) -> None:
        while not self._over.is_set():
            try:
                connection, _ = listener.accept()
            except TimeoutError:
                continue
            except OSError:  # the client has gone, or no descriptor is free and the client still waits
                self._over.wait(_LOOK)
                continue
            connection = freezable(connection, self._thawed, self._ended)
            thread = threading.Thread(target=self._handle, args=(connection,), daemon=True)
            self._open[connection] = thread
            thread.start()

    def _handle(self, connection: socket.socket) -> None:
        try:
            with connection:
                try:
                    self._handler(connection, self._ended)
                except OSError:  # the client has gone
                    pass
                except BaseException as error:  # pytest.fail() raises no Exception
                    if not self._ended.is_set():
                        self._failed(error)
        finally:
            self._open.pop(connection, None)


def _has_come(connection: socket.socket) -> bool:
    """Return whether a handler can read something, or an end of file."""
    with selectors.DefaultSelector() as selector, contextlib.suppress(OSError, ValueError):  # closed
        selector.register(connection, selectors.EVENT_READ)
        return bool(selector.select(0))
    return False


class ProcessServer:
    """A command that serves, such as redis-server, in a process group of its own."""

    def __init__(self, address: Address, command: Sequence[str], within: float) -> None:
        self._address, self._command, self._within = address, command, within
        self._name = command[0]  # the other words may have a password
        self._output: IO[bytes] | None = None
        self._group: ProcessGroup | None = None
        self._process: subprocess.Popen[bytes] | None = None

    def begin(self) -> None:
        """Run the command, and wait until it listens."""
        # A server that already listens there must not be mistaken for the command.
        with socket.socket(family_of(self._address[0]), socket.SOCK_STREAM) as probe:
            if os.name == "posix":
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as servers do
            bind(probe, *self._address)
        host, port = self._address
        self._output = tempfile.TemporaryFile()  # noqa: SIM115  # until the end
        self._group = ProcessGroup()
        self._process = subprocess.Popen(  # noqa: S603  # the user's own command, without a shell
            [word.replace("{host}", host).replace("{port}", str(port)) for word in self._command],
            stdin=subprocess.DEVNULL,
            stdout=self._output,
            stderr=subprocess.STDOUT,
            process_group=self._group.number,
        )
        self._await(self._process)

    @property
    def alive(self) -> bool:
        """Whether the command is running."""
        return self._process is not None and self._process.poll() is None

    def end(self, *, kill: bool) -> None:
        """Kill the whole process group. Unless *kill* is set, first let the command end by itself."""
        if self._process is not None and not kill:
            self.thaw()
            self._process.terminate()
            end = _clock.real() + _PATIENCE
            while self.alive and _clock.real() < end:  # not wait(): freezegun stops its clock
                time.sleep(_LOOK)
        if self._group is not None:
            self._group.kill()
        if self._process is not None:
            self._process.kill()  # it may have left the group
            self._process.wait()
        if self._output is not None:
            self._output.close()

    def leave_to_parent(self) -> None:
        """Nothing: a forked child has no copy of it. A `ProcessGroup` looks after itself."""

    def freeze(self) -> None:
        """Suspend the process group, so that it accepts nothing and answers nothing."""
        if self._group is not None:
            self._group.freeze()
        self._signal("SIGSTOP")

    def thaw(self) -> None:
        """Let the process group go on."""
        if self._group is not None:
            self._group.thaw()
        self._signal("SIGCONT")

    def _signal(self, name: str) -> None:
        """Signal the command itself: it may have left the group, or the group gets no signals."""
        if self._process is not None:
            self._process.send_signal(getattr(signal, name))  # Windows has neither

    def _await(self, process: "subprocess.Popen[bytes]") -> None:
        within = self._within
        end = _clock.real() + within
        while True:
            if (status := process.poll()) is not None:
                raise OSError(f"{self._name} ended with status {status}: {self._printed()}")
            # Guarded, because it dials a dead port in a loop.
            with contextlib.suppress(OSError), bypassing(), safe_connect(self._address, within or _LOOK, policy=None):
                return
            if _clock.real() > end:
                raise TimeoutError(f"{self._name} did not listen within {within:g} s: {self._printed()}")
            time.sleep(_LOOK)

    def _printed(self) -> str:
        if self._output is None:
            return ""
        self._output.seek(0)
        return self._output.read()[-2000:].decode(errors="replace").strip() or "it printed nothing"
