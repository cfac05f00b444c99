"""The guarded connect under other people's code: `guard`, `install`, `wrap` and `hold`. Knows nothing of `_dial`."""
