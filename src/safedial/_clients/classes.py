"""Classes that connect, made safe as subclasses: for pools, ``isinstance()`` and type checkers they stay classes."""

import dataclasses
import functools
import inspect
import types
from collections.abc import Callable, Iterable
from typing import Any

from safedial._address import Address
from safedial._clients.factories import Factory


def driver_class(factory: Factory, wrapped: Callable[[Factory], Any]) -> type:
    """Return a subclass of a driver's class whose ``connect`` is *wrapped*: it is safe whenever it connects."""
    kind: Any = factory.make
    dial: Any = inspect.getattr_static(kind, "connect")

    def find_for(connection: Any, /, *args: Any, **kwds: Any) -> Iterable[Address]:
        if hasattr(connection, "server_host"):  # mysql-connector's: reconnect() gives no arguments
            kwds = {"host": connection.server_host, "port": connection.server_port} | kwds
        return factory.find(*args, **kwds)

    safe = wrapped(dataclasses.replace(factory, make=getattr(dial, "__func__", dial), find=find_for))
    return _subclass(kind, type(kind), {"connect": classmethod(safe) if isinstance(dial, classmethod) else safe})


def calling_class(factory: Factory, call: Callable[..., Any]) -> type:
    """Return a subclass of a class that connects when it is called. *call* makes the object that it is called for.

    Raises:
        TypeError: the class can't have subclasses.
    """
    kind: Any = factory.make
    meta: Any = kind.__class__

    def dial(cls: Any, *args: Any, **kwds: Any) -> Any:
        return call(functools.partial(meta.__call__, cls), args, kwds)

    def original(cls: Any) -> Any:  # noqa: ARG001  # a property's
        return kind

    def signature(cls: Any) -> inspect.Signature:
        own = cls.__init__ is not kind.__init__  # a subclass's
        return inspect.signature(types.MethodType(cls.__init__, cls) if own else kind)

    members = {"__call__": dial, "__wrapped__": property(original), "__signature__": property(signature)}
    return _subclass(kind, type("Dialing", (meta,), members), {})


def _subclass(kind: Any, meta: Any, members: dict[str, Any]) -> type:
    same = {name: getattr(kind, name) for name in ("__doc__", "__module__", "__qualname__")}
    safe: Any = meta(kind.__name__, (kind,), {"__slots__": (), **same, **members})
    if hasattr(kind, "__parameters__"):
        safe.__parameters__ = kind.__parameters__  # still generic: Generic took it for a subclass without parameters
    result: type = safe
    return result
