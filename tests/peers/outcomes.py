"""What a run's notes say about each test, and how runs with ours differ from those without. No I/O."""

from collections import Counter

# The worst of a test's phases and subtests is its outcome.
_WORST_FIRST = ("failed", "xfail", "skipped", "passed")


def read(lines):
    """Return the outcome of each test by its id, and how many connects there were; from the plugin's notes."""
    said, connects = {}, 0
    for line in lines:
        word, _, name = line.rstrip("\n").partition(" ")
        if word == "connects":
            connects = int(name)
        else:
            said.setdefault(name, set()).add(word)
    return {name: _worst(words) for name, words in said.items()}, connects


def _worst(words):
    return next((each for each in _WORST_FIRST if each in words), "unfinished")


def differing(plain, ours):
    """Return the ids of the tests whose outcome differs between two runs, also if one run hasn't the test."""
    return sorted(name for name in plain.keys() | ours.keys() if plain.get(name) != ours.get(name))


def verdict(plain, ours):
    """Return "" if some run with ours had an outcome that a run without had, else what all said: a true difference."""
    if set(plain) & set(ours):
        return ""
    return f"{_counted(plain)} plain, {_counted(ours)} with ours"


def _counted(outcomes):
    return " ".join(f"{count} {outcome or 'missing'}" for outcome, count in Counter(outcomes).most_common())
