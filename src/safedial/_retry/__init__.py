"""Which errors are worth another round, the policies, and running a dial on under one.

Knows tenacity, and no socket. Imports `_tcp` and what is below.
"""
