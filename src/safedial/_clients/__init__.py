"""The guarded connect under other people's code: `guard`, `install`, `wrap` and `hold`. Knows nothing of `_dial`.

May import `_retry`, `_tcp` and the modules beside the packages.
"""
