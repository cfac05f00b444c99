"""Functions of the C library that Python lacks. A failure is an OSError, as with Python's own."""

import ctypes
import os

_libc = ctypes.CDLL(None, use_errno=True)


def call(name, *args):
    """Return what the function *name* returns for *args*; a negative number is a failure."""
    result = getattr(_libc, name)(*args)
    if result < 0:
        raise OSError(ctypes.get_errno(), f"{name}: {os.strerror(ctypes.get_errno())}")
    return result
