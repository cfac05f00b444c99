"""Which errors are transient, the policies, the loop under a policy, and what the log hears. Makes no sockets.

May import the modules beside the packages.
"""
