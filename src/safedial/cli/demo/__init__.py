"""``safedial demo``: a server dies and can't come back, because a client has its port. Real sockets, loopback only.

Two scenes: in `self_connect`, a reconnect loop connects to itself; in `ordinary`, a connection to another server has
the port. `scene` has what both need, `report` prints. Only `report` imports rich.
"""
