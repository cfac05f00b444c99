"""When lanes start, by a clock that only the test moves."""

import asyncio

import pytest

from safedial.race import race
from tests.support import faces


class Clock(asyncio.SelectorEventLoop):
    """An event loop whose time jumps to the next timer whenever nothing is ready."""

    def __init__(self):
        super().__init__()
        self.now = 0.0
        select = self._selector.select

        def jump(timeout=None):
            if timeout:
                self.now += timeout
            return select(0)

        self._selector.select = jump

    def time(self):
        return self.now


@pytest.mark.parametrize(
    ("lanes", "winner", "starts", "end"),
    [
        # each lane: (seconds that it takes, whether it wins)
        ([(1, True)], 0, [0], 1),
        ([(9, True), (9, True)], 0, [0, 3], 9),
        ([(9, True), (1, True)], 1, [0, 3], 4),
        ([(1, False), (1, True)], 1, [0, 1], 2),
        ([(1, False), (9, True), (1, True)], 2, [0, 1, 4], 5),
        ([(4, False), (9, False), (9, True)], 2, [0, 3, 6], 15),
        ([(20, True), (1, False), (1, True)], 2, [0, 3, 4], 5),
        ([(1, False), (1, False)], None, [0, 1], 2),
        ([], None, [], 0),
    ],
)
def test_lanes_start_after_the_delay_or_at_once_after_a_failure(lanes, winner, starts, end):
    async def main():
        loop = asyncio.get_running_loop()
        started, discarded = [], []

        def lane(number, seconds, wins):
            async def run():
                started.append(loop.time())
                await asyncio.sleep(seconds)
                return number if wins else None

            return run

        found = await race([lane(i, *each) for i, each in enumerate(lanes)], 3, discarded.append)
        assert len(asyncio.all_tasks()) == 1
        return found, started, loop.time(), discarded

    found, started, ended, discarded = faces.run(main(), Clock)
    assert (found, started, ended, discarded) == (winner, starts, end, [])


def test_two_winners_at_once_one_is_discarded():
    async def main():
        discarded = []

        def lane(name):
            async def run():
                await asyncio.sleep(3)
                return name

            return run

        async def late():
            return "late"

        # The second lane starts at 3 and wins in the same turn as the first.
        winner = await race([lane("first"), late], 3, discarded.append)
        await asyncio.sleep(0)
        return {winner, *discarded}

    assert faces.run(main(), Clock) <= {"first", "late"}
