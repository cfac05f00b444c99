"""What a client raised: its chain of errors, and the line of the client's own code that raised it."""

import contextlib
import os
from traceback import walk_tb
from typing import cast

# Directories of code that is nobody's client: Python's own, and what was installed. And safedial's.
_INSTALLED = (f"{os.sep}site-packages{os.sep}", f"{os.sep}dist-packages{os.sep}")
_OTHERS = tuple(os.path.join(os.path.dirname(path), "") for path in (os.__file__, os.path.dirname(__file__)))


# Not the chain that a policy looks at (`safedial._retry.transient`): that one stops at the kernel's own error, and at
# `raise … from None`. A test must find every exception, because each one's traceback keeps sockets alive.
def error_chain(error: BaseException | None) -> list[BaseException]:
    """Return *error* with its causes, contexts and members of groups, suppressed contexts included."""
    found: list[BaseException] = []
    todo: list[BaseException | None] = [error]
    while todo:
        each = todo.pop()
        if each is None or any(each is known for known in found):
            continue
        found.append(each)
        # requests and urllib3 have the reason among the arguments.
        reasons = [reason for reason in each.args if isinstance(reason, BaseException)]
        group = cast("BaseExceptionGroup[BaseException]", each)
        members = group.exceptions if isinstance(each, BaseExceptionGroup) else ()
        todo += [each.__cause__, each.__context__, *members, *reasons]
    return found


def place_of(error: BaseException) -> str:
    """Return the innermost line of the client's own code that *error* came through, as ``file:line``; "" if none."""
    places = [(frame.f_code.co_filename, line) for frame, line in walk_tb(error.__traceback__)]
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
