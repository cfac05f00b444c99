"""The doctor's look at systems without /proc: sockets by psutil (extra ``cli``), and few settings.

They can't be steered, and have no network namespaces that a process could enter.
"""

import contextlib
import importlib
import platform
import socket
import subprocess
import sys
from collections import defaultdict
from collections.abc import Collection
from dataclasses import replace
from typing import Any

from safedial._address import printable
from safedial._tcp import procnet
from safedial._tcp.port_settings import PortSettings
from safedial._tcp.steering import PortRange
from safedial.cli.doctor import table
from safedial.cli.doctor.facts import Facts, Process, Socket, Sockets

# psutil's words for states. What else there is counts as connected.
_STATES = {"LISTEN": procnet.LISTENING, "TIME_WAIT": procnet.IN_TIME_WAIT}
# A listener's peer.
_NOBODY: dict[int, tuple[str, int]] = {socket.AF_INET: ("0.0.0.0", 0), socket.AF_INET6: ("::", 0)}  # noqa: S104  # nothing binds it
# On macOS, as on other BSDs.
_FIRST_AND_LAST = ("net.inet.ip.portrange.first", "net.inet.ip.portrange.last")


def look(ports: Collection[int]) -> Facts:
    """Return what is seen on this system. *ports* are those asked for."""
    unseen: list[str] = []
    settings = _settings(unseen)
    facts = Facts(sys.platform, platform.release() or None, settings, steering=False)
    psutil = _psutil(unseen)
    if psutil is not None:
        ipv6, loopback_v6 = _ipv6(psutil)
        found = sockets(psutil, ports, settings.ports, unseen)
        facts = replace(facts, ipv6=ipv6, loopback_v6=loopback_v6, sockets=found)
    return replace(facts, unseen=tuple(unseen))


def _settings(unseen: list[str]) -> PortSettings:
    if sys.platform == "win32":
        unseen.append(
            "The ephemeral range and the ports excluded from it were not read: "
            "netsh int ipv4 show dynamicport tcp; netsh int ipv4 show excludedportrange tcp."
        )
        return PortSettings()
    with contextlib.suppress(OSError, ValueError):
        command = ["sysctl", "-n", *_FIRST_AND_LAST]
        answer = subprocess.run(command, capture_output=True, check=False)  # noqa: S603  # of our own words
        first, last = map(int, answer.stdout.split())
        return PortSettings(PortRange(first, last), reserved=())  # it can't reserve any
    unseen.append(f"Settings that could not be read: {', '.join(_FIRST_AND_LAST)}.")
    return PortSettings()


def _psutil(unseen: list[str]) -> Any:
    try:
        return importlib.import_module("psutil")
    except ImportError:
        unseen.append("Sockets and IPv6 could not be looked at without psutil: pip install 'safedial[cli]'.")
        return None


def _ipv6(psutil: Any) -> tuple[bool, bool]:
    addresses = [each for those in psutil.net_if_addrs().values() for each in those]
    found = [each.address for each in addresses if each.family == socket.AF_INET6]
    return bool(found), "::1" in found


def sockets(psutil: Any, ports: Collection[int], ephemeral: PortRange | None, unseen: list[str]) -> Sockets | None:
    """Return what is of interest among this system's sockets, as `table.read` does. No inode is known."""
    try:
        connections = psutil.net_connections("tcp")
    except (psutil.Error, OSError) as error:
        unseen.append(f"Sockets could not be looked at: {printable(str(error) or 'access denied')}. Root may.")
        return None
    served = [procnet.spell(*each.laddr) for each in connections if each.status == "LISTEN"]
    # A socket comes once for each process that has it.
    owners: dict[tuple[bytes, bytes, bytes], set[int]] = defaultdict(set)
    for each in connections:
        state = _STATES.get(each.status, procnet.ESTABLISHED)
        if not each.raddr and state != procnet.LISTENING:
            continue  # only bound
        local = procnet.spell(*each.laddr)
        peer: tuple[str, int] = each.raddr or _NOBODY[each.family]
        owners[local, procnet.spell(*peer), state].update([] if each.pid is None else [each.pid])
    # In place of its inode, each has the number of its processes.
    rows = [procnet.Row(*key, b"%d" % number) for number, key in enumerate(owners)]
    found = table.gather(rows, served, ports, ephemeral)
    pids = list(owners.values())

    def named(each: Socket) -> Socket:
        those = tuple(Process(pid, _name(psutil, pid)) for pid in sorted(pids[each.inode]))
        return each._replace(inode=0, processes=those if those or each.kind == "time_wait" else None)

    return table.changed(found, named)


def _name(psutil: Any, pid: int) -> str:
    with contextlib.suppress(psutil.Error, OSError):
        return printable(psutil.Process(pid).name())
    return ""
