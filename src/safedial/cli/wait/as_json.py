"""The result of the wait as one JSON object. docs/command-line.md describes each field."""

import json
import signal
from collections.abc import Sequence
from typing import Any

from safedial.cli.wait import words
from safedial.cli.wait.progress import Outcome, Progress

# Counted up if a field changes its meaning or goes away. New fields may come at any time.
_SCHEMA = 1


def as_json(progresses: Sequence[Progress], outcome: Outcome, status: int, after: float) -> str:
    """Return the object, on one line."""
    return json.dumps(
        {
            "schema": _SCHEMA,
            "status": status,
            "outcome": f"ended by {outcome.name}" if isinstance(outcome, signal.Signals) else outcome,
            "seconds": round(after, 3),
            "targets": [_target(each) for each in progresses],
        }
    )


def _target(progress: Progress) -> dict[str, Any]:
    error, after = progress.error, progress.ready_after
    return {
        "target": progress.target.name,
        "state": progress.state,
        "seconds": None if after is None else round(after, 3),
        "rounds": progress.rounds,
        "error": words.said(error) if error else None,
        "hint": words.hint(progress) or None,
    }
