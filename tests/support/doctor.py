"""What the doctor sees, made by hand."""

from safedial._tcp.port_settings import PortSettings
from safedial._tcp.steering import PortRange
from safedial.cli.doctor.facts import Endpoint, Facts, Process, Socket, Sockets
from safedial.cli.doctor.judge import judge

HERE = "127.0.0.1"
SETTINGS = PortSettings(PortRange(32768, 60999), (PortRange(40001, 40001),), 1.0, 60.0, time_wait=3)
REDIS, CELERY = Process(77, "redis-server"), Process(4242, "celery")


def connected(port, *, to=None, host=HERE, kind="connected", processes=(CELERY,)):
    """Return a socket that is connected to itself, or *to* a place."""
    peer = Endpoint(*(to or (host, port)))
    return Socket(kind, Endpoint(host, port), peer, 1, () if kind == "time_wait" else processes)


def server(port, *, host=HERE, processes=(REDIS,)):
    """Return a socket that listens."""
    return Socket("listening", Endpoint(host, port), Endpoint("0.0.0.0", 0), 1, processes)


def facts(*, settings=SETTINGS, listeners=(), taken=(), crowds=(), **fields):
    """Return the facts of a host that has these sockets."""
    itself = tuple(each for each in taken if each.local == each.peer)
    sockets = Sockets(tuple(listeners), tuple(taken), itself, tuple(crowds), 1234)
    return Facts("linux", "6.18.5", settings, **{"sockets": sockets, **fields})


def diagnose(*ports, **fields):
    """Judge such facts, if the user named *ports*."""
    return judge(facts(**fields), ports)
