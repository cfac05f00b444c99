"""The public exceptions."""

import errno
import pickle

import pytest

import safedial
from safedial._sentences import sentence


@pytest.mark.parametrize(
    "error",
    [
        safedial.SelfConnectError.at("127.0.0.1", 5432),
        safedial.PortsExhaustedError.at("::1", 5432, safedial.PortUsage(32768, 60999, 28232, 28000)),
    ],
)
def test_errors_survive_pickling(error):
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is type(error)
    assert (copy.errno, str(copy), copy.__dict__) == (error.errno, str(error), error.__dict__)


def used(in_use, time_wait, *, reserved=0, bound=0, **others):
    return safedial.PortUsage(1, 10, in_use, time_wait, reserved=reserved, bound=bound, **others)


WIDEN = "widen net.ipv4.ip_local_port_range"


@pytest.mark.parametrize(
    ("usage", "text", "remedy"),
    [
        (safedial.PortUsage(), "the ephemeral range could not be read", WIDEN),
        (safedial.PortUsage(1, 10), "the ephemeral range is 1 to 10", WIDEN),
        (safedial.PortUsage(1, 10, own_range=True), "the socket's own range (IP_LOCAL_PORT_RANGE) is 1 to 10", "own"),
        (safedial.PortUsage(1, 10, reserved=9, host_time_wait=3), ", 9 of its ports reserved, 3 sockets of", WIDEN),
        (safedial.PortUsage(1, 10, reserved=10), ", all of its ports reserved", "Reserve fewer ports"),
        (used(2, 1, reserved=6, bound=1), ", 6 of its ports reserved, 2 ports in use to", "Reserve fewer ports"),
        (used(9, 6, time_wait_seconds=60), ", 6 of them in TIME_WAIT", "keeps its port for 60 s (TIME_WAIT)"),
        (used(9, 6, bound=1, time_wait_seconds=0.5), ", 1 bound by other", "0.5 s (net.ipv4.tcp_tw_reuse)"),
        (used(9, 6, bound=1), ", 1 bound by other sockets", "keeps its port in TIME_WAIT"),
        (used(9, 1, bound=1), ", 1 of them in TIME_WAIT", "Share connections (a pool)"),
        (used(2, 1, reserved=1, bound=7), ", 7 bound by other sockets or free by now", "see ss -tanp"),
    ],
)
def test_usage_says_what_takes_most_of_the_ports(usage, text, remedy):
    assert text in str(usage)
    assert remedy in usage.remedy.replace("socket's", "own")
    assert str(safedial.PortsExhaustedError.at("h", 1, usage)).endswith(f" h port 1; {usage}. {usage.remedy}")


def test_log_has_the_whole_message_and_not_the_kernels():
    """The messages of libraries are cut; their reason is added to them."""
    error = safedial.PortsExhaustedError.at("h" * 200, 1, used(2, 1, reserved=1, bound=7))
    error.__cause__ = OSError(errno.EADDRNOTAVAIL, "Cannot assign requested address")
    _, values = sentence(safedial.DialEvent("failed", "h", 1, ("h", 1), 1, 0.0, error))
    assert str(error) in values
