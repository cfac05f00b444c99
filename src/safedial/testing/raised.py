"""What a client raised: its chain of errors, and the line of the client's own code that raised it."""

import contextlib
import os
from collections.abc import Callable
from traceback import walk_tb
from typing import Any, TypeVar

from safedial._address import printable
from safedial._sentences import one_line

# Directories of code that is nobody's client: Python's own, and what was installed. And safedial's.
_INSTALLED = (f"{os.sep}site-packages{os.sep}", f"{os.sep}dist-packages{os.sep}")
_OTHERS = tuple(os.path.join(os.path.dirname(path), "") for path in (os.__file__, os.path.dirname(__file__)))

T = TypeVar("T")

# BaseException's own: a client's class may have attributes of these names that fail.
_BEHIND: tuple[Any, ...] = (vars(BaseException)["__cause__"], vars(BaseException)["__context__"])
_TRACEBACK: Any = vars(BaseException)["__traceback__"]
_ARGS: Any = vars(BaseException)["args"]
_MEMBERS: Any = vars(BaseExceptionGroup)["exceptions"]


# Not the chain that a policy looks at (`safedial._retry.transient`): that one stops at the kernel's own error, and at
# `raise … from None`. A test must find every exception, because each one's traceback keeps sockets alive.
def error_chain(error: BaseException | None) -> list[BaseException]:
    """Return *error* with its causes, contexts and members of groups, suppressed contexts included."""
    found: list[BaseException] = []
    todo: list[Any] = [error]
    while todo:
        each = todo.pop()
        if not issubclass(type(each), BaseException) or any(each is known for known in found):
            continue
        found.append(each)
        todo += [attribute.__get__(each) for attribute in _BEHIND]
        todo += _ARGS.__get__(each)  # requests and urllib3 have the reason there
        if issubclass(type(each), BaseExceptionGroup):
            todo += _MEMBERS.__get__(each)
    return found


def errno_of(error: BaseException) -> object:
    """Return the errno of *error*; None if it has none."""
    return _tried(lambda: getattr(error, "errno", None))


def words_of(error: BaseException) -> str:
    """Return the class and the message of *error* in one line, without the secrets of URLs."""
    name = type(error).__name__
    said = _tried(lambda: one_line(error))
    return printable(name if said in (None, name) else f"{name}: {said}")


def _tried(ask: Callable[[], T]) -> T | None:
    """Return what a client's error has to say, None if its own code fails: it may raise anything."""
    try:
        return ask()
    except (Exception, SystemExit, GeneratorExit):
        return None


def place_of(error: BaseException) -> str:
    """Return the innermost line of the client's own code that *error* came through, as ``file:line``; "" if none."""
    places = [(frame.f_code.co_filename, line) for frame, line in walk_tb(_TRACEBACK.__get__(error))]
    own = [
        (file, line)
        for file, line in places
        if not file.startswith(("<", *_OTHERS)) and not any(part in file for part in _INSTALLED)
    ]
    if not own:
        return ""
    file, line = own[-1]
    with contextlib.suppress(OSError):  # the working directory is gone
        file = file.removeprefix(os.path.join(os.getcwd(), ""))
    return f"{file}:{line}"
