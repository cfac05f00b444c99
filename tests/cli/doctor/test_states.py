"""The doctor in network namespaces with prepared states. What it says to paste makes them safe."""

import contextlib
import errno
import io
import json
import os
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from safedial import cli
from safedial._tcp.selfconnect import RESET
from tests.support import exhaustion, faults, namespace

HERE = "127.0.0.1"
RANGE = (40000, 40009)
# Outside of the range.
OTHER = 5000
ELSE = "Nothing else is at risk."
RESERVED = Path("/proc/sys/net/ipv4/ip_local_reserved_ports")


def doctor(*arguments):
    """Return the exit status of the doctor and its report. As JSON it says the same."""
    arguments = ["doctor", *map(str, arguments)]
    printed = []
    for options in ([], ["--json"]):
        with contextlib.redirect_stdout(io.StringIO()) as out:
            status = cli.main([*arguments[:1], *options, *arguments[1:]])
        printed.append(out.getvalue())
    text, found = printed[0], json.loads(printed[1])
    assert found["status"] == status
    verdicts = re.findall(r"^Port (\d+): (safe|at risk|taken|not checked)", text, re.MULTILINE)
    assert {(str(each["port"]), each["verdict"]) for each in found["ports"]} == set(verdicts)
    assert text.count("\n- ") == sum(len(each["notes"]) for each in found["remedies"])
    return status, text


def paste(text, *commands):
    """Run the lines of the report that begin with one of *commands*."""
    for line in re.findall(rf"^(?:{'|'.join(commands)}) .*", text, re.MULTILINE):
        if shutil.which(line.split()[0]):
            subprocess.run(line, shell=True, check=True, capture_output=True)
        else:  # of sysctl; without ss, `require_ss` skips
            name, value = re.fullmatch(r"sysctl -w net\.ipv4\.(\w+)='?([^']*)'?", line).groups()
            exhaustion.sysctl(name, value)


def me():
    """Name this process, as the report does."""
    return f"{Path('/proc/self/comm').read_text().strip()} (pid {os.getpid()})"


def drawn(port, to):
    """Connect to the port *to*, by the local port *port*, which the kernel draws: a bound one would stay bound."""
    setting = Path("/proc/sys/net/ipv4/ip_local_port_range")
    before = setting.read_text()
    setting.write_text(f"{port} {port}")
    try:
        return socket.create_connection((HERE, to))
    finally:
        setting.write_text(before)


@contextlib.contextmanager
def dialed(times):
    """Connect to a server on the port `OTHER` so often, and leave nothing."""
    with faults.listener(HERE, OTHER), contextlib.ExitStack() as held:
        for _ in range(times):
            held.enter_context(socket.create_connection((HERE, OTHER))).setsockopt(
                socket.SOL_SOCKET, socket.SO_LINGER, RESET
            )
        yield


