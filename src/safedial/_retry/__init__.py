"""Which errors are transient, the policies, and the loop that runs under a policy. Knows nothing of sockets.

May import the modules beside the packages.
"""
