"""A client that dials when it is entered with ``async with``, as aiomqtt's does."""

import errno


class DialsWhenEntered:
    """A factory of such clients, of which the first few are refused.

    Attributes:
        entered, left: the clients that were.
    """

    def __init__(self, failures):
        self._failures = failures
        self.entered, self.left = [], []

    def __call__(self):
        return _Client(self)

    def enter(self, client):
        self.entered.append(client)
        if len(self.entered) <= self._failures:
            raise ConnectionRefusedError(errno.ECONNREFUSED, "refused")


class _Client:
    def __init__(self, factory):
        self._factory = factory

    async def __aenter__(self):
        self._factory.enter(self)
        return self

    async def __aexit__(self, *raised):
        self._factory.left.append(self)
