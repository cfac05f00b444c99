"""Coroutines run without an event loop, and within a time limit."""

import asyncio
import sys
import types
import unittest.mock

import pytest

from safedial._steps import finish, within
from tests.support import dials


async def answer(value):
    return value


async def suspend(cleaned_up):
    try:
        await asyncio.sleep(0)
    finally:
        cleaned_up.append(True)


async def fail(error):
    raise error


class TestFinish:
    def test_result_is_returned(self):
        assert finish(answer(7)) == 7

    def test_stop_iteration_of_a_plain_function_is_raised(self):
        async def call(function):
            return function()

        with pytest.raises(StopIteration, match="mock"):
            finish(call(unittest.mock.Mock(side_effect=StopIteration("mock"))))

    def test_exception_is_raised(self):
        with pytest.raises(LookupError, match="no such"):
            finish(fail(LookupError("no such")))

    @pytest.mark.parametrize(
        ("arguments", "message"), [((), "a blocking dial can't await"), (("no hook may await",), "no hook may await")]
    )
    def test_coroutine_that_suspends_is_closed(self, arguments, message):
        cleaned_up = []
        steps = suspend(cleaned_up)
        with pytest.raises(TypeError, match=message):
            finish(steps, *arguments)
        assert cleaned_up == [True]


class TestWithin:
    @pytest.mark.parametrize("seconds", [None, 60])
    def test_result_is_returned(self, seconds):
        assert dials.run(within(seconds, answer(7))) == 7

    def test_coroutine_is_cancelled_at_the_limit(self, loop_factory):
        with pytest.raises(TimeoutError, match=r"^timed out$"):
            dials.run(within(0.01, asyncio.sleep(3600)), loop_factory)

    @pytest.mark.parametrize("seconds", [None, 60])
    def test_other_timeouts_are_raised_unchanged(self, seconds):
        error = TimeoutError(110, "Connection timed out")
        with pytest.raises(TimeoutError) as caught:
            dials.run(within(seconds, fail(error)))
        assert caught.value is error


def test_trio_that_another_thread_imports_just_now_does_not_run(monkeypatch):
    monkeypatch.setitem(sys.modules, "trio", types.ModuleType("trio"))
    assert asyncio.run(within(1, asyncio.sleep(0, "done"))) == "done"
