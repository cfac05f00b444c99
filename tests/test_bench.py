"""Each benchmark runs, and prints all its rows. No figure is looked at."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import namespace

PLAIN = [
    "socket.create_connection(addr, timeout=5)",
    "safe_connect(addr, timeout=5)",
    "Dialer(timeout=5).dial(addr)",
    "bare socket",
    "the floor: a bare socket, with the same system calls",
]
DIAL = {
    "Blocking, numeric address": PLAIN,
    "The same with options": [
        "socket.create_connection(addr, timeout=5)",
        "safe_connect(addr, timeout=5.0)",
        "safe_connect(addr, 5)",
        "safe_connect, with a shared policy=reconnect()",
        "safe_connect, with total_timeout=20",
        "Dialer.dial, with both",
        "safe_connect, with socket_options",
        "safe_connect, with steer=False",
    ],
    "By name: localhost, which is <addresses>": PLAIN,
    "Refused": PLAIN,
    "socket.create_connection(addr, timeout=5)": [
        "no guard",
        "under install()",
        "under guard()",
        "not guarded, while another thread is inside a guard",
    ],
    "socket.create_connection(addr, timeout=5), refused": [
        "no guard",
        "under install()",
        "under guard()",
        "not guarded, while another thread is inside a guard",
    ],
    "asyncio": [
        "asyncio.open_connection(host, port)",
        "open_connection(host, port)",
        "asyncio.open_connection, inside asyncio.timeout(5)",
        "open_connection, with timeout=5",
        "the floor: a bare socket, with the same system calls, with asyncio's streams",
        "aiohappyeyeballs.start_connection, with asyncio's streams",
        "anyio.connect_tcp(host, port)",
    ],
    "asyncio, refused": [
        "asyncio.open_connection(host, port)",
        "open_connection(host, port)",
        "asyncio.open_connection, inside asyncio.timeout(5)",
        "open_connection, with timeout=5",
    ],
    "uvloop": [
        "asyncio.open_connection(host, port)",
        "open_connection(host, port)",
        "asyncio.open_connection, inside asyncio.timeout(5)",
        "open_connection, with timeout=5",
        "the floor: a bare socket, with the same system calls, with asyncio's streams",
    ],
    "20 dials at once in asyncio: wall time": ["asyncio.open_connection", "open_connection"],
    "20 dials at once in asyncio: peak memory": ["asyncio.open_connection", "open_connection"],
    "2 threads, 20 dials each: wall time": ["socket.create_connection", "safe_connect"],
    "2 threads, 20 dials each: peak memory": ["socket.create_connection", "safe_connect"],
}

HAPPY_EYEBALLS = {
    "A dead IPv6 address first": [
        "socket.create_connection",
        "safe_connect",
        "Dialer.dial",
        "Dialer.dial_async",
        "asyncio.open_connection, with a delay",
        "open_connection, with a delay",
    ]
}

CHECK = [
    "no check",
    "the local port",
    "both addresses",
    "both addresses and TCP_INFO",
    "both addresses, TCP_INFO and sock_diag",
    "no option",
    "SO_REUSEADDR",
]


def run(module, *args):
    """Return the output of the benchmark, which leaves no socket behind to warn about."""
    command = [sys.executable, "-W", "error", "-m", f"bench.{module}", *args]
    ran = subprocess.run(command, cwd=Path(__file__).parents[1], capture_output=True, text=True, timeout=100)
    assert ran.stderr == ""
    return re.sub(r"(?<=which is ).*?(?=\*|\n)", "<addresses>", ran.stdout)


def rows_of_text(output):
    found = {}
    for title, rows in re.findall(r"^(\S.*)\n((?:  .+(?:\n|$))+)", output, re.MULTILINE):
        found[title] = re.findall(r"^  (.*?) +\d+\.\d\d (?:us|ms|s|MB) +\d+\.\d\d$", rows, re.MULTILINE)
    return found


def rows_of_markdown(output):
    found = {}
    for title, rows in re.findall(r"^\| \*\*(.*)\*\* \| \|\n((?:\| [^*].*\n)+)", output.replace("`", ""), re.MULTILINE):
        found[title] = re.findall(r"^\| (.*) \| \d+\.\d\d \|$", rows, re.MULTILINE)
    return found


def test_dial():
    assert rows_of_text(run("dial", "--rounds", "2", "--at-once", "20")) == DIAL


def test_dial_in_markdown():
    output = run("dial", "--rounds", "2", "--at-once", "20", "--markdown")
    assert re.match(r"\| `make bench`: .* \| Python 3\.\S+ \|\n\|---\|---\|\n", output)
    assert rows_of_markdown(output) == DIAL


@pytest.mark.storm
def test_happy_eyeballs():
    namespace.require()
    assert rows_of_text(run("happy_eyeballs", "1", "0.1", "0.02")) == HAPPY_EYEBALLS


@pytest.mark.skipif(sys.platform != "linux", reason="TCP_INFO and sock_diag are Linux's")
def test_check():
    rows = re.findall(r"^  (.*?) +\d+\.\d\d us(?: +[+-]\d+ %)?$", run("check", "--rounds", "2"), re.MULTILINE)
    assert rows == CHECK


def test_plugin():
    rows = re.findall(r"^  (\S+) +\d+\.\d\d ms, when .+$", run("plugin", "--rounds", "1"), re.MULTILINE)
    assert rows == ["safedial.pytest_plugin", "safedial.testing"]


@pytest.mark.storm
def test_in_the_way():
    namespace.require()
    output = run("in_the_way", "--seconds", "0.1", "--starts", "2")
    rows = re.findall(r"^  (\S.*?) {2,}(?:[\d,]+ +){2,3}[\d,]+$", output, re.MULTILINE)
    assert rows == [
        "socket.create_connection",
        "safe_connect, unsteered, with SO_REUSEADDR 0",
        "safe_connect, unsteered",
        "safe_connect, with SO_REUSEADDR 0",
        "safe_connect",
        "socket.create_connection",
        "safe_connect, unsteered",
        "safe_connect",
        "socket.create_connection under install(), unsteered",
        "socket.create_connection under install()",
    ]


@pytest.mark.storm
def test_ports():
    namespace.require()
    output = run("ports", "--rounds", "1", "--ports", "20", "--shares", "0", "100", "--markdown")
    tables = output.replace("`", "").rstrip("\n").split("\n\n")
    assert [re.sub(r"3\.\S+(?=\))", "3", table.partition("\n")[0]) for table in tables] == [
        f"| 20 local ports, the server's {where}; in use (Python 3) | 0 % | all: it fails |"
        for where in ("outside of the range", "in the range")
    ]
    for table in tables:
        rows = re.findall(r"^\| (.*) \| \d+\.\d\d \| \d+\.\d\d \|$", table, re.MULTILINE)
        assert rows == [
            "socket.create_connection(addr)",
            "safe_connect(addr)",
            "socket.create_connection(addr) under guard()",
            "asyncio.open_connection(host, port)",
            "open_connection(host, port)",
            "asyncio.open_connection(host, port) under guard()",
            "socket.create_connection(addr), against itself at 0 %",
        ]
