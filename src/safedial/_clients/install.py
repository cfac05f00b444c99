"""`install` and `uninstall`: the guard for a whole program."""

from safedial._clients.guard import guard_all, unguard_all
from safedial.events import OnEvent, check_hook


def install(*, on_event: OnEvent | None = None) -> None:
    """Guard the connects of the whole process, in all threads, from now on. One call is enough.

    Args:
        on_event: as for `guard`. A later call replaces it. Default: None.
    """
    check_hook(on_event)
    guard_all(on_event)


def uninstall() -> None:
    """Undo `install`. Guards that are entered stay in force."""
    unguard_all()
