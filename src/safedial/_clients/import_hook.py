"""An import hook: calls back once a module of a given name has been executed."""

import contextlib
import functools
import importlib
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any, TypeAlias, cast

# Called with the name of a module that was just executed, for the first time or by importlib.reload(), and the module.
Imported: TypeAlias = Callable[[str, ModuleType], object]


class Watch:
    """A finder that finds nothing itself. It is the first of sys.meta_path from `begin` to `end`."""

    def __init__(self, wanted: Mapping[str, Imported]) -> None:
        self._wanted = wanted
        self._asking = threading.local()

    def begin(self) -> None:
        """Call back for each of the modules that is imported from now on."""
        if self not in sys.meta_path:
            sys.meta_path.insert(0, self)

    def look(self) -> None:
        """Call back for those that are imported already."""
        for name, imported in self._wanted.items():
            _wait_for_import(name)
            if isinstance(sys.modules.get(name), ModuleType):  # not a mock
                try:
                    # A thread that began since then may be half-way through it. This waits, too.
                    module = importlib.import_module(name)
                except Exception:  # noqa: S112  # its import failed, as the other thread tells
                    continue
                imported(name, module)

    def end(self) -> None:
        """Stop calling back."""
        with contextlib.suppress(ValueError):
            sys.meta_path.remove(self)

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return what the other finders find, with a loader that calls back; None for other modules."""
        imported = self._wanted.get(name)
        if imported is None or getattr(self._asking, "name", None) == name:  # another hook asks all finders again
            return None
        self._asking.name = name
        try:
            spec = _found(name, path, target, self)
        finally:
            self._asking.name = None
        if spec is not None and hasattr(spec.loader, "exec_module"):
            spec.loader = cast("Any", _Loader(spec.loader, functools.partial(imported, name)))
        return spec


def _wait_for_import(name: str) -> None:
    """Wait until no other thread imports the module.

    At the end of an import, the module is out of sys.modules for a moment (importlib._bootstrap._load_unlocked).
    """
    # Only if another thread imports it: an exception of a signal handler may leave importlib's own lock taken.
    bootstrap: Any = getattr(importlib, "_bootstrap", None)
    with contextlib.suppress(AttributeError):  # private names, which the import statement itself uses
        if name in bootstrap._module_locks:
            bootstrap._lock_unlock_module(name)


def _found(name: str, path: Any, target: Any, asking: Watch) -> ModuleSpec | None:
    for finder in tuple(sys.meta_path):
        find: Any = getattr(finder, "find_spec", None)
        if finder is not asking and find is not None and (spec := find(name, path, target)) is not None:
            found: ModuleSpec = spec
            return found
    return None


class _Loader:
    """A module's own loader, until the module is executed. The module gets its own loader then."""

    def __init__(self, loader: Any, imported: Callable[[ModuleType], object]) -> None:
        self._own, self._imported = loader, imported

    def __getattr__(self, name: str) -> Any:
        if name == "_own":  # copy and pickle look before __init__
            raise AttributeError(name)
        return getattr(self._own, name)

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        module: ModuleType | None = self._own.create_module(spec)
        return module

    def exec_module(self, module: ModuleType) -> None:
        if getattr(module, "__loader__", None) is self:
            module.__loader__ = self._own
        spec: Any = module.__spec__
        if getattr(spec, "loader", None) is self:
            spec.loader = self._own
        self._own.exec_module(module)
        self._imported(module)
