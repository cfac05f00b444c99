"""A look at 200,000 sockets: right counts, in bounded memory. `python -m bench.doctor` prints its CPU time, too."""

import pytest

from safedial.cli.doctor import table
from tests.cli.doctor import many
from tests.support import namespace

SOCKETS, MEGABYTES = 200_000, 200  # the doctor's promise


@pytest.mark.storm
def test_counts_and_memory():
    namespace.require()
    before, after, count, waiting, peak, _ = namespace.call(many.look, SOCKETS, port_range=many.PORT_RANGE)
    assert after <= count <= before + 1, "the listener, and what has not ended: TIME_WAIT lasts a minute"
    assert after > SOCKETS / 2, "this machine is too slow"
    assert len(waiting) == table.MOST_CROWDS
    assert waiting[8:] == [1] * (table.MOST_CROWDS - 8)
    assert (count - 1) * 0.4 < sum(waiting[:8]) < (count - 1) * 0.6
    assert peak < MEGABYTES
