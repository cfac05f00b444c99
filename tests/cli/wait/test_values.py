"""The values of the options."""

import argparse

import pytest
from hypothesis import given
from hypothesis import strategies as st

from safedial.cli.wait.values import duration, statuses


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("60", 60.0),
        ("0", 0.0),
        ("0.5", 0.5),
        (".5", 0.5),
        ("500ms", 0.5),
        ("1s", 1.0),
        ("1.5m", 90.0),
        ("2h", 7200.0),
        ("10 s", 10.0),
        (" 10s\n", 10.0),  # from a file
    ],
)
def test_durations(text, seconds):
    assert duration(text) == seconds


@pytest.mark.parametrize(
    "text",
    ["", "s", "-1", "-1s", "1d", "1m30s", "1e3", "inf", "nan", "1_000", "1,5", ".", "1.", "1S", "٣", "9" * 13, "1  s"],
)
def test_no_duration(text):
    with pytest.raises(argparse.ArgumentTypeError, match="such as 60, 500ms"):
        duration(text)


def test_longer_than_python_can_wait():
    with pytest.raises(argparse.ArgumentTypeError, match="can't be waited for"):
        duration("999999999999h")


@given(st.integers(0, 10**6), st.sampled_from([("ms", 1e-3), ("s", 1), ("m", 60), ("h", 3600), ("", 1)]))
def test_each_number_with_its_unit(number, unit):
    assert duration(f"{number}{unit[0]}") == pytest.approx(number * unit[1])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("200", {200}),
        ("200,204", {200, 204}),
        ("200, 204", {200, 204}),
        ("2xx", set(range(200, 300))),
        ("2XX,302", {*range(200, 300), 302}),
    ],
)
def test_statuses(text, expected):
    assert statuses(text) == expected


@pytest.mark.parametrize(
    "text", ["", "200,", ",", "20", "2000", "6xx", "0xx", "600", "099", "2x", "ok", "200-204", "٢٠٠"]
)
def test_no_statuses(text):
    with pytest.raises(argparse.ArgumentTypeError, match="such as 200,204 or 2xx"):
        statuses(text)


@given(st.sets(st.integers(100, 599), min_size=1))
def test_each_set_of_statuses(wanted):
    assert statuses(",".join(map(str, wanted))) == wanted


def test_argparse_shows_the_words(capsys):
    parser = argparse.ArgumentParser()
    parser.add_argument("--timeout", type=duration)
    with pytest.raises(SystemExit, match="2"):
        parser.parse_args(["--timeout", "soon"])
    assert "argument --timeout: a duration is a number and ms, s, m or h" in capsys.readouterr().err
