"""The guarded connect under other people's code: `guard`, `install`, `wrap`, `hold`.

Imports `_retry`, `_tcp` and what is below. Knows nothing of `_dial`.
"""
