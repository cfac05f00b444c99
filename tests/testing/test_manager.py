"""Context managers that are not used as they should be: never entered, or twice, or with a wrong argument."""

import functools
import socket
import sys
import traceback

import pytest

from safedial import testing

HOST = "127.0.0.1"
MAKERS = {
    "self_connect(...)": functools.partial(testing.self_connect, 5),
    "address_not_available()": testing.address_not_available,
    "name_failure(...)": functools.partial(testing.name_failure, "db"),
    "refused_port()": testing.refused_port,
    "silent_port()": testing.silent_port,
    "server_port()": testing.server_port,
    "fast_retries()": testing.fast_retries,
}


@pytest.fixture(params=MAKERS)
def call(request):
    return request.param


@pytest.fixture
def make(call):
    return MAKERS[call]


def test_never_entered_is_a_warning_at_the_line_of_the_user(call, make):
    with pytest.warns(UserWarning, match="never entered") as caught:
        make()
    line = sys._getframe().f_lineno - 1
    (warning,) = caught
    assert str(warning.message) == f"{call} was never entered, so it had no effect: write `with {call}:`"
    assert (warning.filename, warning.lineno) == (__file__, line)


def test_decorator_is_no_warning(make):
    make()(print)


class TestTwice:
    def test_inside_of_itself(self, dead_port):
        manager = testing.self_connect(dead_port)
        with manager as outer:
            with pytest.raises(RuntimeError, match=r"this self_connect\(\.\.\.\) is entered already"), manager:
                pytest.fail("it began")
            with socket.create_connection((HOST, dead_port)) as sock:
                assert sock.getsockname() == sock.getpeername()
        assert outer.triggered == 1
        assert not {"connect", "connect_ex"} & vars(socket.socket).keys()

    def test_one_after_another(self):
        manager = testing.refused_port()
        for _ in range(2):
            with manager:
                pass
        with pytest.raises(RuntimeError, match=r"this refused_port\(\) is not entered"):
            manager.__exit__(None, None, None)


class TestWrongArguments:
    @pytest.mark.parametrize(
        ("make", "error"),
        [
            (lambda: testing.self_connect(0), ValueError),
            (lambda: testing.self_connect("x"), TypeError),
            (lambda: testing.self_connect(5, time=3), TypeError),
            (lambda: testing.silent_port("10.255.255.1"), OSError),
        ],
    )
    def test_traceback_is_short(self, make, error):
        manager = make()
        with pytest.raises(error) as caught, manager:
            pytest.fail("it began")
        assert [frame.name for frame in traceback.extract_tb(caught.value.__traceback__)][1:] == ["__enter__"]
        with pytest.raises(error), manager:
            pytest.fail("it began")


def test_never_entered_is_seen_by_users_of_pytest(run_alone):
    code = """
        from safedial import testing


        def test_forgets_the_with():
            testing.self_connect(5)
    """
    result = run_alone(code, "-W", "default")
    result.assert_outcomes(passed=1, warnings=1)
    result.stdout.fnmatch_lines(["*.py:5: UserWarning: self_connect(...) was never entered, so it had no effect: *"])
    result = run_alone(code)  # warnings are errors
    assert result.ret == 1
    result.stdout.fnmatch_lines(["*UserWarning: self_connect(...) was never entered, *"])
