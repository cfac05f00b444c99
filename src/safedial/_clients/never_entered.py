"""The warning about a `guard` or `hold` that nobody entered: it looks safe, and does nothing."""

import warnings

from safedial.events import warn


def warn_never_entered(thing: object, call: str) -> None:
    """Warn that *thing*, the result of *call*, was never entered. For ``__del__``."""
    said = f"{call} was never entered, so it had no effect: write `with {call}:` or `async with {call}:`"
    warn("%s", said)  # Python shows no ResourceWarning by default
    warnings.warn(said, ResourceWarning, stacklevel=3, source=thing)
