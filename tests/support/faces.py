"""The names of `dials` before they were moved there."""

from tests.support.dials import DIALS as FACES
from tests.support.dials import LOOPS, Ends, run

__all__ = ["FACES", "LOOPS", "Ends", "run"]
