"""Look at all that the doctor wants to know. What can't be looked at is None; a sentence in `Facts.unseen` says why.

Everything is of the calling thread's network namespace: its tables in /proc/thread-self/net, the settings in
/proc/sys/net (net_ctl_root_lookup, net/sysctl_net.c, asks for the namespace of the thread that opens the file).
"""

import contextlib
import ctypes
import errno
import os
import platform
import socket
import sys
from collections import defaultdict
from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from io import FileIO

from safedial._tcp import port_settings, steering
from safedial._tcp.port_settings import PortSettings
from safedial._tcp.steering import PortRange
from safedial.cli.doctor import binding, processes, rights, table
from safedial.cli.doctor.facts import Facts, Sockets
from safedial.cli.doctor.remedy import named

_CLONE_NEWNET = 0x40000000  # linux/sched.h
# ::1 as /proc/net/if_inet6 spells it.
_LOOPBACK_V6 = b"1".zfill(32)


def look(ports: Collection[int], *, pid: int | None = None) -> Facts:
    """Return what is seen in this thread's network namespace, or in that of the process *pid*.

    *ports* are those asked for: sockets that have one of them are of interest.

    Raises:
        ProcessLookupError: there is no process *pid*.
        PermissionError: this process may not enter the namespace of *pid*: root may.
        OSError: it can't be entered for another reason, such as that this is not Linux.
    """
    if pid is None:
        return _look(ports)
    if sys.platform != "linux":
        raise OSError(errno.ENOTSUP, "only Linux has network namespaces")
    # Another thread, so that this one stays where it is.
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(_look_from, pid, ports).result()


def _look_from(pid: int, ports: Collection[int]) -> Facts:
    _enter(pid)
    return _look(ports)


def _enter(pid: int) -> None:
    """Move this thread into the network namespace of the process *pid*."""
    try:
        namespace = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY)
    except FileNotFoundError:
        if not os.path.exists("/proc/self"):
            raise  # nothing is known of any process
        raise ProcessLookupError(errno.ESRCH, f"there is no process {pid} that this user can see") from None
    try:
        if os.path.samestat(os.fstat(namespace), os.stat("/proc/thread-self/ns/net")):
            return  # here; to enter it again needs a privilege
        libc = ctypes.CDLL(None, use_errno=True)  # Python has os.setns from 3.12 on
        if libc.setns(namespace, _CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), f"setns: {os.strerror(ctypes.get_errno())}")
    finally:
        os.close(namespace)


def _look(ports: Collection[int]) -> Facts:
    if sys.platform != "linux":
        from safedial.cli.doctor import elsewhere

        return elsewhere.look(ports)
    unseen: list[str] = []
    missing: list[str] = []
    settings = _settings(missing)
    reuse = _number("tcp_tw_reuse", missing)
    delay = _number("tcp_tw_reuse_delay", missing, since="Linux 6.14")
    step_width = _number("ip_local_port_step_width", missing, since="Linux 7.2")
    unprivileged_start = _number("ip_unprivileged_port_start", missing, since="Linux 4.11")
    if missing:
        unseen.append(f"Settings that could not be read in /proc/sys/net: {', '.join(missing)}.")
    steers = _steering(unseen)
    ipv6, loopback_v6 = _ipv6(unseen)
    sockets = _sockets(ports, settings.ports, unseen)
    return Facts(
        sys.platform,
        kernel=platform.release() or None,
        settings=settings,
        steering=steers,
        tw_reuse=reuse,
        tw_reuse_delay=delay,
        step_width=step_width,
        unprivileged_start=unprivileged_start,
        ipv6=ipv6,
        loopback_v6=loopback_v6,
        sockets=sockets,
        can_set=rights.can_set(),
        can_close=rights.can_close(),
        unseen=tuple(unseen),
    )


def _settings(missing: list[str]) -> PortSettings:
    found = port_settings.read_settings()
    if found.ports is None:
        missing.append("net.ipv4.ip_local_port_range")
    if found.reserved is None:
        missing.append("net.ipv4.ip_local_reserved_ports")
    return found


