"""The public exceptions."""

import asyncio
import dataclasses
import errno
import pickle

import pytest

import safedial
from safedial._sentences import sentence
from safedial._tcp.port_settings import PortSettings
from safedial._tcp.remedy import remedy
from safedial.errors import for_log


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


def used(in_use, time_wait, *, reserved=0, others=0, **fields):
    return safedial.PortUsage(1, 10, in_use, time_wait, reserved=reserved, others=others, **fields)


WIDEN = "widen net.ipv4.ip_local_port_range (safedial doctor shows what that puts at risk)"
MINUTE = PortSettings(wait_on_loopback=0.5, wait=60.0)


@pytest.mark.parametrize(
    ("usage", "text", "helps"),
    [
        (safedial.PortUsage(), "the ephemeral range could not be read", WIDEN),
        (safedial.PortUsage(1, 10), "the ephemeral range is 1 to 10", WIDEN),
        (
            safedial.PortUsage(1, 10, own_range=True),
            "the socket's own range (IP_LOCAL_PORT_RANGE) is 1 to 10",
            "widen the own IP_LOCAL_PORT_RANGE",
        ),
        (safedial.PortUsage(1, 10, reserved=9, host_time_wait=3), ", 9 of its ports reserved, 3 sockets of", WIDEN),
        (
            safedial.PortUsage(1, 10, host_time_wait=1),
            ", 1 socket of this host in TIME_WAIT to all destinations",
            WIDEN,
        ),
        (safedial.PortUsage(1, 10, reserved=10), ", all of its ports reserved", "Reserve fewer ports"),
        (used(2, 1, reserved=6, others=1), ", 6 of its ports reserved, 2 ports in use to", "Reserve fewer ports"),
        (used(9, 6), "9 ports in use to this destination (6 in TIME_WAIT)", "keeps its port for 60 s (TIME_WAIT)"),
        (used(9, 1, others=1), " (1 in TIME_WAIT), 1 not in use to it", "Share connections (a pool)"),
        (
            used(1, 0, others=9),
            ", 1 port in use to this destination (0 in TIME_WAIT), 9 not in use to it",
            "see ss -tanp",
        ),
        (used(0, 0, others=10), ", 0 ports in use to this destination, 10 not in use to it", "have become free"),
        (used(0, 0), ", 0 ports in use to this destination", "no port but the dialed one"),
    ],
)
def test_usage_says_what_has_most_of_the_ports(usage, text, helps):
    assert text in str(usage)
    assert helps in remedy(usage, MINUTE, loopback=False).replace("socket's", "own")
    assert "doctor" not in remedy(dataclasses.replace(usage, own_range=True), MINUTE, loopback=False)


@pytest.mark.parametrize(
    ("settings", "loopback", "words"),
    [
        (MINUTE, True, "for 0.5 s (net.ipv4.tcp_tw_reuse)"),
        (MINUTE._replace(wait_setting="net.ipv4.tcp_tw_reuse_delay"), True, "0.5 s (net.ipv4.tcp_tw_reuse_delay)"),
        (MINUTE._replace(wait_setting="net.ipv4.tcp_tw_reuse_delay"), False, "for 60 s (TIME_WAIT)"),
        (PortSettings(), True, "keeps its port in TIME_WAIT"),
    ],
)
def test_remedy_names_the_setting_that_counts(settings, loopback, words):
    assert remedy(used(9, 6), settings, loopback=loopback).endswith(words)


def test_message_has_the_kernels_words_the_causes_the_figures_and_the_remedy():
    usage = used(9, 6, remedy="Sleep")
    error = safedial.PortsExhaustedError.at("h", 1, usage)
    said = "Cannot assign requested address: no local port is free to reach h port 1"
    assert error.strerror == f"{said} (all are in use, in TIME_WAIT, reserved or bound)"
    assert str(error) == f"[Errno 99] {error.strerror}; {usage}. Sleep"
    assert str(safedial.PortsExhaustedError.at("h", 1)) == f"[Errno 99] {error.strerror}"


def test_log_has_the_whole_message_and_not_the_kernels():
    """The messages of libraries are cut; their reason is added to them."""
    error = safedial.PortsExhaustedError.at("h" * 200, 1, used(2, 1, reserved=1, others=7))
    error.__cause__ = OSError(errno.EADDRNOTAVAIL, "Cannot assign requested address")
    _, values = sentence(safedial.DialEvent("failed", "h", 1, ("h", 1), 1, 0.0, error))
    assert str(error) in values


@pytest.mark.parametrize(
    ("host", "connections"),
    [
        ("127.0.0.1", "dst 127.0.0.1:80"),
        ("::ffff:127.0.0.1", "dst 127.0.0.1:80"),
        ("::1", "dst [::1]:80"),
        ("fe80::1%eth0", "dst [fe80::1]:80"),
        ("::", "dport = :80"),
        ("0.0.0.0", "dport = :80"),
        ("db.example", "dport = :80"),
    ],
)
def test_command_in_the_log_of_an_event_loop(host, connections):
    class Counter:
        def known(self):
            return safedial.PortUsage(1, 10)

    async def main():
        return for_log(safedial.PortsExhaustedError.at(host, 80, counter=Counter()))

    assert asyncio.run(main()).endswith(f"ss -Htan '{connections}' | wc -l")
