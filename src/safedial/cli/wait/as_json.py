"""The result of the wait as one JSON object. docs/command-line.md describes each field."""

import json
import signal
from collections.abc import Sequence
from typing import Any

from safedial.cli.wait import words
from safedial.cli.wait.progress import Outcome, Progress

# Counted up if a field changes its meaning or goes away. New fields may come at any time.
_SCHEMA = 1


def as_json(progresses: Sequence[Progress], outcome: Outcome, status: int, after: float, *, gone: bool) -> str:
    """Return the object, on one line."""
    return json.dumps(
        {
            "schema": _SCHEMA,
            "status": status,
            "outcome": f"ended by {outcome.name}" if isinstance(outcome, signal.Signals) else outcome,
            "seconds": round(after, 3),
            "targets": [_target(each, gone=gone) for each in progresses],
        }
    )


def _target(progress: Progress, *, gone: bool) -> dict[str, Any]:
    error, after = progress.error, progress.ready_after
    hint = words.hint(error, progress.target, gone=gone) if error and progress.state in ("waiting", "failed") else ""
    return {
        "target": progress.target.name,
        "state": progress.state,
        "seconds": None if after is None else round(after, 3),
        "rounds": progress.rounds,
        "error": words.said(error) if error else None,
        "hint": hint or None,
    }
