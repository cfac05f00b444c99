"""One socket and one address: steer, connect, check, release. Knows nothing of names, rounds and policies."""
