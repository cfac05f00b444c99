"""The guarded connect under other people's code: `guard`, `install`, `wrap` and `hold`. Knows nothing of `_dial`.

`guard`: `patch` replaces the methods of sockets, and each connect goes through the `layers`. `guard` is one of
them; what it does there is in `guarded_connect`. `decorator` makes guarded functions. `elsewhere` warns of dials
outside the guard, `outliving` of connections that are open after it, and `entering` of what it may not reach.
`mistakes` answers wrong calls of these functions.

`hold`: the ports of one entry are in `held`, and `repeating` is the thread that waits for a busy port.
`never_entered` has the warning of `guard` and of `hold`.

`install`: guards all. An `import_hook` finds modules whose `attributes` are replaced: drivers that dial in C
(`c_drivers`), and the patches of gevent and eventlet (`green`). `unreached` names the modules that stay as they
are.

`wrap`: makes a safe function, or a safe class (`classes`). `factories` tells what is known of a factory, `call` is
one call of it, `failures` are those of its rounds, and `awaitables` dial after the call. `sockets` finds and closes
what came back, and `refusals` judges it: `lines` has the clients that dial again by themselves, and `marks` tells
whether one is protected. `reconnects` makes the later dials of drivers safe. `drivers` and `option_files` find the
addresses to hold.

May import `_retry`, `_tcp` and the modules beside the packages.
"""
