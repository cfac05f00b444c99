"""What helps if no local port is free, in words."""

from safedial._tcp.port_settings import PortSettings
from safedial.errors import TIME_WAIT, PortUsage

ELSEWHERE = "This thread is in another network namespace than the socket: read the error in a thread of that one"


def remedy(usage: PortUsage, settings: PortSettings, *, loopback: bool) -> str:
    """Say what helps against that which has most of the ports. *loopback*: the destination is such an address."""
    widen = "net.ipv4.ip_local_port_range (safedial doctor shows what that puts at risk)"
    if usage.own_range:
        widen = "the socket's IP_LOCAL_PORT_RANGE"
    reserved, time_wait = usage.reserved or 0, usage.time_wait or 0
    fewer_reserved = f"Reserve fewer ports (net.ipv4.ip_local_reserved_ports), or widen {widen}"
    if usage.in_use is None or usage.others is None:
        if usage.low is not None and usage.high is not None and reserved == usage.high - usage.low + 1:
            return fewer_reserved
        return f"Reuse connections (a pool), dial less often, or widen {widen}"
    live = usage.in_use - time_wait
    most = max(reserved, time_wait, live, usage.others)
    if not most:
        return f"The range has no port but the dialed one, which is never drawn: widen {widen}"
    if reserved == most:
        return fewer_reserved
    if time_wait == most:
        return f"Reuse connections (a pool): each that is closed keeps its port {_how_long(settings, loopback)}"
    if live == most:
        return f"Share connections (a pool), or widen {widen}"
    return (
        "Most ports are not in use to this destination now. If dials succeed again, the ports have become free. If "
        "not, sockets are bound to them: see ss -tanp and ss -tanp --bound-inactive"
    )


def _how_long(settings: PortSettings, loopback: bool) -> str:
    seconds = settings.wait_on_loopback if loopback else settings.wait
    if seconds is None:
        return "in TIME_WAIT"
    return f"for {seconds:g} s ({settings.wait_setting if seconds < TIME_WAIT else 'TIME_WAIT'})"
