"""Looks at each target again and again, until they are ready, time is up, or a signal comes. Leaves nothing behind."""

import asyncio
import contextlib
import errno
import logging
import ssl
from collections.abc import Awaitable, Callable, Generator, Sequence
from typing import Literal, TypeAlias, cast

from tenacity import AsyncRetrying, RetryCallState

import safedial
from safedial._retry.transient import errors_of
from safedial.cli.wait.progress import NotReady, Outcome, Progress
from safedial.cli.wait.signals import Noted
from safedial.cli.wait.targets import Target
from safedial.events import logger

# Returns if the target is as it should be, else raises. It calls the second argument as it comes further, with what is
# wrong if the wait ends there.
Look: TypeAlias = Callable[[Target, Callable[[NotReady], object]], Awaitable[None]]

# Seconds. Somebody waits: a server must not be ready for longer than that without being noticed.
_LONGEST_PAUSE = 1.0


def _may_pass(error: BaseException) -> bool:
    """Return whether an error may pass by itself that is permanent to `safedial.reconnect`.

    A server may have another certificate, or none, until it has fetched its own. The looks at many targets take many
    descriptors for a moment.
    """
    return any(
        isinstance(each, NotReady | ssl.SSLError) or getattr(each, "errno", None) in (errno.EMFILE, errno.ENFILE)
        for each in errors_of(error)
    )


_policy = safedial.reconnect(within=None, cap=_LONGEST_PAUSE, also=_may_pass)


def wait(
    targets: Sequence[Progress],
    look: Look,
    *,
    any_of: bool,
    timeout: float | None,
    changed: Callable[[Progress], object],
    noted: Noted,
) -> Outcome:
    """Wait until *look* finds all *targets* ready, one of them with *any_of*. Return how that ended.

    Args:
        targets: their state and last error are kept up to date.
        look: raises OSError or ValueError if a target is not ready. What `safedial.reconnect` does not dial again after
            ends the wait; with *any_of* if that happened to all targets.
        any_of: whether one ready target is enough.
        timeout: seconds for the whole wait. None: no limit.
        changed: called with each of *targets* after each look at it.
        noted: a signal that it has, or gets meanwhile, ends the wait.
    """
    return asyncio.run(_wait(targets, look, any_of, timeout, changed, noted))


async def _wait(
    targets: Sequence[Progress],
    look: Look,
    any_of: bool,
    seconds: float | None,
    changed: Callable[[Progress], object],
    noted: Noted,
) -> Outcome:
    loop = asyncio.get_running_loop()
    began = loop.time()
    over = asyncio.Event()

    async def watch(progress: Progress) -> None:
        def steps(reached: NotReady) -> None:
            progress.step = reached

        def waits(state: RetryCallState) -> None:
            progress.rounds += 1
            progress.step = None
            progress.error = cast("Exception", state.outcome and state.outcome.exception())
            changed(progress)

        retrying = AsyncRetrying(retry=_policy.retry, wait=_policy.wait, before_sleep=waits, reraise=True)
        try:
            await retrying(look, progress.target, steps)
            progress.state, progress.ready_after = "ready", loop.time() - began
        except (OSError, ValueError) as error:
            progress.state, progress.error = "failed", error
        progress.rounds += 1
        changed(progress)
        if _decided(targets, any_of=any_of):
            over.set()

    with _quiet(), noted.waking(lambda: loop.call_soon_threadsafe(over.set)):  # which wakes the loop
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(watch(each)) for each in targets]
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await over.wait()
            for task in tasks:
                task.cancel()
    outcome = noted.first or _decided(targets, any_of=any_of) or "timed out"
    for each in targets:
        if each.state == "waiting":
            if each.step is not None:
                each.error = each.step  # newer than the last error
            elif each.error is None:  # its first look was cut short
                hint = "Nothing has come back yet: the host, its name server or the server is silent, or slow."
                each.error = NotReady(errno.ETIMEDOUT, "no answer yet", hint=hint)
            if any_of and outcome == "ready":
                each.state = "not needed"
    return outcome


def _decided(targets: Sequence[Progress], *, any_of: bool) -> Literal["ready", "failed"] | None:
    """Return how the wait ends by the states of *targets*, None if it goes on."""
    states = [each.state for each in targets]
    if any_of:
        return "ready" if "ready" in states else "failed" if set(states) == {"failed"} else None
    return "failed" if "failed" in states else "ready" if set(states) == {"ready"} else None


@contextlib.contextmanager
def _quiet() -> Generator[None]:
    """Keep warnings of the log, such as of a self-connect, from standard error: the report tells of each error."""
    handler = logging.NullHandler()
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
