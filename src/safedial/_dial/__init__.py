"""The dial: settings, resolve, race, retry; its blocking and its asyncio half.

Imports `_retry`, `_tcp` and what is below. Knows nothing of `_clients`.
"""
