"""What the extra ``cli`` brings."""

import importlib


def has_rich() -> bool:
    """Return whether rich is installed."""
    try:
        importlib.import_module("rich")  # by itself: an ImportError in our own modules is a bug
    except ImportError:
        return False
    return True
