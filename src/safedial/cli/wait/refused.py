"""Why a port of this host refuses at the end of a wait: no server can start if another socket has its port."""

import asyncio
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
    await asyncio.gather(*(_look(each) for each in progresses))


async def _look(progress: Progress) -> None:
    target, error = progress.target, progress.error
    # Nothing is bound if nobody has the port: its server may be about to bind it.
    if not error or error_type(error) != "connection_refused" or not any(procnet.sockets_on(target.port)):
        return
    try:
        async with asyncio.timeout(_PATIENCE):
            await gone.look(target)
    except NotReady as taken:
        said = f"{os.strerror(errno.ECONNREFUSED)}; {taken.strerror}"
        hint = f"Its server can't start until the port is free: safedial doctor {target.port}"
        progress.error = NotReady(errno.ECONNREFUSED, said, hint=hint)
    except (OSError, ValueError):
        return  # another host, or nothing is known
