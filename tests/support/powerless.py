"""Run a command without any capability, like an ordinary user's process."""

import ctypes
import os
import sys

_PR_CAPBSET_DROP, _PR_SET_SECUREBITS = 24, 28  # linux/prctl.h
_NOROOT_LOCKED = 0b11  # linux/securebits.h: exec does not give root its capabilities back
_LAST_CAPABILITY = 63


def main():
    prctl = ctypes.CDLL(None).prctl
    for capability in range(_LAST_CAPABILITY + 1):
        prctl(
            _PR_CAPBSET_DROP, capability, 0, 0, 0
        )  # fails for those that the kernel doesn't know, or this process lacks
    prctl(_PR_SET_SECUREBITS, _NOROOT_LOCKED, 0, 0, 0)
    os.execv(sys.argv[1], sys.argv[1:])


if __name__ == "__main__":
    main()
