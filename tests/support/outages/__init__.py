"""The outage matrix: every client, on its real server, in every outage that an operator sees.

``python -m tests.support.outages`` runs it and writes the tables of docs/clients.md.

`plain`, `stores`, `web` and `drivers` have the clients, each a row as in `rows`. `servers` has the real servers and
`outage` the outages. `run` lets all clients of one server live through one outage at once, `permanent` lets them fail
by what no wait mends. `matrix` says what is right, and makes the tables.
"""