def test_ports():
    namespace.require()
    said = namespace.call_as_root(ports, port_range=RANGE)
    me = said.pop("me")
    drawn = "inside the ephemeral range, not reserved"
    kept = "inside the ephemeral range, reserved"
    for state, status, verdict, port in [
        ("dead", 1, ("At risk: port 40000.", ELSE), f"40000: at risk, {drawn}, first to be drawn; nobody listens."),
        ("odd", 1, ("At risk: port 40001.", ELSE), f"40001: at risk, {drawn}, last to be drawn; nobody listens."),
        ("outside", 0, ("Safe: port 5000.", ELSE), "5000: safe, outside the ephemeral range; nobody listens."),
        (
            "served",
            1,
            ("At risk: port 40002.",),
            f"40002: at risk, {drawn}, first to be drawn; {me} listens on 127.0.0.1.",
        ),
        ("pasted", 0, ("Nothing is at risk.",), f"40002: safe, {kept}; {me} listens on 127.0.0.1."),
        ("reserved", 0, ("Safe: port 40002.", ELSE), f"40002: safe, {kept}; nobody listens."),
        (
            "self-connect",
            1,
            ("Taken now: port 40004.", ELSE),
            f"40004: taken by a socket of {me} that is connected to itself.",
        ),
        (
            "bound",
            1,
            ("Taken now: port 5000.", ELSE),
            "5000: taken by a socket that is bound, and neither listens nor is connected. No table shows its process.",
        ),
        ("self-connect, closed", 1, ("Taken now: port 40004.",), "40004: taken by TIME_WAIT after a self-connect."),
        (
            "connection",
            1,
            ("Taken now: port 40006.", ELSE),
            f"40006: taken by a socket of {me} that is connected to 127.0.0.1 port 5000.",
        ),
        (
            "connection, closing",
            1,
            ("Taken now: port 40006.", ELSE),
            "40006: taken by a connection to 127.0.0.1 port 5000 that is still closing.",
        ),
        (
            "connection, closed",
            1,
            ("Taken now: port 40006.", ELSE),
            "40006: taken by TIME_WAIT after a connection to 127.0.0.1 port 5000.",
        ),
        (
            "all reserved",
            1,
            ("Safe: port 5000.", "No port is left to connect from: all are reserved or listened on."),
            "5000: safe, outside the ephemeral range; nobody listens.",
        ),
        ("without IPv6", 0, ("Safe: port 5000.", ELSE), "5000: safe, outside the ephemeral range; nobody listens."),
    ]:
        found, text = said.pop(state)
        assert (found, *text.partition("\n\n")[0].splitlines()[:2]) == (status, *verdict), state
        assert f"Port {port}" in text.splitlines(), state
        assert ("IPv6: no IPv6 address" in text.splitlines()) == (state == "without IPv6")
    assert said == {"list": "40001-40003", "connects": errno.EADDRNOTAVAIL}


def ports():
    """Prepare one state after the other. Return what the doctor says of each."""
    without_ipv6 = Path("/proc/sys/net/ipv6/conf/all/disable_ipv6")
    without_ipv6.write_text("1")
    said = {"me": me(), "without IPv6": doctor(OTHER)}
    without_ipv6.write_text("0")
    said |= {"dead": doctor(40000), "odd": doctor(40001), "outside": doctor(OTHER)}
    with socket.socket() as bound:
        bound.bind((HERE, OTHER))
        said["bound"] = doctor(OTHER)
    RESERVED.write_text("40000-40009")
    said["all reserved"] = doctor(OTHER)
    with socket.socket() as dialing:
        said["connects"] = dialing.connect_ex((HERE, OTHER))
    RESERVED.write_text("40001,40003")
    with faults.listener(HERE, 40002):
        said["served"] = doctor()
        paste(said["served"][1], "sysctl")
        said["pasted"] = doctor()
    said["list"] = RESERVED.read_text().strip()
    said["reserved"] = doctor(40002)
    with faults.listener(HERE, OTHER) as server, drawn(40006, OTHER) as connection:
        said["connection"] = doctor(40006)
        connection.close()
        said["connection, closing"] = doctor(40006)
        server.accept()[0].close()
        said["connection, closed"] = doctor(40006)
    with drawn(40004, 40004):
        said["self-connect"] = doctor(40004)
    said["self-connect, closed"] = doctor()
    return said


def test_what_is_pasted_frees_a_port_and_keeps_it_free():
    namespace.require()
    if not shutil.which("ss"):
        pytest.skip("ss is not installed: apt-get install iproute2")
    states = ("self-connect", "self-connect, closed", "connection", "connection, closed")
    assert namespace.call_as_root(freed, port_range=RANGE) == dict.fromkeys(states, (1, 0, True))


