"""Real redis-servers for tests: plain, with TLS, as a Sentinel, as a cluster of one node."""

import contextlib
import shutil
import socket

import pytest

from safedial.testing import Outage, dead_port
from tests.support import web

HOST = "127.0.0.1"


def require():
    if shutil.which("redis-server") is None:
        pytest.skip("needs redis-server: apt-get install redis-server")


def server(directory, *more, port=None, durable=False):
    """An `Outage`; a *durable* one has its data on disk before it answers, so a crash loses nothing."""
    require()
    command = ["redis-server", "--bind", "{host}", "--dir", str(directory), "--save", ""]
    kept = ["--appendonly", "yes", "--appendfsync", "always"] if durable else []
    anyone = ["--protected-mode", "no"]  # otherwise it refuses 127.0.0.2
    return Outage([*command, *kept, *anyone, *(more or ["--port", "{port}"])], port=port)


def tls_server(directory):
    """The same with TLS: `web.authority` has signed its certificate for localhost and 127.0.0.1."""
    files = {name: str(directory / f"{name}.pem") for name in ("key", "cert", "ca")}
    issued = web.authority().issue_cert("localhost", HOST)
    issued.private_key_pem.write_to_path(files["key"])
    issued.cert_chain_pems[0].write_to_path(files["cert"])
    web.authority().cert_pem.write_to_path(files["ca"])
    names = [f"--tls-{name}-file" for name in ("key", "cert", "ca-cert")]
    pairs = [word for pair in zip(names, files.values(), strict=True) for word in pair]
    outage = server(directory, "--port", "0", "--tls-port", "{port}", *pairs, "--tls-auth-clients", "no")
    try:
        outage.start()
    except TimeoutError:
        raise  # slow, but it may have TLS
    except OSError as error:
        pytest.skip(f"this redis-server has no TLS: {error}")
    return outage, files["ca"]


def sentinel(directory, master, *settings):
    """A Sentinel that watches the server on port *master* as ``mymaster``, with settings of it such as "quorum 1"."""
    require()
    file = directory / "sentinel.conf"  # Sentinel writes to it
    lines = [f"monitor mymaster {HOST} {master} 1", *settings]
    file.write_text("".join(f"sentinel {line}\n" for line in lines))
    return Outage(["redis-server", str(file), "--sentinel", "--bind", "{host}", "--port", "{port}"])


@contextlib.contextmanager
def cluster(directory):
    """A cluster of one node that has all slots. Only its topology is ready: serving keys takes two seconds more."""
    # By default the port of its bus is 10,000 above the node's port, which may be no port at all.
    more = ["--port", "{port}", "--cluster-enabled", "yes", "--cluster-port", str(dead_port())]
    with server(directory, *more) as node:
        with socket.create_connection(node.address) as client:
            client.sendall(b"CLUSTER ADDSLOTSRANGE 0 16383\r\n")
            assert client.recv(100) == b"+OK\r\n"
        yield node
