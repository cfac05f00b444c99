"""Signals as a shell in a terminal leaves them, for the tests and their children."""

import signal

import pytest

from safedial.cli.wait import signals


@pytest.fixture(autouse=True)
def _no_signal_is_ignored():
    """nohup ignores SIGHUP, and a shell's background job SIGINT: the wait keeps that, and would not end by them."""
    defaults = dict.fromkeys(signals.ENDING, signal.SIG_DFL) | {signal.SIGINT: signal.default_int_handler}
    before = {number: signal.signal(number, handler) for number, handler in defaults.items()}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)
