"""One outage, and all clients of one server, each in a thread of its own: their waits overlap."""

import asyncio
import contextlib
import threading
import time
from dataclasses import dataclass

import safedial
from safedial.testing.run import error_chain
from tests.support.outages.rows import ENDLESS, Place, settled

# Seconds. Limits against hanging, for a machine that is busy: nothing waits for so long.
WITHIN = 60
# Seconds that the outage goes on for a client that neither fails nor ends.
PATIENCE = 15
# The cap on the waits between dials, in seconds, so that clients are back soon after the server.
CAP = 0.2
# The most dials that a client may need. Those that meet an outage go on when it ends: while a server starts, say.
MOST_DIALS = 60


@dataclass(frozen=True)
class Result:
    """The result of one client in one outage.

    Attributes:
        dials: its dials: one more than the number of times its policy decided on another.
        errors: the errors that the policy went on after, without duplicates.
        error: the chain of errors that came out, in words; empty if none did.
        records: how often the record is in the server that was written after the outage.
        before: likewise for a record from before the outage; None if there was none.
        hung: whether it had no end.
    """

    dials: int
    errors: tuple[str, ...]
    error: str
    records: int
    before: int | None
    hung: bool

    @property
    def came_back(self):
        return not self.error and not self.hung


class Call:
    """One row in an outage."""

    def __init__(self, row, outage, scene, party, number):
        self.row, self._outage = row, outage
        self.key = f"{outage.name.replace(',', '').replace(' ', '-')}-{number}-{time.time_ns()}"
        self.failed, self.ready, self.ended = 0, False, False
        self.errors, self.error = [], None
        self._scene, self._party = scene, party
        # tenacity calls it after each failure that another round follows, in both worlds.
        self._policy = safedial.reconnect(within=WITHIN, cap=CAP).copy(after=self._after)
        self.thread = threading.Thread(target=self._run, name=row.name, daemon=True)

    def _after(self, state):
        self.errors.append(one_line(state.outcome.exception()))
        with self._party.changed:
            self.failed += 1
            self._party.changed.notify_all()
        if self.failed >= self._outage.rounds:
            self._party.over.wait(WITHIN)  # those that are slower to meet it cost no dials

    def _run(self):
        try:
            if self._scene.hosts is not None:
                self._scene.hosts.enter()
            self.row.run(self._live())
        except BaseException as error:
            self.error = "\n    ".join(one_line(each) for each in error_chain(error))
            for each in error_chain(error):
                with contextlib.suppress(Exception):  # a frozen dataclass
                    each.__traceback__ = None  # its frames would keep sockets alive
        with self._party.changed:
            self.ended = True
            self._party.changed.notify_all()

    async def _live(self):
        row = self.row
        place = Place(self._scene.host, self._scene.port, self._policy, self._scene.ca)
        connection = await settled(row.connect(place))
        if self._outage.session:
            await settled(row.write(connection, f"{self.key}-before"))
            if row.is_async:  # its loop must see that the server has gone
                await asyncio.to_thread(self._party.wait_for_outage, self)
            else:
                self._party.wait_for_outage(self)
            if not row.keeps:
                with contextlib.suppress(Exception):  # the server has gone
                    await settled(row.close(connection))
                connection = await settled(row.connect(place))
        try:
            await settled(row.write(connection, self.key))
        finally:
            await settled(row.close(connection))


class Party:
    """What the clients of one outage share."""

    def __init__(self):
        self.changed = threading.Condition()
        self.begun, self.over = threading.Event(), threading.Event()

    def wait_for_outage(self, call):
        with self.changed:
            call.ready = True
            self.changed.notify_all()
        self.begun.wait(WITHIN)

    def wait(self, calls, condition):
        """Wait until each call has ended, or *condition* holds for it."""
        with self.changed:
            self.changed.wait_for(lambda: all(call.ended or condition(call) for call in calls), PATIENCE)


def live_through(outage, rows, server, directory):
    """Let *rows* live through *outage* of *server*, which is up. Return a `Result` for each row's name."""
    party = Party()

    def has_met(call):
        return call.failed >= outage.rounds or call.row.notes.get(outage.name) == ENDLESS

    with outage.scene(server, directory) as scene, contextlib.ExitStack() as stack:
        calls = [Call(row, outage, scene, party, number) for number, row in enumerate(rows)]
        stack.callback(join, calls)
        stack.callback(party.over.set)
        stack.callback(party.begun.set)
        if not outage.session:
            stack.callback(scene.begin())
        for call in calls:
            call.thread.start()
            if outage.one_by_one:
                party.wait([call], has_met)
        if outage.session:
            party.wait(calls, lambda call: call.ready)
            stack.callback(scene.begin())
            party.begun.set()
        party.wait(calls, has_met)
        if not outage.one_by_one:
            party.over.set()  # they dial while the outage ends
    return {call.row.name: result(call, outage, server) for call in calls}


def join(calls):
    limit = time.monotonic() + WITHIN
    for call in calls:
        call.thread.join(max(0, limit - time.monotonic()))


def result(call, outage, server):
    before = server.count(f"{call.key}-before") if outage.session and server.durable else None
    return Result(
        *(call.failed + 1, tuple(dict.fromkeys(call.errors)), call.error or ""),
        *(server.count(call.key), before, call.thread.is_alive()),
    )


def one_line(error):
    return f"{type(error).__module__}.{type(error).__qualname__}: {' '.join(str(error).split())[:300]}"
