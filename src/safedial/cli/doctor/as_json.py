"""The doctor's report as JSON. docs/command-line.md documents it; the tests compare both. Pure."""

import json
from collections.abc import Iterable
from typing import Any

from safedial._tcp.steering import PortRange
from safedial.cli.doctor.facts import Endpoint, Facts, Socket
from safedial.cli.doctor.judge import Diagnosis, Filled, Verdict
from safedial.cli.doctor.remedy import Remedy

# It changes if a field goes away or changes its meaning. New fields may come without.
SCHEMA = 1


def as_json(facts: Facts, diagnosis: Diagnosis, remedies: Iterable[Remedy]) -> str:
    """Return the report as one JSON object. null: not checked."""
    settings, sockets = facts.settings, facts.sockets
    report = {
        "schema": SCHEMA,
        "status": diagnosis.status,
        "system": facts.system,
        "kernel": facts.kernel,
        "settings": {
            "range": settings.ports and _range(settings.ports),
            "reserved": None if settings.reserved is None else [_range(each) for each in settings.reserved],
            "usable_ports": diagnosis.usable,
            "steering": facts.steering,
            "tcp_tw_reuse": facts.tw_reuse,
            "tcp_tw_reuse_delay_ms": facts.tw_reuse_delay,
            "reused_after_s": {"loopback": settings.wait_on_loopback, "others": settings.wait},
            "ip_local_port_step_width": facts.step_width,
            "writable": facts.can_set,
            "cap_net_admin": facts.can_close,
            "ipv6": facts.ipv6,
            "ipv6_loopback": facts.loopback_v6,
        },
        "sockets": None if sockets is None else sockets.count,
        "time_wait": settings.time_wait,
        "ports": [_verdict(each) for each in diagnosis.verdicts],
        "self_connected": None if sockets is None else _sockets(sockets.self_connected),
        "destinations": None if diagnosis.destinations is None else [_filled(each) for each in diagnosis.destinations],
        "remedies": [
            {"kind": each.kind, "title": each.title, "lines": each.lines, "notes": each.notes} for each in remedies
        ],
        "not_checked": facts.unseen,
    }
    return json.dumps(report, indent=2)


def _range(ports: PortRange) -> dict[str, int]:
    return {"low": ports.low, "high": ports.high}


def _endpoint(endpoint: Endpoint) -> dict[str, Any]:
    return {"host": endpoint.host, "port": endpoint.port}


def _sockets(sockets: Iterable[Socket] | None) -> list[dict[str, Any]] | None:
    return None if sockets is None else [_socket(each) for each in sockets]


def _socket(socket: Socket) -> dict[str, Any]:
    processes = None
    if socket.processes is not None:
        processes = [{"pid": each.pid, "name": each.name} for each in socket.processes]
    return {
        "kind": socket.kind,
        "local": _endpoint(socket.local),
        "peer": _endpoint(socket.peer),
        "processes": processes,
    }


def _verdict(verdict: Verdict) -> dict[str, Any]:
    return {
        "port": verdict.port,
        "asked": verdict.asked,
        "verdict": verdict.verdict,
        "inside": verdict.inside,
        "reserved": verdict.reserved,
        "preferred": verdict.preferred,
        "listeners": _sockets(verdict.listeners),
        "held_by": _sockets(verdict.held_by),
        "live": None if verdict.held_by is None else verdict.live,
        "time_wait": None if verdict.held_by is None else verdict.time_wait,
    }


def _filled(filled: Filled) -> dict[str, Any]:
    return {
        "source": filled.destination.source,
        "destination": _endpoint(filled.destination.peer),
        "live": filled.destination.live,
        "time_wait": filled.destination.time_wait,
        "share": filled.share,
        # null would mean that it was not checked.
        "level": "low" if filled.level is None and filled.share is not None else filled.level,
    }
