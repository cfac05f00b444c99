"""What an adapter says about a client that it does not take: what it got, and the line that is right."""

import inspect
from types import ModuleType
from typing import Any

from safedial._clients.lines import ADAPTERS


def mistaken(argument: str, wanted: str, given: Any, instead: str, adapter: str) -> TypeError:
    """Return the error for *given*, which is not what *adapter* wanted. *instead* is the line for a URL or the like."""
    # No repr of strings and objects: a URL and a client may have a password.
    package = type(given).__module__.partition(".")[0]
    what, hint = f"{package}.{type(given).__name__}", instead
    if isinstance(given, int | float | None):
        what = repr(given)
    elif package == "builtins":
        what = f"a {type(given).__name__}"
    elif package in ADAPTERS and package != adapter:
        hint = f"safedial.adapters.{package}.protect(...)"
    if isinstance(given, type | ModuleType):
        what = f"the {'class' if isinstance(given, type) else 'module'} {given.__name__}"
    elif inspect.isawaitable(given):
        hint = "protect(await ...)"
    return TypeError(f"{argument} must be {wanted}, not {what}. Write {hint}")
