"""One call of a factory, guarded and checked, in the rounds of a policy."""

import contextlib
import functools
import socket
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from safedial import _clock
from safedial._clients.awaitables import Step, dials_later, dials_when_entered, made_later
from safedial._clients.drivers import DIAL_LATER
from safedial._clients.factories import Factory, Finder, address_in
from safedial._clients.failures import Failures
from safedial._clients.guard import inside, is_installed
from safedial._clients.hold import holding, resolved
from safedial._clients.reconnects import guard_reconnects
from safedial._clients.refusals import judge, warn_of_failure, warn_of_later_dials
from safedial._clients.sockets import close_async, close_quietly, let_servers_bind, self_connect_of
from safedial._forks import loading
from safedial._retry.argument import DEFAULT, policy_after
from safedial._retry.multiple import with_shared_errno
from safedial._retry.progress import Progress
from safedial._steps import finish, running_trio
from safedial.errors import SelfConnectError
from safedial.events import EventKind, OnEvent, warn

if TYPE_CHECKING:
    from safedial._address import Address


class Call(Progress):
    """One call of a factory with its arguments. It is *blocking*, or made in an event loop."""

    # In blocking code, what is made of the factory's result before the guard ends.
    take: Callable[[Any], Any] | None = None
    # Whether the result has not dialed yet.
    unfinished = False

    def __init__(
        self,
        factory: Factory,
        args: tuple[Any, ...] = (),
        kwds: Mapping[str, Any] = {},  # nobody changes it
        *,
        blocking: bool,
        make: Callable[..., Any] | None = None,  # in place of the factory's own
    ) -> None:
        self.client, self.on_event = factory.name, factory.on_event
        # trio has a clock of its own, which tests replace.
        self._trio = None if blocking else running_trio()
        self.started = self.clock()
        self._factory, self._blocking = factory, blocking
        self._make = functools.partial(make or factory.make, *args, **kwds)
        self._find = functools.partial(factory.find, *args, **kwds)
        self._addresses: tuple[Address, ...] = ()
        self.host, self.port = address_in(factory.make, args, kwds)

    def clock(self) -> float:
        """Return the seconds that the dial and its policy count."""
        return super().clock() if self._trio is None else self._trio.current_time() + _clock.ahead()

    def find_addresses(self) -> None:
        """Find the addresses whose ports are held. An error of the user's own function ends the dial."""
        self._addresses = self._addresses or tuple(self._find())
        if self._addresses:
            host, self.port = self._addresses[0]
            self.host = host.rpartition("@")[2] if isinstance(host, str) else host  # as in address_in

    async def dial_later(self, policy: Any, first: Any, step: Step) -> Any:
        """Take the *step* in which *first*, the result of this call, dials. Later rounds call the factory again."""
        self._blocking, self.unfinished = not dials_later(first), False
        return await self.dial(policy, step, first)

    async def dial(self, policy: Any, step: Step | None, first: Any = None) -> Any:
        """Return a connection, or raise once the policy is done. The arguments are those of `one_round`."""
        made = await self._dial(policy, step, first)
        if not self.unfinished:
            self.guard_reconnects(made, policy)
        return made

    def guard_reconnects(self, connection: Any, policy: Any) -> None:
        """Let a driver's *connection* dial again as safely as it was made, and under *policy*."""
        if self._is_judged():
            guard_reconnects(connection, self._addresses, functools.partial(_dialing, policy, self.on_event))

    async def _dial(self, policy: Any, step: Step | None, first: Any) -> Any:
        self.find_addresses()
        failures = Failures()
        once = functools.partial(self.one_round, failures, step)
        try:
            return await once(first)
        except Exception as error:
            decides = policy_after(policy, error)
            self.asked = decides is not None and policy is not DEFAULT
            failure: Exception = error
        try:
            if decides is None:
                raise failure
            with loading:  # which loads tenacity
                from safedial._retry import loop

            # No name for the Retries here: it holds the last error, whose traceback holds this frame.
            return await loop.rounds(
                loop.Retries(decides, self), self, failure, once, Exception, blocking=self._blocking
            )
        except Exception as error:
            failures.restore(error)
            raise self.outcome(error)  # noqa: B904  # it is *error*
        finally:
            failures.clear()
            del failure  # its traceback holds this frame: break the cycle

    async def one_round(self, failures: Failures, step: Step | None, first: Any = None) -> Any:
        """Return a connection.

        *step* makes it of the factory's result, if that dials later. Without *step*, such a result is returned as it
        is. *first* is such a result, which the first round uses in place of a call.
        """
        began = self.clock()
        try:
            returned = await self._connected(step, first)
        except Exception as raised:
            error = with_shared_errno(raised)
            failures.detach(error)
            if self.observed:
                kind: EventKind = "self_connect" if isinstance(error, SelfConnectError) else "failed"
                self.report(kind, error=error, duration=self.clock() - began)
            try:
                if error is not raised:
                    raise error from None
                raise
            finally:
                del error  # its traceback holds this frame: break the cycle
        if self.observed and not self.unfinished:
            try:
                self.connected(None, self.clock() - began)
            except BaseException:  # a hook was interrupted
                await self._discard(returned)
                raise
        return returned

    async def _connected(self, step: Step | None, first: Any) -> Any:
        # This call does not dial yet, and is made in a loop, which a resolver must not block.
        later = step is None and self.client is not None and self.client.partition(".")[0] in DIAL_LATER
        sockaddrs = await resolved(() if later else self._addresses, blocking=self._blocking)
        entry = inside()
        try:
            with entry, holding(sockaddrs):
                returned = self._make() if first is None else first
                if step is not None:
                    returned = await step(returned)
                elif self.take is not None:
                    returned = self.take(returned)
                else:
                    self.unfinished = dials_later(returned) or (dials_when_entered(returned) and not entry.dials)
        except Exception as error:
            if self._is_judged() and not (entry.dials or self._addresses or self._factory.guarded):
                warn_of_failure(self._factory, error)
            raise
        if self.unfinished:
            return returned
        self._factory.guarded |= bool(entry.dials or self._addresses)
        if (fault := self._fault_of(returned)) is not None:
            await self._discard(returned)
            raise fault
        if self._addresses and not entry.dials:  # dialed in C
            let_servers_bind(returned)
        return returned

    async def one_step(self, first: Any, step: Step) -> Any:
        """Take one of many steps in which *first* may dial, such as ``anext()``. What fails is the client's affair."""
        self._blocking = False
        self.find_addresses()
        with inside(self.on_event), holding(await resolved(self._addresses, blocking=False)):
            returned = await step(first)
        if (fault := self._fault_of(returned, judged=False)) is not None:
            await self._discard(returned)
            raise fault
        return returned

    def _fault_of(self, returned: Any, *, judged: bool = True) -> Exception | None:
        """Return what is wrong with the result of a call."""
        try:
            met_itself = self_connect_of(returned)
        except OSError as error:  # such as EMFILE: what can't be looked at may be connected to itself
            return error
        if met_itself is not None:
            warn("%s", met_itself.strerror)
            return met_itself
        if not judged or not self._is_judged():
            return None
        # If one call was guarded, a later one that returns the same connection is right.
        if self._factory.guarded:
            warn_of_later_dials(self._factory, returned)
            return None
        return judge(self._factory, returned)

    def _is_judged(self) -> bool:
        return self._factory.argument is not None and not is_installed()

    async def _discard(self, returned: Any) -> None:
        if type(returned) is int:
            with contextlib.suppress(OSError):
                socket.close(returned)
        elif self._blocking:
            close_quietly(returned)
        else:
            await close_async(returned, at_once=True)


def called(
    factory: Factory, policy: Any, make: Callable[..., Any], args: tuple[Any, ...], kwds: Mapping[str, Any]
) -> Any:
    """Call *make*, in place of the *factory*'s own, under *policy*. Return what it returns, made safe to await."""
    call = Call(factory, args, kwds, blocking=True, make=make)
    returned: Any = finish(call.dial(policy, None))
    if not call.unfinished:
        return returned
    return made_later(
        returned, functools.partial(call.dial_later, policy, returned), functools.partial(call.one_step, returned)
    )


def _dialing(policy: Any, on_event: OnEvent | None, dial: Callable[..., Any], find: Finder) -> Callable[..., Any]:
    def safe(*args: Any, **kwds: Any) -> Any:
        return called(Factory(dial, find, on_event), policy, dial, args, kwds)

    return safe
