"""Facts as the doctor sees them, for tests of what is made of them."""

from safedial._tcp.port_settings import PortSettings
from safedial._tcp.steering import PortRange
from safedial.cli.doctor.facts import Crowd, Endpoint, Facts, Process, Socket, Sockets

RANGE = PortRange(32768, 60999)


def listener(port, host="127.0.0.1"):
    return Socket("listening", Endpoint(host, port), Endpoint("0.0.0.0", 0), 1, (Process(7, "server"),))


def connection(port, to=5432, host="127.0.0.1", kind="connected", pids=(123,)):
    processes = tuple(Process(pid, "client") for pid in pids) if kind == "connected" else ()
    return Socket(kind, Endpoint(host, port), Endpoint(host, to), 2, processes)


def self_connected(port, host="127.0.0.1", kind="connected", pids=(123,)):
    return connection(port, port, host, kind, pids)


def crowd(live, time_wait=0, host="10.0.0.2"):
    return Crowd("10.0.0.1", Endpoint(host, 5432), live, time_wait)


def ranges(*bounds):
    return tuple(PortRange(low, high) for low, high in bounds)


def facts(ports=RANGE, reserved=(), sockets=None, *, system="linux", step_width=None, **changed):
    """Return facts of a machine with these settings; *changed* are fields of its sockets. ``sockets=False``: unseen."""
    seen = None if sockets is False else Sockets(count=100, **changed)
    settings = PortSettings(ports and PortRange(*ports), reserved, 1.0, 60.0, time_wait=5)
    return Facts(system, "6.18.5", settings, True, 2, None, step_width, True, True, seen)
