"""Other people's guards: functions and classes that somebody put in a library's place.

Cassettes (vcrpy), mocks and DNS pinning replace the function or class by which a library dials. A safe class has a dial
of its own, and would bypass them. So each one asks here first, and leaves the dial to them, guarded.
"""

from collections.abc import Callable
from types import ModuleType
from typing import Any

from safedial._address import checked
from safedial._clients.drivers import no_addresses
from safedial._clients.factories import name_of
from safedial._clients.wrap import wrapped
from safedial._dial.dialer import Dialer
from safedial._dial.replaced import is_theirs
from safedial._retry.argument import DEFAULT


def own_class(module: ModuleType, name: str) -> Any:
    """Return the class *name* that *module* defined, also if somebody replaced it before this adapter was loaded."""
    kinds: list[Any] = [getattr(module, name), object]
    for kind in kinds:  # it grows
        if isinstance(kind, type):
            if (kind.__module__, kind.__qualname__) == (module.__name__, name):
                return kind
            kinds += type.__subclasses__(kind)
    raise ImportError(f"{module.__name__}.{name} was replaced: import safedial's adapter before that")


def refuse_bypass(safe: str, module: ModuleType, **own_classes: Any) -> None:
    """Raise RuntimeError if somebody replaced one of *module*'s *own_classes*, which the class *safe* would bypass."""
    for name, own in own_classes.items():
        if (found := getattr(module, name)) is not own:
            raise RuntimeError(
                f"{safe} would bypass {name_of(found)}, which somebody put in the place of "
                f"{module.__name__}.{name}, as cassettes do: use {module.__name__}.{name} here, inside safedial.guard()"
            )


def can_dial(dialer: Dialer, address: Any) -> bool:
    """Return whether *dialer* takes *address*. If not, the library's own dial raises its own error."""
    try:
        checked(address, dialer.family)
    except (TypeError, ValueError):
        return dialer.resolver is not None  # it must not be bypassed: the Dialer's error is raised
    return True


def by_library(dialer: Dialer, dial: Callable[..., Any], *args: Any, **kwds: Any) -> Any:
    """Return what *dial*, the library's own dial or another in its place, returns: guarded, under *dialer*'s policy."""
    if dialer.resolver is not None:
        raise RuntimeError(
            f"dialer has a resolver, which {name_of(dial)} does not ask. Somebody put that in the library's place, and "
            "safedial does not bypass it: use a Dialer without a resolver here"
        )
    return wrapped(dial, no_addresses, dialer.policy, dialer.on_event)(*args, **kwds)


def connected(dialer: Dialer, module: Any, address: tuple[Any, Any], timeout: Any, **more: Any) -> Any:
    """Return a connected socket: *dialer*'s, or that of *module*'s ``create_connection`` if somebody replaced it.

    Also if *dialer* does not take *address*. *timeout* is the library's default, *more* are its own arguments.
    """
    create_connection = module.create_connection
    if can_dial(dialer, address) and not is_theirs(create_connection, module.__name__.partition(".")[0]):
        return dialer.dial(address)
    timeout = timeout if dialer.timeout is DEFAULT else dialer.timeout
    return by_library(dialer, create_connection, address, timeout, dialer.source_address or None, **more)
