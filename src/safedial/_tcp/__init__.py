"""One socket and one address: steer, connect, check, release. Knows nothing of names, rounds and policies.

May import the modules beside the packages.
"""
