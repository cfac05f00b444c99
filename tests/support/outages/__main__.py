"""Run the matrix, in a network of its own if this process may have one."""

import contextlib
import logging

from tests.support import namespace
from tests.support.outages import matrix

with contextlib.suppress(OSError):
    namespace.enter_network()
logging.getLogger("safedial").addHandler(logging.NullHandler())  # self-connects are made on purpose
matrix.main()
