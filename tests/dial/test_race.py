"""When the attempts of a race start, how long each may take, and which wins. Time is simulated."""

import asyncio
import gc
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from safedial._dial import race_sockets, race_tasks
from safedial._dial.race import Race, fair_share
from tests.support import dials

REFUSED = ConnectionRefusedError(111, "Connection refused")


class Clock(asyncio.SelectorEventLoop):
    """An event loop whose time jumps to the next timer when nothing is ready."""

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


def in_tasks(race, attempts):
    """Race *attempts*, each (its duration in seconds, whether it connects), with the asyncio driver."""

    async def main():
        loop = asyncio.get_running_loop()
        started, discarded = [], []

        async def attempt(number, limit):
            started.append(loop.time())
            seconds, wins = attempts[number]
            try:
                async with asyncio.timeout(limit):
                    await asyncio.sleep(seconds)
            except TimeoutError:
                race.failed(number, loop.time())
                return None
            if not wins:
                race.failed(number, loop.time())
            return number if wins else None

        winner = await race_tasks.run(race, attempt, discarded.append)
        assert len(asyncio.all_tasks()) == 1
        assert discarded == []
        return winner, started, loop.time()

    return dials.run(main(), Clock)


class ScriptedAttempt:
    """An Attempt as `race_sockets` uses it, which ends at a scripted time."""

    def __init__(self, world, number):
        self.world, self.number = world, number
        self.seconds, self.wins = world.attempts[number]
        self.ends = world.now + self.seconds
        self.sock, self.closed = self, False
        world.started.append(world.now)

    def begin(self):
        return self._over() if self.seconds == 0 else False

    def arrived(self):
        return self._over()

    def connect(self, limit):
        late = limit is not None and limit < self.seconds
        self.world.now += limit if late else self.seconds
        if late:
            self.closed = True
            raise TimeoutError("timed out")
        self._over()

    def close(self, error=None):
        self.closed = True

    def _over(self):
        self.closed = not self.wins
        if self.closed:
            raise REFUSED
        return True


class World:
    """A selector and a clock: select() moves the time on to the next event."""

    def __init__(self, attempts):
        self.attempts, self.now, self.started, self.made, self.watched = attempts, 0.0, [], [], {}

    def make(self, number):
        self.made.append(ScriptedAttempt(self, number))
        return self.made[-1]

    def register(self, attempt, events, data):
        self.watched[attempt] = data

    def unregister(self, attempt):
        del self.watched[attempt]

    def select(self, timeout):
        first = min((attempt.ends for attempt in self.watched), default=math.inf)
        self.now = min(first, self.now + timeout)
        ready = [attempt for attempt in self.watched if attempt.ends <= self.now]
        return [(type("Key", (), {"data": self.watched[attempt]}), 2) for attempt in ready]

    def close(self):
        pass


def with_a_selector(race, attempts):
    """Do as `in_tasks` does, with the driver for blocking sockets."""
    world = World(attempts)
    failed = lambda number, error: race.failed(number, world.now)  # noqa: E731
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("selectors.DefaultSelector", lambda: world)
        winner = race_sockets.run(race, world.make, failed, lambda: world.now)
    assert all(attempt.closed for attempt in world.made if attempt is not winner)
    assert winner is None or not winner.closed
    return winner and winner.number, world.started, world.now


DRIVERS = pytest.mark.parametrize("drive", [in_tasks, with_a_selector])


@DRIVERS
@pytest.mark.parametrize(
    ("attempts", "winner", "starts", "end"),
    [
        # Each attempt: (its duration, whether it connects). The delay is 3.
        ([(1, True)], 0, [0], 1),
        ([(9, True), (9, True)], 0, [0, 3], 9),
        ([(9, True), (1, True)], 1, [0, 3], 4),
        ([(1, False), (1, True)], 1, [0, 1], 2),
        ([(0, False), (1, True)], 1, [0, 0], 1),
        ([(9, True), (0, True)], 1, [0, 3], 3),
        ([(1, False), (9, True), (1, True)], 2, [0, 1, 4], 5),
        ([(4, False), (9, False), (9, True)], 2, [0, 3, 6], 15),
        ([(20, True), (1, False), (1, True)], 2, [0, 3, 4], 5),
        ([(1, False), (1, False)], None, [0, 1], 2),
        ([], None, [], 0),
    ],
)
def test_attempts_start_after_the_delay_or_at_once_after_a_failure(drive, attempts, winner, starts, end):
    assert drive(Race(len(attempts), 3), attempts) == (winner, starts, end)


# Go's TestDialParallel (src/net/dial_test.go), with its delays in units of its slowTimeout. Go races two
# lists of addresses; here each address has its own attempt.
INSTANT, FALLBACK, SLOW = 0, 0.2, 1


