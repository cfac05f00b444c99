"""Real frameworks under `safedial.install()`: the recipes of docs/clients.md, while their servers are away.

A recipe is an application's configuration. A module of `apps` uses it as an application would. Both run in a process of
their own (`application`), with `safedial.install()` or without, in a network namespace where the kernel draws the port
that they dial (`outage`). `rows` has the table.
"""
