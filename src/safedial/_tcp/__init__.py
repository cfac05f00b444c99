"""One socket and one address: steer, connect, check, release.

Knows the kernel, and nothing of names, rounds or policies. Imports `errors`, `_address` and `_deadline` alone.
"""
