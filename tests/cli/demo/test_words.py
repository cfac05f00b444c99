import dataclasses
import errno
import os

import pytest

from safedial.cli.demo import ordinary, scene, self_connect, words

IN_USE = os.strerror(errno.EADDRINUSE)
LIMITS = scene.Limits()
BACK = {"binds": 1, "after": 0.0, "reached": True}
GONE = {"binds": 400, "failed": 400, "error": IN_USE}
LOOP = self_connect.Tally(name="safedial", port=40000, limits=LIMITS, dials_before=100_000, seconds_before=4.0, **BACK)
CLIENT = ordinary.Tally(
    name="safedial", port=40002, limits=LIMITS, other_port=65535, dials=2000, drawn=True, works=True, **BACK
)


def loop(**changes):
    return dataclasses.replace(LOOP, **changes)


def client(**changes):
    return dataclasses.replace(CLIENT, **changes)


def test_the_self_connect():
    assert "100,000 times in 4.00 s, and was never connected to itself." in words.dialed(LOOP)
    assert "until the kernel drew 40000" in words.dialed(loop(self_connects=1))
    assert "safedial released 2 self-connects" in words.dialed(loop(released=2))
    assert "forced: without success" in words.dialed(loop(forced=True))


def test_dials_while_the_server_tries_to_come_back():
    assert words.dialed_on(loop(dials=100_000)) == ""
    assert words.dialed_on(loop(dials=100_001)) == "Meanwhile the loop dialed on: 100,001 times in all."
    assert words.dialed_on(loop(dials=100_001, self_connects=2)).endswith("and was connected to itself 2 times.")


def test_its_own_request_read_as_the_answer():
    assert 'sent "GET user:1" and read back "GET user:1"' in words.echoed(loop(read=scene.REQUEST))
    assert words.echoed(loop(read=scene.ANSWER)) == ""


def test_steering():
    assert "kept off local port 40000" in words.steering(40000, steered=True)
    assert "can't be steered" in words.steering(40000, steered=False)


def test_the_ordinary_connection():
    assert "port 65535 connected 2,000 times in 0.00 s, until the kernel drew 40002" in words.connected(CLIENT)
    assert "forced: 40002 was the only local port to draw." in words.connected(client(forced=True))
    assert "never drew 40002, so this act shows nothing." in words.connected(client(drawn=False))
    assert words.works(CLIENT).endswith("still works.")
    assert words.works(client(works=False)).endswith("does not work any more.")


def test_whether_the_server_came_back():
    assert words.came_back(LOOP, "") == "The server was back in 0.00 s, and its client reached it."
    late = loop(binds=2, failed=1, error=IN_USE, reached=False)
    assert f"after 1 failed bind ({IN_USE}), but its client did not reach it." in words.came_back(late, "")
    gone = loop(**GONE, after=None, reached=False)
    assert words.came_back(gone, "Why.").endswith(f"bind failed 400 times in 2 s, {IN_USE}. Why.")


@pytest.mark.parametrize(
    ("tallies", "sentence", "good"),
    [
        (
            [loop(self_connects=1, read=scene.REQUEST, after=None), client(after=None)],
            "it read its own request as the answer, and neither of its servers could come back.",
            False,
        ),
        ([loop(self_connects=4, after=None)], "its server could not come back.", False),
        ([loop(self_connects=4)], "its server came back.", True),
        ([LOOP, CLIENT], "it was never given a self-connected socket, and both of its servers came back.", True),
        ([LOOP, client(drawn=False, binds=0, after=None)], "socket, and its server came back.", True),
        ([LOOP, client(after=None)], "socket, and only one of its servers came back.", False),
    ],
)
def test_the_verdict(tallies, sentence, good):
    said, well = words.verdict(tallies)
    assert said.startswith("safedial: ")
    assert said.endswith(sentence)
    assert well is good
