"""`install` and `uninstall`: the guard for a whole program."""

import contextlib
import functools
from collections.abc import Iterable
from types import ModuleType
from typing import Any

from safedial._address import Address, check_host, check_port, describe, pair, shown
from safedial._clients import attributes, c_drivers, entering, green, mistakes, patch, unreached
from safedial._clients.guard import guard_all, unguard_all
from safedial._clients.hold import hold as hold_port
from safedial._clients.import_hook import Imported, Watch
from safedial.events import OnEvent, check_hook

_held = contextlib.ExitStack()  # the ports of `hold`, of all calls
_addresses: set[Address] | None = None  # what is in it; None if no call has given a list


@mistakes.advised(mistakes.of_install)
def install(*, on_event: OnEvent | None = None, hold: Iterable[Address] | None = None) -> None:
    """Guard the TCP connects of the whole process, in all threads, from now on: one line for a program of any kind.

    Call it first: at the top of a script, of Django's ``settings.py``, of the module of a Celery app or of a WSGI or
    ASGI application. It may be called again, which also mends what somebody else's patch of sockets has undone.

    It reaches:

    - what Python code connects, in every thread, task and greenlet: all that `guard` reaches;
    - the drivers psycopg, psycopg2, mysqlclient and mysql-connector, which dial in C, and uvloop. The port is held, as
      by `hold`, while they dial. It does not matter whether they are imported already, or what is on top of them:
      pools, SQLAlchemy, Django. Their functions and classes stay what they are.

    It does not reach other libraries that dial in C, many of them in threads of their own: grpc, ZeroMQ, librdkafka,
    libcurl, ODBC, … If such a library is imported, before or later, a WARNING names it, once. If the
    library dials this host, *hold* the ports. Some dials of the drivers above need *hold* too: calls of their C modules
    (``_mysql.connect()``, ``psycopg2.extensions.connection()``), mysqlclient's automatic reconnects (``ping(True)``),
    addresses in option files that include others, and libpq's requests to cancel a query.

    A process that is forked is guarded as its parent is. One that is spawned, or comes from a fork server, calls this
    itself: ``ProcessPoolExecutor(initializer=safedial.install)``, or a line of the module that it imports. Reloaders
    (uvicorn's, Django's, Flask's) start such processes, and these run the first lines of the program. gevent and
    eventlet may patch sockets before or after.

    Args:
        on_event: as for `guard`; and it gets ``connected`` or ``failed`` for each dial of these drivers (of psycopg:
            for each address), with the driver's name as `client`. A later call replaces it. Default: None.
        hold: a list of (host, port): ports to hold until `uninstall`, for clients that dial for as long as they live. A
            server that sets SO_REUSEADDR, as most do, can bind and listen meanwhile: see `hold`. Names are resolved
            once, now. The lists of several calls add up. After a list, even an empty one, libraries are named at INFO:
            only the ports that are held are safe. Default: None, no further ports.

    Raises:
        TypeError, ValueError: an argument is wrong; the message names it.
        OSError: the resolver's, for *hold*.
        RuntimeError: a name in *hold* would be resolved in a running event loop.

    Example::

        safedial.install(hold=[("127.0.0.1", 5555)])  # ZeroMQ's
    """
    check_hook(on_event)
    wanted = _checked(hold)
    with contextlib.ExitStack() as stack:
        while not _hold_and_guard(on_event, wanted, stack):
            pass  # another thread called uninstall() meanwhile, and let go of a port
    entering.check_install()
    _watch.look()


def uninstall() -> None:
    """Undo `install`: everything that it replaced is put back, and its ports are free.

    Guards and holds that are entered stay in force. Without `install`, it does nothing.
    """
    with patch.lock:
        held = _put_all_back()
    c_drivers.release_all()
    held.close()


def _hold_and_guard(on_event: OnEvent | None, wanted: set[Address] | None, stack: contextlib.ExitStack) -> bool:
    """Hold in *stack* what is *wanted* and not held yet, and guard. Return False if a port was let go of meanwhile."""
    held = set(_addresses or ())
    for address in (wanted or set()) - held:
        _enter(address, stack)
    with patch.lock:
        return _guard_in_one_step(on_event, wanted, held, stack)


# One step, and one step back: with another thread in between, install() and uninstall() would leave half of each.
def _guard_in_one_step(
    on_event: OnEvent | None, wanted: set[Address] | None, held: set[Address], stack: contextlib.ExitStack
) -> bool:
    global _addresses
    now = _addresses or set()
    if wanted is not None and wanted & (held - now):
        return False
    guard_all(on_event)
    _watch.begin()
    if wanted is not None:
        _held.push(stack.pop_all())
        _addresses = wanted | now
    return True


def _put_all_back() -> contextlib.ExitStack:
    """Put back what was replaced, and return the ports to let go of."""
    global _addresses
    _watch.end()
    unguard_all()
    attributes.put_back()
    _addresses = None
    return _held.pop_all()


def _unreached(name: str, _: ModuleType) -> None:
    unreached.tell(name, holds=_addresses is not None)


_replaced: dict[str, Imported] = {
    name: functools.partial(attributes.replace, places)
    for name, places in {**c_drivers.DRIVERS, **green.PATCHERS}.items()
}
_watch = Watch({**dict.fromkeys(unreached.UNREACHED, _unreached), **_replaced})


def _checked(hold: Any) -> set[Address] | None:
    """Return the addresses of *hold*, or raise TypeError or ValueError."""
    if hold is None:
        return None
    wrong = f"hold must be a list of (host, port) pairs, hold=[(host, port)], not {shown(hold)}"
    if not hasattr(hold, "__iter__") or isinstance(hold, str | bytes):
        raise TypeError(wrong)
    given = list(hold)
    if given and isinstance(given[0], str | bytes | None):  # one pair
        raise TypeError(wrong)
    addresses: set[Address] = set()
    for address in given:
        host, port = pair(address, "hold")
        check_host(host, "hold")
        check_port(port, "hold")
        addresses.add((host, port))
    return addresses


def _enter(address: Address, stack: contextlib.ExitStack) -> None:
    try:
        stack.enter_context(hold_port(address))
    except RuntimeError:
        said = f"hold would stop the event loop while it resolves {describe(*address)}: call install() before the loop"
        raise RuntimeError(said) from None
