"""One socket and one address: steer, connect, check, release.

Knows the kernel. Knows nothing of names, rounds and policies. Imports `errors` and `_address`.
"""
