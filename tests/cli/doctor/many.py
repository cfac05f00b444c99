"""Many sockets in TIME_WAIT, and a look at them by a process of its own."""

import json
import re
import socket
import subprocess
import sys
from pathlib import Path

from tests.cli.doctor import states

PORT_RANGE = (1024, 65535)
_LOOK = """
import json, resource, time
from safedial.cli.doctor import look
found = look.look([5432]).sockets
cpu = time.process_time()
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
print(json.dumps([found.count, [crowd.time_wait for crowd in found.crowds], peak, cpu]))
"""


def look(sockets):
    """Leave *sockets* in TIME_WAIT: half of them towards eight destinations, each other one towards its own.

    Return how many there were before and after the look; the rows that it saw, the TIME_WAIT in each crowd, its peak of
    memory in megabytes and its CPU time in seconds, imports included.
    """
    Path("/proc/sys/net/ipv4/tcp_max_tw_buckets").write_text(str(2 * sockets))
    Path("/proc/sys/net/ipv4/tcp_tw_reuse").write_text("0")  # else a connect may draw the port of one of them
    with states.server("0.0.0.0", 1000) as server:
        for begin in range(0, sockets, 100):
            near = [socket.create_connection((_host(number), 1000)) for number in range(begin, begin + 100)]
            for sock in near + [server.accept()[0] for _ in near]:
                sock.close()
        before = _in_time_wait()
        answer = subprocess.run([sys.executable, "-c", _LOOK], stdout=subprocess.PIPE, check=True)
        return before, _in_time_wait(), *json.loads(answer.stdout)


def _host(number):
    return (
        f"127.0.0.{number // 2 % 8 + 1}"
        if number % 2
        else f"127.{number >> 16 | 128}.{number >> 8 & 255}.{number & 255}"
    )


def _in_time_wait():
    return int(re.search(r"TCP: .* tw (\d+)", Path("/proc/thread-self/net/sockstat").read_text())[1])
