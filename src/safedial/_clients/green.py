"""gevent and eventlet: they may put their own sockets in the stdlib's place after `install`, which are guarded then."""

from typing import Any

from safedial._clients import patch
from safedial._clients.attributes import Place
from safedial.events import warn


def _guards(plain: Any) -> Any:
    def patching(*args: Any, **kwds: Any) -> Any:
        try:
            return plain(*args, **kwds)
        finally:
            _renew()

    return patching


def _renew() -> None:
    try:
        patch.renew()
    except TypeError as error:  # of a version whose methods can't be replaced
        warn("sockets that are patched after install() are not guarded: patch them before it (%s)", error)


# By the module whose attributes are replaced.
PATCHERS: dict[str, tuple[Place, ...]] = {
    # patch_all() calls it, too.
    "gevent.monkey": (Place("patch_socket", _guards),),
    # One function under two names.
    "eventlet": (Place("monkey_patch", _guards), Place("patcher.monkey_patch", _guards)),
}
