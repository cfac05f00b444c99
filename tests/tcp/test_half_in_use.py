"""More than half of the range in use towards a port outside of it: connects stay fast."""

import asyncio
import contextlib

import pytest

import safedial
from safedial._tcp import steering
from safedial.testing.intercept import intercepting
from tests.support import dials, faults, namespace


def dialed(address, *options, **kwds):
    return safedial.safe_connect(address, socket_options=options, policy=None, **kwds)


def dialed_in_asyncio(address, *options):
    return asyncio.run(safedial.Dialer(socket_options=options, policy=None).dial_async(address))


def not_steered(address, *options):
    return dialed(address, *options, steer=False)


WAYS = {
    "dial": dialed,
    "not steered": not_steered,
    "dial_async": dialed_in_asyncio,
    **dials.GUARDED,
}


class TestHalfInUse:
    """A port outside of the range needs no steering, but past half of the range a connect walks a long way."""

    @pytest.fixture(autouse=True)
    def _needs_steering_in_a_namespace(self):
        namespace.require()
        faults.require_option()

    def test_socket_gets_the_whole_range(self):
        # The ports of one parity come first. The first dial after them shows that, and is remembered for a second.
        parities, ranges = [0, 0, 0, 0, 0, 1] + [1] * 4, [None] * 6 + [(40000, 40009)] * 4
        found = namespace.call(fill, port_range=(40000, 40009))
        assert found == {name: (parities, [None] * 10 if name == "not steered" else ranges) for name in WAYS}

    def test_is_known_though_another_dial_forgot_it_meanwhile(self):
        found = namespace.call(fill, True, port_range=(40000, 40009))
        assert {name: ranges[7:] for name, (_, ranges) in found.items() if name != "not steered"} == {
            name: [(40000, 40009)] * 3 for name in WAYS if name != "not steered"
        }

    def test_range_of_the_caller_stays(self):
        found = namespace.call(dial_from_a_range_of_its_own, port_range=(40000, 40009))
        assert found == {name: ([1, 0, 1, 0], [(40001, 40001), None, (40003, 40003), None]) for name in WAYS}

    def test_wider_range_is_used(self):
        # Not in an event loop, where the range is read a second later.
        assert set(namespace.call(widen_after_the_half, port_range=(40000, 40009))) <= {39998, 39999}


def shown(socks):
    """Return the parity of each local port, and the ranges that the sockets have been given."""
    ranges = [steering.own_range(sock) for sock in socks]
    return [sock.getsockname()[1] % 2 for sock in socks], [own and tuple(own) for own in ranges]


@contextlib.contextmanager
def held_sockets(number):
    """A server of its own for each way to dial, and a stack for the sockets."""
    steering._RANGE_AGE = 60.0
    steering.read_anew()
    with faults.listener(port=30000 + number) as server, contextlib.ExitStack() as held:
        yield server.getsockname(), held.enter_context


def fill(forgotten=False):
    """Dial until all of ten ports are in use; if *forgotten*, another dial reads the range while the seventh does."""
    found = {}

    def read_meanwhile(sock, address, connect):
        steering.read_anew()
        connect()
        return True

    for number, (name, dial) in enumerate(WAYS.items()):
        with held_sockets(number) as (address, hold):
            socks = [hold(dial(address)) for _ in range(5)]
            steering.read_anew()  # a second later
            socks += [hold(dial(address))]
            with intercepting(read_meanwhile) if forgotten else contextlib.nullcontext():
                socks += [hold(dial(address))]
            socks += [hold(dial(address)) for _ in range(3)]
            found[name] = shown(socks)
    return found


def dial_from_a_range_of_its_own():
    """Dial in turn with a range of the caller's own, from which nothing is learned, and without."""
    found = {}
    for number, (name, dial) in enumerate(WAYS.items()):
        with held_sockets(number) as (address, hold):
            each = ([faults.option(40001, 40001)], [], [faults.option(40003, 40003)], [])
            socks = [hold(dial(address, *options)) for options in each]
            found[name] = shown(socks)
    return found


def widen_after_the_half():
    """Widen the range when it is exhausted; return the first port below it that is then drawn."""
    found = []
    for number, dial in enumerate((dialed, dialed_in_asyncio, dials.GUARDED["guard"])):
        namespace.set_port_range(40000, 40009)
        with held_sockets(number) as (address, hold):
            for made in range(10):
                if made == 5:
                    steering.read_anew()
                hold(dial(address))
            namespace.set_port_range(39998, 40009)  # an even number of ports, as in exhaustion.RANGE
            found.append(hold(dial(address)).getsockname()[1])
    return found