def _number(name: str, missing: list[str], *, since: str = "") -> int | None:
    """Read a setting, which older kernels lack if *since* is given."""
    text = port_settings.sysctl(name)
    if text is not None:
        with contextlib.suppress(ValueError):
            return int(text)
    if not since or os.path.exists(f"/proc/sys/net/ipv4/{name}"):
        missing.append(f"net.ipv4.{name}")
    return None


def _steering(unseen: list[str]) -> bool | None:
    """Return whether the kernel takes IP_LOCAL_PORT_RANGE, by setting it on a socket that never dials."""
    option = steering.option_value(PortRange(40000, 50000))
    try:
        with socket.socket() as sock:
            sock.setsockopt(socket.IPPROTO_IP, steering.IP_LOCAL_PORT_RANGE, option)
            return sock.getsockopt(socket.IPPROTO_IP, steering.IP_LOCAL_PORT_RANGE) == option
    except OSError as error:
        if error.errno == errno.ENOPROTOOPT:
            return False
        unseen.append(f"Whether steering works (IP_LOCAL_PORT_RANGE) could not be tried: {error.strerror}.")
        return None


def _ipv6(unseen: list[str]) -> tuple[bool | None, bool | None]:
    """Return whether an interface has an IPv6 address, and whether one has ::1."""
    try:
        with FileIO("/proc/thread-self/net/if_inet6") as file:
            addresses = [line.split()[0] for line in file.read().splitlines()]
    except FileNotFoundError:
        if os.path.exists("/proc/thread-self/net/tcp"):
            return False, False  # a kernel without IPv6
        unseen.append("Whether there is IPv6 could not be read: /proc/net is not there.")
        return None, None
    except OSError as error:
        unseen.append(f"Whether there is IPv6 could not be read in /proc/net/if_inet6: {error.strerror}.")
        return None, None
    return bool(addresses), _LOOPBACK_V6 in addresses


def _sockets(ports: Collection[int], ephemeral: PortRange | None, unseen: list[str]) -> Sockets | None:
    try:
        found = table.read(ports, ephemeral)
    except OSError as error:
        unseen.append(f"Sockets could not be read in {error.filename or '/proc/net'}: {error.strerror}.")
        return None
    return _with_processes(replace(found, binds=_binds(ports, found, unseen)), unseen)


def _binds(ports: Collection[int], found: Sockets, unseen: list[str]) -> dict[int, bool | None]:
    listening: dict[int, list[str]] = defaultdict(list)
    holding: dict[int, list[str]] = defaultdict(list)
    for sockets, hosts in ((found.listeners, listening), (found.held, holding)):
        for each in sockets:
            hosts[each.local.port].append(each.local.host)
    binds: dict[int, bool | None] = {}
    failed: dict[str, list[int]] = defaultdict(list)
    for port in ports:
        try:
            binds[port] = binding.can_bind(port, listening[port], holding[port])
        except OSError as error:
            binds[port] = None
            hint = " (root may)" if isinstance(error, PermissionError) and os.geteuid() else ""
            failed[f"{error.strerror}{hint}"].append(port)
    unseen += [
        f"Whether a server could bind {named(those)} could not be tried: {why}." for why, those in failed.items()
    ]
    return binds


def _with_processes(found: Sockets, unseen: list[str]) -> Sockets:
    inodes = {each.inode for each in (*found.listeners, *found.held, *found.self_connected) if each.inode}
    known, all_seen = processes.find(inodes)
    unknown = len(inodes - known.keys())
    if unknown:
        where = (
            "It is in another container, or hidden." if all_seen else "It is another user's, or in another container."
        )
        unseen.append(f"The process of {unknown} {'socket' if unknown == 1 else 'sockets'} could not be seen. {where}")
    return table.changed(found, lambda each: each._replace(processes=known.get(each.inode) if each.inode else ()))
