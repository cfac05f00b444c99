"""Arguments of ``safedial wait``: what each is refused with, and that each gets where it belongs."""

import contextlib
import json
import re
import signal
import socket
import ssl

import pytest

from safedial import cli
from safedial.cli.wait import command, gone, show
from safedial.testing import refused_port
from tests.support import faults, handlers, web
from tests.support.plain import connected_to_itself

linux = pytest.mark.skipif("sys.platform != 'linux'", reason="/proc/net/tcp is read")

HTTP_503 = b"HTTP/1.1 503 Busy\r\nContent-Length: 7\r\n\r\nloading"


@pytest.fixture
def server():
    """The address of a server that accepts, as a target."""
    with faults.listener() as listening:
        yield f"127.0.0.1:{listening.getsockname()[1]}"


@contextlib.contextmanager
def serving(handler):
    with handlers.serving(handler) as port:
        yield f"127.0.0.1:{port}"


def wait(*arguments):
    return cli.main(["wait", *arguments])


def refused(capsys, *arguments):
    """Return the line that tells what is wrong."""
    with pytest.raises(SystemExit) as ended:
        wait(*arguments)
    assert ended.value.code == 2
    said = capsys.readouterr()
    assert said.out == ""
    usage, line = said.err.splitlines()
    assert usage.startswith("usage: safedial")
    return line.partition("error: ")[2]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ("", "a TARGET is required, such as db:5432"),
        ("db:5432 --", "a COMMAND is required after --"),
        ("-- true", "a TARGET is required, such as db:5432"),
        ("db", "db: it has no port: write HOST:PORT, such as db:5432"),
        ("db 5432", "db 5432: write db:5432"),
        ("cache:6379 db 5432", "db 5432: write db:5432"),
        ("db:5432 gunicorn", "write -- before it"),
        ("db:5432 python -m app", "write -- before it"),
        ("db:5432 -m app", "there is no option -m: see --help, and write -- before a COMMAND"),
        ("db:5432 --retries=3", "there is no option --retries: see --help, and write -- before a COMMAND"),
        ("db:5432 --retries=3 -- true", "there is no option --retries: see --help\n"),
        ("db:5432 --time 3", "there is no option --time: "),
        ("--stay 1s db:5432", "there is no option --stay: "),
        ("db:5432 --what\x1b=secret", "there is no option --what\\x1b: "),
        ("--timeout soon db:5432", "argument --timeout: a duration is a number and ms, s, m or h"),
        ("db:5432 --timeout", "argument --timeout: expected one argument"),
        ("db:5432 --status 600 --http /", "argument --status: statuses are numbers"),
        ("-h db -p 5432", "there is no option -h: write HOST:PORT"),
        ("--strict --host=db --port=5432", "there is no option --strict: leave it out"),
        ("-p 5432 -h redis://me:secret@db", "there is no option -p: write HOST:PORT"),
        ("db:5432 -timeout 5s", "there is no option -timeout: write --timeout DURATION"),
        ("-wait tcp://db:5432", "there is no option -wait: write the TARGET alone"),
        ("tcp db:5432", "tcp: it has no port: write HOST:PORT, such as db:5432. If it is no host, leave it out"),
        ("db\x1b 5432", "db\\x1b 5432: write db\\x1b:5432"),
        ("db:5432 -q -- true", "there is no option -q: write --quiet"),
        ("db:5432 --gone --stays 1s", "--stays asks something of a server, but --gone waits until there is none"),
        ("db:5432 --gone --tls", "--tls asks something of a server"),
        ("db:5432 --gone --http /", "--http asks something of a server"),
        ("db:5432 --gone --expect x", "--expect asks something of a server"),
        ("db:5432 --stays 5s --timeout 5", "--stays must be shorter than --timeout"),
        ("db:5432 --insecure", "--insecure needs --tls, or a TARGET with TLS"),
        ("db:5432 --ca ca.pem", "--ca needs --tls, or a TARGET with TLS"),
        ("https://db --ca ca.pem --insecure", "--insecure does not check what --ca is for"),
        ("https://db --ca no-such-file.pem", "--ca no-such-file.pem: No such file or directory"),
        ("db:5432 --status 200", "--status needs --http PATH, or a TARGET with HTTP"),
        (
            "http://db/health --http /ready",
            "http://db:80/health says itself what to ask for: leave that out, or --http",
        ),
        ("db:5432 --http health", 'PATH begins with "/"'),
    ],
)
def test_what_can_not_be_meant_is_refused_in_one_line(capsys, arguments, says):
    assert says in refused(capsys, *arguments.split()) + "\n"


@pytest.mark.parametrize("option", ["--expect", "--ca", "--http", "--status", "--timeout"])
def test_empty_value_is_refused(capsys, option):
    """A variable of the shell that is not set would ask for nothing."""
    assert f"argument {option}: " in refused(capsys, "https://db", option, "")


def test_refusals_show_no_password(capsys):
    for arguments in (
        "postgresql://me:secret@db:x",
        "a:1 postgresql://me:secret@db:x --foo=secret",
        "a:1 --foo=secret",
    ):
        assert "secret" not in refused(capsys, *arguments.split())


def test_empty_command_is_none(capsys):
    assert refused(capsys, "db:5432", "--", "", "-c") == "a COMMAND is required after --"


def test_other_commands_take_no_command(capsys):
    with pytest.raises(SystemExit, match="2"):
        cli.main(["demo", "--", "ls", "-l"])
    assert "unrecognized arguments: -- ls -l" in capsys.readouterr().err


