"""The outage matrix: every client, on its real server, in every outage that an operator sees.

``python -m tests.support.outages`` runs it and writes the tables of docs/clients.md.

`rows` has the clients (those of `drivers` and `others`), `servers` the real servers, `outage` the outages, `run` lets
all clients of one server live through one outage at once, `permanent` has the failures that no wait mends, and `table`
writes what came of it all.
"""
