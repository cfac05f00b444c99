"""Which errors are transient, the policies, and the loop that runs on under a policy.

Knows tenacity. Knows nothing of sockets. Imports `errors`, `_address` and `_deadline`.
"""