@DRIVERS
@pytest.mark.parametrize(
    ("primary", "fallback", "winner", "elapsed"),
    [
        ((INSTANT, True), (INSTANT, True), 0, INSTANT),
        ((SLOW, True), (INSTANT, True), 1, FALLBACK),
        ((SLOW, True), (SLOW, True), 0, SLOW),
        ((INSTANT, False), (INSTANT, True), 1, INSTANT),
        ((SLOW, False), (SLOW, True), 1, FALLBACK + SLOW),
        ((SLOW, False), (INSTANT, True), 1, FALLBACK),
        ((INSTANT, False), (SLOW, True), 1, SLOW),
        ((SLOW, True), (INSTANT, False), 0, SLOW),
        ((INSTANT, False), (INSTANT, False), None, INSTANT),
        ((SLOW, False), (INSTANT, False), None, SLOW),
    ],
)
def test_go_dial_parallel(drive, primary, fallback, winner, elapsed):
    found, _, ended = drive(Race(2, FALLBACK), [primary, fallback])
    assert (found, ended) == (winner, pytest.approx(elapsed))


@DRIVERS
@pytest.mark.parametrize("delay", [None, 0, 0.3, 5])
def test_go_fallback_delay(drive, delay):
    """Go's TestDialerFallbackDelay: the second address starts after exactly that time."""
    _, starts, _ = drive(Race(2, delay), [(60, False), (1, True)])
    assert starts == [0, 60 if delay is None else delay]


@DRIVERS
def test_without_a_delay_attempts_follow_each_other(drive):
    assert drive(Race(3, None), [(9, False), (0, False), (4, True)]) == (2, [0, 9, 9], 13)


@DRIVERS
def test_attempt_ends_at_its_timeout(drive):
    assert drive(Race(3, 3, 5), [(9, True)] * 3) == (None, [0, 3, 6], 11)
    assert drive(Race(3, None, 5), [(9, True)] * 3) == (None, [0, 5, 10], 15)


@DRIVERS
def test_attempt_ends_at_its_fair_share_and_at_the_end_of_the_race(drive):
    assert drive(Race(3, None, None, 12), [(20, True)] * 3) == (None, [0, 4, 8], 12)
    assert drive(Race(3, None, 1, 12), [(20, True)] * 3) == (None, [0, 1, 2], 3)
    assert drive(Race(3, 1, None, 12), [(20, True)] * 3) == (None, [0, 1, 2], 12)
    # A fair share is at least 2 s, so the last addresses get none.
    assert drive(Race(999, None, None, 5), [(20, True)] * 999) == (None, [0, 2, 4], 5)
    assert drive(Race(999, 1.5, None, 5), [(20, True)] * 999) == (None, [0, 1.5, 3, 4.5], 5)


@DRIVERS
def test_race_that_begins_after_its_end_makes_one_attempt(drive):
    assert drive(Race(3, 1, None, -1), [(9, True)] * 3) == (None, [0], 0)


@DRIVERS
def test_attempts_may_take_days(drive):
    assert drive(Race(2, 3, 1e9), [(1e6, False), (1e6, True)])[2] == 1e6 + 3


def test_second_of_two_winners_is_discarded():
    async def main():
        discarded = []

        async def attempt(number, limit):
            await asyncio.sleep(3 - 3 * number)
            return number

        # The second attempt starts at 3 and wins in the same turn as the first.
        winner = await race_tasks.run(Race(2, 3), attempt, discarded.append)
        await asyncio.sleep(0)
        return [winner, *discarded]

    assert dials.run(main(), Clock) in ([0], [0, 1])


def test_two_attempts_that_raise_at_once():
    """The first exception is raised. The second is retrieved, or asyncio would log it."""

    async def main():
        complaints = []
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: complaints.append(context))

        async def attempt(number, limit):
            await asyncio.sleep(3 - 3 * number)
            raise LookupError(number)

        with pytest.raises(LookupError):
            await race_tasks.run(Race(2, 3), attempt, print)
        gc.collect()
        await asyncio.sleep(0)
        return complaints

    assert dials.run(main(), Clock) == []


@pytest.mark.parametrize(
    ("left", "addresses", "share"),
    [
        # Go's TestDialerPartialDeadline
        (12, 1, 12),
        (12, 2, 6),
        (12, 3, 4),
        (12, 999, 2),
        (1.9, 999, 1.9),
        (0, 1, 0),
        (-1, 1, 0),
    ],
)
def test_go_partial_deadline(left, addresses, share):
    assert fair_share(left, addresses) == share


@given(st.floats(0, 1e9), st.integers(1, 10_000))
def test_share_is_fair_and_never_past_the_end(left, addresses):
    share = fair_share(left, addresses)
    assert share <= left
    assert share >= min(left, 2) or share * addresses >= left


@given(
    st.lists(st.tuples(st.integers(0, 50), st.booleans()), min_size=1, max_size=8),
    st.one_of(st.none(), st.integers(1, 10)),
    st.one_of(st.none(), st.integers(1, 20)),
    st.one_of(st.just(math.inf), st.integers(1, 100)),
)
def test_both_drivers_agree(attempts, delay, timeout, end):
    # The drivers may differ if two attempts end at the same instant. Sums of square roots of primes
    # are all different, so no two do.
    roots = [math.sqrt(prime) / 100 for prime in (2, 3, 5, 7, 11, 13, 17, 19)]
    attempts = [(seconds + root, wins) for (seconds, wins), root in zip(attempts, roots, strict=False)]
    tasks = in_tasks(Race(len(attempts), delay, timeout, end), attempts)
    sockets = with_a_selector(Race(len(attempts), delay, timeout, end), attempts)
    assert tasks[0] == sockets[0]
    assert tasks[1:] == (pytest.approx(sockets[1]), pytest.approx(sockets[2]))
