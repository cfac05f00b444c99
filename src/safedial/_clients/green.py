"""gevent and eventlet: they may put their own sockets in the stdlib's place after `install`, which are guarded then."""

from typing import Any

from safedial._clients import hooks, patch
from safedial._clients.hooks import Place


def _guards(plain: Any) -> Any:
    def patching(*args: Any, **kwds: Any) -> Any:
        try:
            return plain(*args, **kwds)
        finally:
            if hooks.active():
                patch.renew()

    return patching


# By the module to hook.
PATCHERS: dict[str, tuple[Place, ...]] = {
    # patch_all() calls it, too.
    "gevent.monkey": (Place("patch_socket", _guards),),
    # One function under two names.
    "eventlet": (Place("monkey_patch", _guards), Place("patcher.monkey_patch", _guards)),
}
