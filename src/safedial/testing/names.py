"""The faults of a look-up: a name that does not resolve, and one that resolves to another host."""

import contextlib
import socket
import sys
from collections.abc import Generator
from typing import Any

from safedial._address import as_text, family_of, worded
from safedial._forks import loading
from safedial.testing.fault import LOOKUPS, CountingFault, Fault, Unused, must_hit
from safedial.testing.lookups import intercepting_lookups
from safedial.testing.manager import managed

# Not errors that a gaierror has: Python raises the errno's OSError for the first, and the second counts the codes.
_NO_CODES = ("EAI_SYSTEM", "EAI_MAX")
_CODES = {code: name for name, code in vars(socket).items() if name.startswith("EAI_") and name not in _NO_CODES}


@managed
def name_failure(
    name: str, error: int = socket.EAI_AGAIN, times: int | None = None, *, unused: Unused = "error"
) -> Generator[Fault]:
    """Make this process's look-ups of *name* fail with `socket.gaierror`, as the resolver's own. Yield the `Fault`.

    So it is for TCP dials: by `socket.getaddrinfo`, whoever calls it, the event loops of asyncio, uvloop and trio,
    gevent, ``connect()`` with a name, `socket.gethostbyname`, and the *resolver* of a `safedial.Dialer`. Not reached
    are C libraries, and resolvers that ask the name servers themselves: c-ares, dnspython, and with it eventlet's; nor
    what is no TCP dial: ``gethostbyaddr()``, ``bind()`` and UDP with a name, uvloop's servers and UDP.

    Args:
        name: the host name; compared as the DNS does, without regard to case and a dot at the end.
        error: the code of the error: ``socket.EAI_AGAIN``, no name server answers; ``socket.EAI_NONAME``, there is no
            such name. Default: EAI_AGAIN.
        times: how many look-ups, from the next one on; then the resolver is asked again. Default: None, all.
        unused: as for `self_connect`.

    Raises:
        TypeError, ValueError: an argument is wrong; the message names it.
    """
    key = _key(_checked(name))
    if isinstance(error, bool) or not isinstance(error, int):
        raise TypeError(f"error must be a code such as socket.EAI_AGAIN, not {error!r}")
    if error not in _CODES:
        raise ValueError(f"error must be one of socket.{', '.join(sorted(_CODES.values()))}, not {error!r}")
    text = _text(error)
    fault = CountingFault(f"name_failure({name!r})", None, times, unused, LOOKUPS)

    def on_lookup(host: Any, port: Any) -> Any:
        if _key(host) != key:
            if host is not None:
                fault.note(worded(host))
        elif fault.trigger((host, port)):
            fault.means = "simulated"
            raise socket.gaierror(error, text)
        return host

    with must_hit(fault), intercepting_lookups(on_lookup):
        yield fault


@contextlib.contextmanager
def resolving(name: str, host: str) -> Generator[None]:
    """Let *name* resolve to the numeric *host* in this process."""
    key = _key(_checked(name))
    with intercepting_lookups(lambda asked_for, _: host if _key(asked_for) == key else asked_for):
        yield


def _checked(name: object) -> str:
    if not isinstance(name, str):
        raise TypeError(f"name must be a host name, not {name!r}")
    if not name or ":" in name or family_of(name):
        raise ValueError(f"name must be a host name, not {name!r}")
    return name


def _key(host: Any) -> str:
    """Return *host* in the form that names are compared in. A name outside of ASCII equals the one that is sent."""
    if not isinstance(host, str | bytes | bytearray):
        return ""
    text = as_text(host)
    with contextlib.suppress(UnicodeError):
        text = text.encode("idna").decode()
    return text.lower().removesuffix(".")


def _text(code: int) -> str:
    """Return the text that Python gives a gaierror with *code*."""
    if sys.platform != "win32":
        with contextlib.suppress(ImportError, AttributeError, OSError):
            with loading:
                import ctypes  # late: few tests need it

            strerror = ctypes.CDLL(None).gai_strerror
            strerror.restype = ctypes.c_char_p
            return str(strerror(code).decode())
    return "getaddrinfo failed"  # where there is no gai_strerror (socketmodule.c)
