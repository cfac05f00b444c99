"""Warnings at the entry of a guard, about dials that it may not reach: uvloop's, or all if another patch is undone.

Each is logged once in a process.
"""

import sys
from typing import Any

from safedial._address import shown
from safedial._clients import patch
from safedial.events import is_first, warn

# Modules whose replacements of connect() are known to end after a guard that was entered under them.
_ENDS_LATER = ("pytest_socket",)
_warned: dict[str, object] = {}


def check_guard(*, everywhere: bool) -> None:
    """Warn of what a guard that was just entered may not reach. *everywhere*: `install` is in force, too."""
    _warn_of_replacement("enter guard() again")
    if not everywhere:
        _warn_of_uvloop()


def check_install() -> None:
    """Warn of what may undo `install`."""
    _warn_of_replacement("call install() again")


def _warn_of_uvloop() -> None:
    if "uvloop" not in sys.modules or "uvloop" in _warned:
        return
    running: Any = getattr(sys.modules.get("asyncio"), "_get_running_loop", None)  # as in `_steps.in_event_loop`
    loop = None if running is None else running()
    if type(loop).__module__.startswith("uvloop") and is_first(_warned, "uvloop"):
        warn(
            "guard() does not reach asyncio.open_connection() and loop.create_connection() on uvloop, which dials in "
            "C: call safedial.install() first, or make the loop by "
            "safedial.adapters.asyncio.new_event_loop(uvloop.Loop)"
        )


def _warn_of_replacement(again: str) -> None:
    if "replacement" in _warned or (below := patch.replacement()) is None:
        return
    ends_later = str(getattr(below, "__module__", "")).startswith(_ENDS_LATER)
    if not ends_later and is_first(_warned, "replacement"):
        warn(
            "the connect() of socket.socket is replaced by %s now; if that is undone, the guard is gone: %s",
            shown(below),
            again,
        )
