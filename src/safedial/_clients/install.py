"""`install` and `uninstall`: the guard for a whole program."""

import contextlib
import functools
from collections.abc import Iterable
from types import ModuleType
from typing import Any

from safedial._address import check_host, check_port, pair, shown
from safedial._clients import c_drivers, green, hooks, patch, unreached
from safedial._clients.guard import guard_all, unguard_all
from safedial._clients.hold import Address
from safedial._clients.hold import hold as hold_port
from safedial._clients.hooks import Place
from safedial._clients.imports import Imported, Watch
from safedial.events import OnEvent, check_hook

_held: contextlib.ExitStack | None = None  # the ports of `hold`


def install(*, on_event: OnEvent | None = None, hold: Iterable[Address] | None = None) -> None:
    """Guard the connects of the whole process, in all threads, from now on. One call is enough.

    Args:
        on_event: as for `guard`. A later call replaces it. Default: None.
        hold: TODO.
    """
    check_hook(on_event)
    if hold is not None:
        _replace_held(_entered(_checked(hold)))
    guard_all(on_event)
    hooks.begin()
    _watch.begin()


def uninstall() -> None:
    """Undo `install`. Guards that are entered stay in force."""
    _watch.end()
    hooks.end()
    c_drivers.release_all()
    unguard_all()
    _replace_held(None)


def _unreached(module: ModuleType) -> None:
    if _held is None:  # a program that holds ports knows
        unreached.warn(module)


def _hooked(places: tuple[Place, ...]) -> Imported:
    return functools.partial(hooks.hook, places=places)


_watch = Watch(
    {
        **dict.fromkeys(unreached.UNREACHED, _unreached),
        **{name: _hooked(places) for name, places in {**c_drivers.DRIVERS, **green.PATCHERS}.items()},
    }
)


def _checked(hold: Any) -> list[Address]:
    """Return *hold* as a list, or raise TypeError or ValueError."""
    wrong = f"hold must be a list of (host, port) pairs, hold=[(host, port)], not {shown(hold)}"
    if not hasattr(hold, "__iter__") or isinstance(hold, str | bytes):
        raise TypeError(wrong)
    addresses = list(hold)
    if addresses and isinstance(addresses[0], str | bytes | None):  # one pair
        raise TypeError(wrong)
    for address in addresses:
        host, port = pair(address, "hold")
        check_host(host, "hold")
        check_port(port, "hold")
    return addresses


def _entered(addresses: list[Address]) -> contextlib.ExitStack | None:
    """Hold the ports of all *addresses*, or none and raise."""
    with contextlib.ExitStack() as stack:
        for address in addresses:
            stack.enter_context(hold_port(address))
        return stack.pop_all() if addresses else None
    raise AssertionError  # an ExitStack may suppress exceptions, for type checkers


def _replace_held(held: contextlib.ExitStack | None) -> None:
    global _held
    with patch.lock:
        old, _held = _held, held
    if old is not None:
        old.close()
