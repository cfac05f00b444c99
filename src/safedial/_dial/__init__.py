"""The dial: settings, resolve, race, retry. `blocking` and `aio` are its two I/O halves.

Imports `_retry`, `_tcp` and the modules beside this package. Knows nothing of `_clients`.
"""