def freed():
    """Return the exit status before the lines are pasted, and what the doctor says after that, of each state."""
    said = {}

    def treat(state, port):
        status, text = doctor(port)
        paste(text, "sysctl", "ss")
        after, text = doctor(port)
        said[state] = status, after, text.startswith(f"Safe: port {port}.\n{ELSE}\n")
        socket.create_server((HERE, port)).close()

    with faults.listener(HERE, OTHER) as server, drawn(40000, 40000), drawn(40002, OTHER):
        treat("self-connect", 40000)
        treat("connection", 40002)
        drawn(40004, 40004).close()
        treat("self-connect, closed", 40004)
        server.accept()[0].close()
        drawn(40006, OTHER).close()
        server.accept()[0].close()
        treat("connection, closed", 40006)
    return said


@pytest.mark.storm
def test_destinations():
    namespace.require()
    said = namespace.call_as_root(destinations, port_range=RANGE)
    for state, status, verdict, line in [
        (3, 0, "Nothing is at risk.", None),
        (4, 0, "Nothing is at risk.", "40 % of the usable ones, near half, from where on connect() takes much longer."),
        (5, 0, "Nothing is at risk.", "50 % of the usable ones, past half, so connect() takes much longer."),
        (
            9,
            1,
            "Local ports run out: to 127.0.0.1 port 5000.",
            "90 % of the usable ones, near the end, where connect() fails.",
        ),
        (
            10,
            1,
            "Local ports run out: to 127.0.0.1 port 5000.",
            "100 % of the usable ones, used up, so connect() fails until one is free again.",
        ),
        ("pasted", 0, "Nothing is at risk.", None),
    ]:
        found, text = said.pop(state)
        assert (found, text.splitlines()[0]) == (status, verdict), state
        lines = re.findall("^From 127.0.0.1 to 127.0.0.1 port 5000: .*; (.*)$", text, re.MULTILINE)
        assert lines == ([line] if line else []), state
    assert said == {"range": "16384\t65535", "list": "20000"}


def destinations():
    said = {}
    for times in (3, 4, 5, 9, 10):
        with dialed(times), contextlib.ExitStack() as other:
            if times == 10:
                other.enter_context(faults.listener(HERE, 20000))  # which a wider range puts at risk
            said[times] = doctor()
            if times == 10:
                paste(said[times][1], "sysctl")
                said["pasted"] = doctor()
    said["range"] = Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().strip()
    said["list"] = RESERVED.read_text().strip()
    return said


def test_the_command_as_an_ordinary_user_says_what_it_could_not_see():
    namespace.require()
    status, text = namespace.call(by_another_process, port_range=RANGE)
    assert (status, text.splitlines()[0]) == (1, "At risk: port 40000.")
    assert re.search("^Port 40000: at risk, .*; an unseen process listens on 127.0.0.1.$", text, re.MULTILINE)
    assert re.search("^Not checked\n.*process.* 1 socket .*not be seen", text, re.MULTILINE)


def by_another_process():
    # This process changed its user namespace: others may not look at its descriptors (commit_creds, kernel/cred.c).
    with faults.listener(HERE, 40000):
        command = [sys.executable, "-m", "safedial", "doctor"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout


@pytest.mark.storm
def test_another_namespace():
    namespace.require()
    here, there, pasted, name = namespace.call_as_root(beside_another, port_range=(50000, 50009))
    assert here[0] == 0
    assert (there[0], there[1].splitlines()[0]) == (1, "At risk: port 40002.")
    assert f"; {name} listens on 127.0.0.1." in there[1]
    assert "\nEphemeral range: 40000 to 40009, 10 ports; drawn first: even ones\n" in there[1]
    assert pasted[0] == 0


def beside_another():
    code = (
        "import socket, sys; from tests.support import namespace; namespace.enter_network((40000, 40009))\n"
        "with socket.create_server(('127.0.0.1', 40002)): print(flush=True); sys.stdin.read()"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        other.stdout.readline()
        there = doctor("--pid", other.pid)
        paste(there[1], f"nsenter -t {other.pid} -n sysctl")
        pasted = doctor("--pid", other.pid)
        other.stdin.close()
    return doctor(40002), there, pasted, f"{Path('/proc/self/comm').read_text().strip()} (pid {other.pid})"
