"""Which errors are transient, the policies, and the loop that runs on under a policy.

Knows tenacity. Knows nothing of sockets. Imports `_tcp` and the modules beside this package.
"""
