"""The dial: settings, resolve, race, retry. `blocking` and `aio` are its two I/O halves. Knows nothing of `_clients`.

May import `_retry`, `_tcp` and the modules beside the packages.
"""
