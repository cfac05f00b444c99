"""tenacity's waits, recorded instead of slept."""

import pytest
import tenacity

import safedial
from safedial import testing
from tests.support import dials


class TestFastRetries:
    def test_records_the_waits_of_safedial(self, dial, dead_port):
        policy = tenacity.Retrying(
            retry=safedial.retry_if_transient,
            wait=tenacity.wait_incrementing(start=1000, increment=1000),
            stop=tenacity.stop_after_attempt(4),
        )
        with testing.fast_retries() as waits, pytest.raises(ConnectionRefusedError):
            dial("127.0.0.1", dead_port, policy=policy)
        assert waits == [1000, 2000, 3000]

    def test_nested_and_in_any_order(self):
        policy = tenacity.Retrying(wait=tenacity.wait_fixed(3600), stop=tenacity.stop_after_attempt(2), reraise=True)
        one, two = testing.fast_retries(), testing.fast_retries()
        outer, inner = one.__enter__(), two.__enter__()
        with pytest.raises(KeyError):
            policy({}.__getitem__, "x")
        one.__exit__(None, None, None)
        two.__exit__(None, None, None)
        assert outer == inner == [3600]
        assert tenacity.DoSleep(3) == 3

    @pytest.mark.parametrize("coroutine", [False, True])
    def test_records_the_waits_of_any_policy(self, coroutine):
        options = {"wait": tenacity.wait_fixed(3600), "stop": tenacity.stop_after_attempt(3), "reraise": True}

        async def broken():
            raise LookupError

        def call():
            if coroutine:
                dials.run(tenacity.retry(**options)(broken)())
            else:
                tenacity.retry(**options)({}.__getitem__)("x")

        with testing.fast_retries() as waits, pytest.raises(LookupError):
            call()
        assert waits == [3600, 3600]
        assert isinstance(tenacity.DoSleep, type)

    def fail(self):
        policy = tenacity.Retrying(wait=tenacity.wait_fixed(3600), stop=tenacity.stop_after_attempt(2), reraise=True)
        with pytest.raises(KeyError):
            policy({}.__getitem__, "x")

    def test_nested_and_the_inner_one_ends_first(self):
        """Both lists are equal when the inner one ends; it, not the outer one, must stop recording."""
        plain = tenacity.DoSleep
        with testing.fast_retries() as outer:
            with testing.fast_retries() as inner:
                assert outer == inner
            self.fail()
            assert (outer, inner) == ([3600], [])
        assert tenacity.DoSleep is plain

    def test_restored_after_an_error(self):
        plain = tenacity.DoSleep
        with pytest.raises(LookupError), testing.fast_retries(), testing.fast_retries():
            raise LookupError
        assert tenacity.DoSleep is plain

    def test_again_after_the_end(self):
        for _ in range(2):
            with testing.fast_retries() as waits:
                self.fail()
            assert waits == [3600]