@pytest.mark.parametrize("flag", ["-h", "--help"])
def test_help(capsys, monkeypatch, flag):
    """It fits in 80 columns, and shows no option that is not meant to be used."""
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit, match="0"):
        wait("db:5432", flag)
    said = capsys.readouterr().out
    assert all(len(line) < 80 for line in said.splitlines())
    assert said.isascii()
    assert "==SUPPRESS==" not in said
    assert "124  timed out" in said


def test_targets_may_stand_before_and_after_options(capsys, server):
    assert wait(server, "--timeout", "20", server, "--json", server, "--quiet") == 0
    assert [each["target"] for each in json.loads(capsys.readouterr().out)["targets"]] == [server] * 3


def test_target_in_a_variable(monkeypatch, capsys, server):
    monkeypatch.setenv("DATABASE_URL", f"postgresql://me:secret@{server}/app")
    assert wait("$DATABASE_URL", "--json") == 0
    said = capsys.readouterr()
    assert f"postgresql://{server}" in said.out
    assert "secret" not in said.out + said.err


def test_any(server):
    with refused_port() as port:
        assert wait("--quiet", "--any", server, f"127.0.0.1:{port}") == 0


def test_gone(capsys):
    with refused_port() as port:
        taken = f"127.0.0.1:{port}"
        assert wait("--quiet", "--gone", "--timeout", "100ms", taken) == 124
        assert f"{taken}: not free: " in capsys.readouterr().err
    assert wait("--quiet", "--gone", taken) == 0


@linux
def test_port_alone_is_to_be_free_on_every_address(capsys, dead_port):
    with faults.listener("127.0.0.5", port=dead_port):
        assert wait(f"localhost:{dead_port}", "--quiet", "--gone") == 0
        assert wait(f":{dead_port}", "--gone", "--timeout", "100ms") == 124
        assert wait(str(dead_port), "--quiet", "--gone", "--timeout", "100ms") == 124
    said = capsys.readouterr().err
    assert f"safedial: :{dead_port}: not free: " in said
    assert "listens on 127.0.0.5" in said


@linux
def test_refused_by_a_port_that_another_socket_has(capsys, dead_port):
    """Its server can't start, for as long as it is so."""
    with connected_to_itself(dead_port) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0)
        assert wait(f":{dead_port}", "--json", "--timeout", "100ms") == 124
    result, said = capsys.readouterr()
    (target,) = json.loads(result)["targets"]
    for error in (target["error"], said):
        assert re.search(r"refused; taken by a socket of \S+ \(pid \d+\) that is connected to itself", error)
    for hint in (target["hint"], said):
        assert f"Its server can't start until the port is free: safedial doctor {dead_port}" in hint


def test_refused_by_a_port_that_no_socket_has_binds_nothing(monkeypatch, dead_port):
    """Its server may be about to bind it."""
    bound = []
    monkeypatch.setattr(gone, "look", bound.append)
    assert wait(f":{dead_port}", "--quiet", "--timeout", "100ms") == 124
    assert bound == []


@linux
def test_refused_beside_connections_of_a_server_that_has_ended(capsys):
    """They are not in the way of a new one."""
    with faults.listener() as server:
        address = server.getsockname()
        client, accepted = socket.create_connection(address), server.accept()[0]
    with client, accepted:
        assert wait(f":{address[1]}", "--quiet", "--timeout", "100ms") == 124
    assert "not ready: Connection refused (" in capsys.readouterr().err


def test_options_of_http_get_there(capsys):
    with serving(handlers.answer(HTTP_503)) as server:
        assert wait(server, "--quiet", "--http", "/health", "--status", "503", "--expect", "loading") == 0
        said = ""
        for _ in range(10):  # a look may be under way as the time runs out: then that is told
            assert wait(f"http://{server}", "--quiet", "--timeout", "500ms") == 124
            said = capsys.readouterr().err
            if "HTTP status 503" in said:
                break
    assert "HTTP status 503" in said


def test_path_is_encoded_as_that_of_a_url():
    requests = []
    with handlers.serving(handlers.answer(b"HTTP/1.1 200 OK\r\n\r\n", requests=requests)) as port:
        assert wait(f":{port}", "--quiet", "--http", "/ä b%20?c=d") == 0
    assert requests[0].startswith(b"GET /%C3%A4%20b%20?c=d HTTP/1.1\r\n")


def test_options_of_a_banner_get_there():
    with serving(handlers.say(b"SSH-2.0-x\r\n")) as server:
        assert wait(server, "--quiet", "--expect", "SSH-2.0", "--stays", "10ms") == 0
        assert wait(server, "--quiet", "--expect", "MySQL", "--timeout", "100ms") == 124


def test_options_of_tls_get_there():
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    web.authority().issue_cert("localhost").configure_cert(context)
    with serving(handlers.tls(context, handlers.say(b"+OK"))) as server:
        assert wait(server, "--quiet", "--tls", "--insecure", "--expect", "+OK") == 0


def test_stays_refuses_a_server_that_closes_again(capsys):
    with serving(handlers.close) as server:
        assert wait(server, "--quiet", "--stays", "400ms", "--timeout", "500ms") == 124
    assert "closed it again" in capsys.readouterr().err


def test_permanent_error_is_status_1(capsys):
    assert wait("192.0.2.1:80", "--gone") == 1
    assert "192.0.2.1:80: failed" in capsys.readouterr().err


def test_timeout_of_0_has_no_end(capsys, server):
    assert wait(server, "--timeout", "0") == 0
    assert "without a time limit" in capsys.readouterr().err


def test_command_does_not_run_after_a_signal_however_late_it_came(server, monkeypatch):
    ran = []
    monkeypatch.setattr(command, "run", ran.append)
    monkeypatch.setattr(show, "result", lambda _: signal.raise_signal(signal.SIGTERM))
    assert wait(server, "--json", "--", "true") == 143
    assert not ran
