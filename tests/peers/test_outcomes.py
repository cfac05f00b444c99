from tests.peers import outcomes


def test_the_worst_phase_or_subtest_is_a_tests_outcome():
    lines = ["unfinished a\n", "passed a\n", "failed a\n", "passed a\n", "unfinished b\n", "passed b\n", "connects 7\n"]
    assert outcomes.read(lines) == ({"a": "failed", "b": "passed"}, 7)


def test_a_test_that_hung_is_unfinished():
    assert outcomes.read(["unfinished t[GET / HTTP/1.1]\n"]) == ({"t[GET / HTTP/1.1]": "unfinished"}, 0)


def test_other_outcomes_and_missing_tests_differ():
    plain = {"same": "failed", "broken": "passed", "gone": "passed"}
    ours = {"same": "failed", "broken": "failed", "new": "passed"}
    assert outcomes.differing(plain, ours) == ["broken", "gone", "new"]


def test_a_test_that_is_flaky_without_ours_is_no_difference():
    assert not outcomes.verdict(["passed", "failed", "passed"], ["failed", "failed", "failed"])


def test_a_difference_in_every_run_is_told():
    said = outcomes.verdict(["passed", "passed", "passed"], ["failed", None, "failed"])
    assert said == "3 passed plain, 2 failed 1 missing with ours"
