"""Why a port of this host refuses at the end of a wait: no server can start if another socket has its port."""

import asyncio
import contextlib
import errno
import os
from collections.abc import Sequence

from safedial._retry.transient import error_type
from safedial._tcp import procnet
from safedial.cli.wait import gone
from safedial.cli.wait.progress import NotReady, Progress

# Seconds for the name of a target, which was resolved just before.
_PATIENCE = 1.0


def explain(progresses: Sequence[Progress]) -> None:
    """Add who has the port to the last error of each target that refused, if it is of this host."""
    asyncio.run(_explain([each for each in progresses if not each.gone and each.state == "waiting"]))


async def _explain(progresses: Sequence[Progress]) -> None:
    refused = [each for each in progresses if each.error and error_type(each.error) == "connection_refused"]
    # Nothing is bound if nobody has the port: its server may be about to bind it.
    taken = _ports() if refused else ()
    await asyncio.gather(*(_look(each) for each in refused if each.target.port in taken))


def _ports() -> set[int]:
    """Return the local ports of this host's sockets."""
    found: set[int] = set()
    for table in procnet.TABLES:
        with contextlib.suppress(OSError):
            found.update(procnet.read(row.local)[1] for row in procnet.rows(table))
    return found


async def _look(progress: Progress) -> None:
    target = progress.target
    try:
        async with asyncio.timeout(_PATIENCE):
            await gone.look(target)
    except NotReady as taken:
        said = f"{os.strerror(errno.ECONNREFUSED)}; {taken.strerror}"
        hint = f"Its server can't start until the port is free: safedial doctor {target.port}"
        progress.error = NotReady(errno.ECONNREFUSED, said, hint=hint)
    except (OSError, ValueError):
        return  # another host, or nothing is known
