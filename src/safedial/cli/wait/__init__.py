"""``safedial wait``: wait until servers are ready, without being fooled, and then run a command.

`arguments` and `targets` say what to wait for, with `values`, `schemes`, `host_port` and `mistakes`. `probe` and `gone`
look once, with `http`, `unix` and `threads`; `run` looks again until the end. `refused` says at the end who has a port
that refuses. `show` tells how it goes, in the
sentences of `words`, and `as_json` how it ended. `command` runs the command in the place of this process.
"""
