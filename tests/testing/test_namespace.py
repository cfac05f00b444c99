"""Running a function in its own network namespace: its result, its exception, and what can't be pickled."""

import os
import socket
import time

import pytest

from safedial import testing
from tests.support import namespace


@pytest.fixture(autouse=True)
def _this_process_can_make_one():
    """Asked in a test, not when this module is imported: each child imports it."""
    namespace.require()


class TwoError(Exception):
    """An exception that can't be unpickled: pickle keeps only its args."""

    def __init__(self, one, other):
        super().__init__("both")


def interfaces():
    return [name for _, name in socket.if_nameindex()]


def fail(kind):
    raise TwoError(1, 2) if kind == "two" else ValueError("as it was")


def assert_equal(one, two):
    if one != two:
        raise AssertionError  # as of an assert that pytest has not rewritten


def end():
    os._exit(3)


def test_has_only_loopback():
    assert testing.in_namespace(interfaces) == ["lo"]


def test_function_that_cannot_be_pickled():
    with pytest.raises(TypeError, match=r"function and its arguments must be picklable: .*<lambda>"):
        testing.in_namespace(lambda: None)


def test_has_the_given_range():
    assert testing.in_namespace(drawn, port_range=(1024, 1025)) in (1024, 1025)


def drawn():
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


def test_exception_comes_back_with_its_traceback():
    with pytest.raises(ValueError, match="as it was") as caught:
        testing.in_namespace(fail, "plain")
    (note,) = caught.value.__notes__
    assert "in fail" in note
    assert "run_child" not in note
    assert "ValueError: as it was" not in note  # it is the message already


def test_assert_shows_the_values_and_not_more():
    with pytest.raises(AssertionError) as caught:
        testing.in_namespace(assert_equal, 1, "two")
    (note,) = caught.value.__notes__
    assert note.endswith("    one = 1\n    two = 'two'")


@pytest.mark.parametrize(
    "name", ["skip", *(pytest.param(name, marks=pytest.mark.storm) for name in ("fail", "xfail", "exit"))]
)
def test_outcomes_of_pytest(name):
    with pytest.raises(getattr(pytest, name).Exception, match="my reason") as caught:
        testing.in_namespace(end_as, name)
    assert type(caught.value) is getattr(pytest, name).Exception
    assert hasattr(caught.value, "__notes__") == (name != "skip")


def end_as(name):
    getattr(pytest, name)("my reason")


def test_exception_that_cannot_be_unpickled():
    with pytest.raises(RuntimeError, match=r"can't be pickled .*TwoError\('both'\)") as caught:
        testing.in_namespace(fail, "two")
    assert "in fail" in caught.value.__notes__[0]


def test_result_that_cannot_be_pickled():
    with pytest.raises(RuntimeError, match="can't be pickled"):
        testing.in_namespace(socket.socket)


def test_function_that_ends_its_process():
    with pytest.raises(RuntimeError, match="ended its process"):
        testing.in_namespace(end)


def test_time_limit():
    with pytest.raises(TimeoutError, match=r"longer than 0\.5 s"):
        testing.in_namespace(time.sleep, 60, within=0.5)


@pytest.mark.parametrize(
    ("port_range", "error"),
    [
        ((5,), TypeError),
        ("ab", TypeError),
        ((2, 1), ValueError),
        ((80, 81), ValueError),
        ((1, 70000), ValueError),
        (5, TypeError),
    ],
)
def test_bad_ranges(port_range, error):
    with pytest.raises(error, match="port_range"):
        testing.in_namespace(interfaces, port_range=port_range)


def test_function_must_be_callable():
    with pytest.raises(TypeError, match="function"):
        testing.in_namespace("interfaces")


def test_no_ipv6():
    assert namespace.call(ipv6_address, ipv6=False) is None
    assert namespace.call(ipv6_address) == "::1"


def ipv6_address():
    with socket.socket(socket.AF_INET6) as sock:
        try:
            sock.bind(("::1", 0))
        except OSError:
            return None
        return sock.getsockname()[0]
