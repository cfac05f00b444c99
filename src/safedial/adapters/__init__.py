"""Adapters: a few lines for each library that hand a Dialer, or the guard, to its connections.

One module each, which imports its library and the core, and no other adapter unless the one library is
built on the other. Nothing here is imported by `safedial` itself.
"""

from types import TracebackType
from typing import Any

from safedial._dial.dialer import Dialer

_PLAIN = Dialer()


def checked_dialer(dialer: Any) -> Dialer:
    """Return *dialer*, the default one for None, or raise TypeError."""
    if dialer is None:
        return _PLAIN
    if not isinstance(dialer, Dialer):
        raise TypeError(f"dialer must be a safedial.Dialer or None, not {dialer!r}")
    return dialer


class Needs:
    """Turns an import that fails inside into an ImportError that says what to install."""

    def __init__(self, extra: str) -> None:
        self._extra = extra

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if isinstance(error, ModuleNotFoundError):
            raise ImportError(
                f"safedial.adapters.{self._extra} needs {error.name}: pip install 'safedial[{self._extra}]'",
                name=error.name,
            ) from error
