"""The guarded connect under other people's code: `guard`, `install`, `wrap` and `hold`.

Imports `_retry`, `_tcp` and the modules beside this package. Knows nothing of `_dial`.
"""
