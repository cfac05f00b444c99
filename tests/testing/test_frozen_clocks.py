"""The fixtures from outside, in users' tests that skip waits or freeze their clock."""

import pytest


@pytest.mark.storm
def test_fast_retries_with_reconnect(run_alone):
    """A minute of waits is over at once, in each way to dial."""
    result = run_alone(
        """
        import asyncio
        import concurrent.futures

        import pytest
        import tenacity

        from safedial import connections, open_connection, reconnect, safe_connect

        HOST = "127.0.0.1"


        @pytest.fixture(autouse=True)
        def time_is_over(fast_retries):
            yield
            assert 55 < sum(fast_retries) <= 60 * 10
            assert len(fast_retries) < 40 * 10


        def test_blocking(refused_port):
            with pytest.raises(ConnectionRefusedError):
                safe_connect((HOST, refused_port), policy=reconnect())


        def test_asyncio(refused_port):
            async def main():
                dials = [open_connection(HOST, refused_port, policy=reconnect(within=60)) for _ in range(10)]
                return await asyncio.gather(*dials, return_exceptions=True)

            assert {*map(type, asyncio.run(main()))} == {ConnectionRefusedError}


        def test_in_threads(refused_port):
            def dial(_):
                with pytest.raises(ConnectionRefusedError):
                    safe_connect((HOST, refused_port), policy=reconnect(within=60))

            with concurrent.futures.ThreadPoolExecutor(10) as pool:
                list(pool.map(dial, range(10)))


        def test_reconnect_loop(refused_port):
            with pytest.raises(ConnectionRefusedError):
                for connection in connections((HOST, refused_port)):
                    with connection:
                        pass


        @pytest.mark.parametrize("again", [False, True])
        def test_tenacity(again):
            @tenacity.retry(stop=tenacity.stop_after_delay(60), wait=tenacity.wait_exponential(max=10), reraise=True)
            def dial():
                raise ConnectionRefusedError

            with pytest.raises(ConnectionRefusedError):
                dial()
        """
    )
    result.assert_outcomes(passed=6)


FROZEN = """
import asyncio
import unittest

import {library}
import pytest

from safedial import open_connection, reconnect, safe_connect

HOST = "127.0.0.1"


@pytest.fixture
def port(outage):
    return outage().port


@{freeze}
def test_reaches_the_second_address(port, silent_port):
    def resolver(*args, **hints):
        return [(2, 1, 6, "", (HOST, number)) for number in (silent_port, port)]

    safe_connect(("db", port), 5, resolver=resolver).close()


@{freeze}
def test_gives_up(refused_port):
    with pytest.raises(ConnectionRefusedError):
        safe_connect((HOST, refused_port), policy=reconnect(within=0.1))


@{freeze}
def test_gives_up_in_asyncio(refused_port):
    with pytest.raises(ConnectionRefusedError):
        asyncio.run(open_connection(HOST, refused_port, policy=reconnect(within=0.1)))


@{freeze}
def test_gives_up_at_once(refused_port, fast_retries):
    with pytest.raises(ConnectionRefusedError):
        safe_connect((HOST, refused_port), policy=reconnect(within=60))
    assert 55 < sum(fast_retries) <= 60


@{freeze}
class TestClass(unittest.TestCase):
    def test_loop_of_tenacity_gives_up(self):
        with pytest.raises(ConnectionRefusedError):
            for attempt in reconnect(within=0.1):
                with attempt:
                    raise ConnectionRefusedError
"""


@pytest.mark.parametrize(
    ("library", "freeze"),
    [
        ("freezegun", "freezegun.freeze_time('2026-01-01')"),
        pytest.param("time_machine", "time_machine.travel(0, tick=False)", marks=pytest.mark.storm),
    ],
)
def test_frozen_clocks(run_alone, library, freeze):
    run_alone(FROZEN.format(library=library, freeze=freeze)).assert_outcomes(passed=5)
