"""Faults for tests of clients, made on the real kernel: self-connects, EADDRNOTAVAIL, outages.

For unittest and any other framework; the pytest plugin has them as fixtures. Nothing is patched until a fault begins.
Tested on Linux, also with the options switched off that other systems lack. May import everything but adapters, cli
and the plugin.
"""

from safedial.testing.fault import Fault
from safedial.testing.faults import address_not_available, ports_exhausted, self_connect
from safedial.testing.hanging import HangingUp, hanging_up
from safedial.testing.names import name_failure
from safedial.testing.namespace import in_namespace, no_namespace
from safedial.testing.never_drawn import server_port
from safedial.testing.outage import Outage, Start
from safedial.testing.ports import dead_port, refused_port
from safedial.testing.resilience import FAULTS, Finding, assert_resilient
from safedial.testing.retries import fast_retries
from safedial.testing.scan import assert_no_self_connects, is_self_connected
from safedial.testing.servers import echo, hang_up
from safedial.testing.silent import silent_port

__all__ = [
    "FAULTS",
    "Fault",
    "Finding",
    "HangingUp",
    "Outage",
    "Start",
    "address_not_available",
    "assert_no_self_connects",
    "assert_resilient",
    "dead_port",
    "echo",
    "fast_retries",
    "hang_up",
    "hanging_up",
    "in_namespace",
    "is_self_connected",
    "name_failure",
    "no_namespace",
    "ports_exhausted",
    "refused_port",
    "self_connect",
    "server_port",
    "silent_port",
]
