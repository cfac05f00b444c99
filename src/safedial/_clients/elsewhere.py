"""The warning about a dial that is not guarded, while a `guard` is entered in another thread or task.

That looks safe if, for example, an application enters a guard around its startup, and dials in handlers. These are
other tasks.
"""

import contextlib
import inspect
import socket
import weakref
from typing import TypeAlias

from safedial._address import SockAddr, describe
from safedial._clients.layers import Below
from safedial._clients.patch import User, lock
from safedial._tcp import steering
from safedial.events import warn

# The file and the line of a guard.
Site: TypeAlias = tuple[str, int]

# If the range can't be read. Linux draws from here on by default, and other systems do, or from higher ports.
_LOWEST = 32768
_LOOPBACK = ("localhost", "::1", "", "0.0.0.0", "::")  # noqa: S104  # a connect to the wildcards goes to this host


class Watched(User):
    """A user of the guard, and the site that entered it: there is one warning for each site, and none for None."""

    site: Site | None = None


_entered: set[weakref.ref[Watched]] = set()
_told: set[Site | None] = {None}


def watch(user: Watched) -> None:
    """Warn of dials that *user*, who entered a guard, does not reach."""
    if user.site not in _told:
        _entered.add(weakref.ref(user, _entered.discard))


def unwatch(user: Watched) -> None:
    """Undo `watch`."""
    _entered.discard(weakref.ref(user))


def is_watched() -> bool:
    """Return whether a guard is entered at some site that no warning has named yet."""
    return bool(_entered)


def connect(sock: socket.socket, address: SockAddr, below: Below) -> None:
    """Connect *sock* by means of *below*, unguarded, and warn if a guard was probably meant to reach it."""
    try:
        below(sock, address)
    finally:
        if may_draw(address[1]) and is_here(sock, address[0]) and not _dialed_by_us():
            _warn(address)


def is_untold(site: Site | None) -> bool:
    """Return whether no warning has named *site* yet."""
    return site not in _told


def tell(site: Site) -> None:
    """Note that a warning names *site*."""
    with lock:
        _told.add(site)


def may_draw(port: int) -> bool:
    """Return whether the kernel may draw *port*, as far as is known."""
    ports = steering.known_range()
    return port >= _LOWEST if ports is None else ports.low <= port <= ports.high


def is_here(sock: socket.socket, host: object) -> bool:
    """Return whether *host* is this host, as far as can be told without asking for its addresses."""
    name = host.decode(errors="replace") if isinstance(host, bytes) else host
    if name in _LOOPBACK or str(name).startswith("127."):
        return True
    with contextlib.suppress(LookupError, OSError, TypeError):  # a fake may have no address
        return bool(sock.getsockname()[0] == name)  # a host reaches itself from the address that it dials
    return False


def _dialed_by_us() -> bool:
    """Return whether a Dialer, which needs no guard, makes this connect."""
    frame = inspect.currentframe()
    while frame is not None:
        if str(frame.f_globals.get("__name__")).startswith(("safedial._dial", "safedial._tcp")):
            return True
        frame = frame.f_back
    return False


def _untold() -> set[Site | None]:
    """Return the sites that no warning has named yet, and count them as named."""
    refs = _entered.copy()
    users = [ref() for ref in refs]
    found = {user.site for user in users if user is not None and user.open} - _told
    _told.update(found)
    _entered.difference_update(refs)  # not one that another thread has added since
    return found


def _warn(address: SockAddr) -> None:
    with lock:
        found = _untold()
    if found:
        where = ", ".join(sorted(f"{site[0]}:{site[1]}" for site in found if site is not None))
        warn(
            "this dial to %s was not guarded: the guard() at %s is entered in another thread or task, and does not "
            "reach here; call safedial.install() when the program starts, or use wrap() or an adapter's protect()",
            describe(*address[:2]),
            where,
        )
