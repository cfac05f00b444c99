"""The wait: its ends, and that nothing is left behind."""

import asyncio
import contextlib
import errno
import functools
import gc
import os
import signal
import socket
import ssl
import subprocess
import sys
import textwrap
import threading

import pytest
import trustme
from tenacity import RetryCallState

import safedial
from safedial import testing
from safedial._tcp import steering
from safedial.cli.wait import gone, probe, run, signals
from safedial.cli.wait.progress import NotReady, Progress
from safedial.cli.wait.targets import Target
from tests.support import faults, handlers, name_server, namespace

# Seconds for a wait that ends sooner, and for one that does not.
LONG, SHORT = 60.0, 0.2


@pytest.fixture(autouse=True)
def _nothing_reported(caplog):
    """Fail if asyncio reports a task or an exception that nobody awaited."""
    handled = [signal.getsignal(number) for number in signals.ENDING]
    yield
    gc.collect()
    assert not [each for each in caplog.records if each.name == "asyncio" and each.levelname != "DEBUG"]
    assert handled == [signal.getsignal(number) for number in signals.ENDING]


def wait(*targets, look=None, any_of=False, timeout=LONG, changed=lambda _: None, **asked):
    """Wait for these ports of loopback, or targets. Return the outcome and the records."""
    made = [each if isinstance(each, Progress) else progress(each) for each in targets]
    look = look or functools.partial(probe.probe, asked=probe.Asked(**asked))
    with signals.noted() as noted:
        return run.wait(made, look, any_of=any_of, timeout=timeout, changed=changed, noted=noted), made


def progress(port, host="127.0.0.1"):
    return Progress(Target(f"{host}:{port}", host, port))


def after(rounds, waited, act):
    """Return what calls *act* once, when *waited* has had so many rounds."""
    acts = [act]

    def changed(_):
        if acts and waited.rounds >= rounds:
            acts.pop()()

    return changed


def states(made):
    return [each.state for each in made]


def test_late_server(dead_port, steering):
    with contextlib.ExitStack() as stack:
        waited = progress(dead_port)
        start = after(2, waited, lambda: stack.enter_context(faults.listener(port=dead_port)))
        assert wait(waited, changed=start)[0] == "ready"
    assert waited.state == "ready"
    assert waited.rounds == 3
    assert isinstance(waited.error, ConnectionRefusedError)
    assert waited.ready_after > 0


def test_no_server(dead_port, server, steering):
    outcome, (none, there) = wait(dead_port, server.getsockname()[1], timeout=SHORT)
    assert outcome == "timed out"
    assert (none.state, there.state) == ("waiting", "ready")
    assert isinstance(none.error, ConnectionRefusedError)
    assert none.rounds > 1
    assert (there.rounds, there.error) == (1, None)


def test_self_connects_are_never_ready(means, dead_port, steering):
    """Each dial of the first rounds is forced to connect to itself. Then a server comes, on the port that is free."""
    with contextlib.ExitStack() as stack:
        fault = stack.enter_context(faults.self_connect(means, dead_port, 2))
        waited = progress(dead_port)
        start = after(2, waited, lambda: stack.enter_context(faults.listener(port=dead_port)))
        assert wait(waited, changed=start)[0] == "ready"
        assert fault.triggered == 2
    assert waited.rounds == 3
    assert isinstance(waited.error, safedial.SelfConnectError)


def test_log_does_not_spill_over_the_report(capfd):
    """Where no logging is set up, Python prints warnings, such as that of a self-connect, on standard error."""
    assert namespace.call_outside(_connect_to_itself) == ("timed out", "SelfConnectError", [])
    assert "self-connect" not in capfd.readouterr().err


def _connect_to_itself():
    port = testing.dead_port()
    with testing.self_connect(port):
        outcome, (waited,) = wait(port, timeout=SHORT)
    return outcome, type(waited.error).__name__, safedial.events.logger.handlers


def test_forwarder_whose_server_comes_late():
    closes = [handlers.wait, handlers.reset, handlers.close]
    with handlers.serving(lambda sock: (closes.pop() if closes else handlers.wait)(sock)) as port:
        outcome, (waited,) = wait(port, stays=0.05)
    assert (outcome, waited.rounds) == ("ready", 3)


def test_http_server_that_says_503_first():
    heads = [b"HTTP/1.1 503 Unavailable\r\n\r\n"] * 2 + [b"HTTP/1.1 200 OK\r\n\r\n"]
    with handlers.serving(handlers.answer(*heads)) as port:
        outcome, (waited,) = wait(port, http="/health")
    assert (outcome, waited.rounds, str(waited.error)) == ("ready", 3, "HTTP status 503")


def test_certificate_may_be_another_one_later(tmp_path):
    """Such as that of an ingress or a proxy, until it has fetched its own."""
    authority, contexts = trustme.CA(), []
    for signer in (authority, trustme.CA()):
        contexts.append(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER))
        signer.issue_cert("127.0.0.1").configure_cert(contexts[-1])
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))

    def handler(sock):
        handlers.tls(contexts.pop() if len(contexts) > 1 else contexts[0], handlers.wait)(sock)

    with handlers.serving(handler) as port:
        outcome, (waited,) = wait(port, tls=True, ca=str(tmp_path / "ca.pem"))
    assert (outcome, waited.rounds) == ("ready", 2)
    assert isinstance(waited.error, ssl.SSLCertVerificationError)


def test_gone(dead_port):
    with contextlib.ExitStack() as stack:
        stack.enter_context(faults.listener(port=dead_port))
        waited = progress(dead_port)
        outcome, _ = wait(waited, look=gone.look, changed=after(1, waited, stack.close))
    assert (outcome, waited.rounds) == ("ready", 2)
    assert waited.error.errno == errno.EADDRINUSE


@pytest.mark.skipif(not hasattr(socket, "AF_UNIX"), reason="this system has no Unix sockets")
def test_unix_socket_that_comes_late(tmp_path):
    path = str(tmp_path / "s")
    waited = Progress(Target(f"unix:{path}", path=path))
    with socket.socket(socket.AF_UNIX) as server:

        def start():
            server.bind(path)
            server.listen(1)

        assert wait(waited, changed=after(1, waited, start))[0] == "ready"
    assert (waited.rounds, waited.error.errno) == (2, errno.ENOENT)


def test_permanent_error_ends_the_wait(dead_port, tmp_path):
    (tmp_path / "file").touch()
    path = str(tmp_path / "file" / "s")
    outcome, made = wait(dead_port, Progress(Target("", path=path)))
    assert (outcome, states(made)) == ("failed", ["waiting", "failed"])
    assert isinstance(made[1].error, NotADirectoryError)
    outcome, made = wait(progress(5432, "192.0.2.1"), look=gone.look)
    assert (outcome, states(made)) == ("failed", ["failed"])


@pytest.mark.parametrize("other", ["refused", "silent", "failed"])
def test_any(other, black_hole, dead_port):
    bad = {
        "refused": progress(dead_port),
        "silent": progress(black_hole.getsockname()[1]),
        "failed": progress(dead_port, "a" * 64),  # a label has at most 63 letters
    }[other]
    with contextlib.ExitStack() as stack:
        late = progress(testing.dead_port())
        start = after(1, late, lambda: stack.enter_context(faults.listener(port=late.target.port)))
        outcome, made = wait(bad, late, any_of=True, changed=start)
    assert (outcome, states(made)) == ("ready", ["failed" if other == "failed" else "not needed", "ready"])


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE], ids=errno.errorcode.get)
def test_too_many_open_files_may_be_those_of_our_own_looks(number):
    errors = [OSError(number, os.strerror(number))]

    async def look(*_):
        if errors:
            raise errors.pop()

    outcome, (waited,) = wait(1, look=look)
    assert (outcome, waited.rounds) == ("ready", 2)


def test_server_is_not_ready_for_long_without_being_noticed():
    state = RetryCallState(run._policy, None, (), {})
    state.attempt_number = 1000
    assert run._policy.wait(state) <= 1


def test_any_of_several_that_all_failed(dead_port):
    outcome, made = wait(progress(dead_port, "a" * 64), progress(dead_port, "b" * 64), any_of=True)
    assert (outcome, states(made)) == ("failed", ["failed", "failed"])


def test_first_look_that_does_not_end_in_time(black_hole):
    outcome, (waited,) = wait(black_hole.getsockname()[1], timeout=0.05)
    assert (outcome, waited.rounds, waited.error.errno) == ("timed out", 0, errno.ETIMEDOUT)
    assert "Nothing has come back yet" in waited.error.hint


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ({"stays": LONG}, "connected; waiting to see whether it stays so"),
        ({"expect": "SSH"}, "connected; waiting for 'SSH'"),
        ({"http": "/"}, "connected; waiting for its answer in HTTP"),
        ({"http": "/", "stays": LONG}, "it has answered; waiting to ask it once more"),
        ({"tls": True}, "connected; waiting for the TLS handshake"),
    ],
    ids=str,
)
def test_wait_that_ends_during_a_look_says_how_far_it_was(asked, says):
    """Nor does any step of a look leave its connection open."""

    async def look(target, step):
        def reached(cut):
            step(cut)
            if str(cut) == says:
                asyncio.get_running_loop().call_soon(signal.raise_signal, signal.SIGTERM)

        await probe.probe(target, reached, probe.Asked(**asked))

    heads = [b"HTTP/1.1 200 OK\r\n\r\n"]  # for one request
    answers = "stays" in asked and "http" in asked
    with handlers.serving(handlers.answer(*heads) if answers else handlers.wait) as port:
        outcome, (waited,) = wait(port, look=look)
    assert outcome is signal.SIGTERM
    assert waited.error.args == (says,)
    assert waited.error.hint


def test_step_of_an_earlier_look_is_forgotten():
    first = [True]

    async def look(_, step):
        if first:
            first.clear()
            step(NotReady("connected"))
            raise ConnectionRefusedError(errno.ECONNREFUSED, "refused")
        await asyncio.sleep(LONG)

    _, (waited,) = wait(1, look=look, timeout=SHORT)
    assert isinstance(waited.error, ConnectionRefusedError)


def test_cancelled_while_an_error_is_handled(server):
    """The error is linked to the cancellation, which tenacity passes to the policy."""
    assert wait(server.getsockname()[1], look=_ask_who_it_is, timeout=0.05)[0] == "timed out"


async def _ask_who_it_is(*_):
    try:
        raise ConnectionRefusedError(errno.ECONNREFUSED, "refused")
    except OSError:
        await asyncio.sleep(LONG)


@pytest.mark.parametrize("number", signals.ENDING, ids=lambda each: each.name)
def test_signal(number, dead_port, black_hole):
    """It comes while one dial waits for its address, and another one between two rounds."""
    waited = progress(dead_port)
    send = after(2, waited, lambda: signal.raise_signal(number))
    outcome, made = wait(black_hole.getsockname()[1], waited, timeout=LONG, changed=send)
    assert outcome is number
    assert states(made) == ["waiting", "waiting"]


@pytest.mark.skipif(os.name != "posix", reason="a signal is sent")
def test_signal_wakes_the_wait():
    awake = []

    async def look(*_):
        asyncio.get_running_loop().call_later(5, awake.append, "by itself")
        await asyncio.Event().wait()

    timer = threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGTERM))
    timer.start()
    outcome, _ = wait(1, look=look)
    timer.join()
    assert (outcome, awake) == (signal.SIGTERM, [])


@pytest.mark.parametrize("fails", [False, True], ids=["ready", "failed"])
def test_signal_wins_over_the_look_that_ends_the_wait(fails):
    async def look(*_):
        signal.raise_signal(signal.SIGTERM)
        if fails:
            raise ValueError("no target")

    assert wait(1, look=look)[0] is signal.SIGTERM


async def never_ready(*_):
    await asyncio.Event().wait()


def test_signal_that_came_before_the_wait(dead_port):
    asked = {"any_of": False, "timeout": LONG, "changed": lambda _: None}
    with signals.noted() as noted:
        signal.raise_signal(signal.SIGTERM)
        assert run.wait([progress(dead_port)], never_ready, noted=noted, **asked) is signal.SIGTERM


def test_second_signal_ends_a_process_that_blocks():
    """Not one that comes together with the first: some senders send two."""
    code = """
        from signal import SIGINT, SIGTERM, raise_signal
        from safedial.cli.wait import signals
        with signals.noted():
            raise_signal(SIGINT)
            raise_signal(SIGTERM)
            print("together", flush=True)
            signals._TOGETHER = 0.0
            raise_signal(SIGTERM)
        print("not ended")
    """
    ended = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=False, timeout=60
    )
    assert (ended.returncode, ended.stdout.strip()) == (128 + signal.SIGTERM, "together")


def test_signal_that_is_ignored_stays_ignored(dead_port):
    """As in a background job of a shell's."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        waited = progress(dead_port)
        send = after(1, waited, lambda: signal.raise_signal(signal.SIGINT))
        assert wait(waited, timeout=SHORT, changed=send)[0] == "timed out"
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has namespaces")
@pytest.mark.storm
def test_names_and_routes():
    namespace.require()
    try:
        found = namespace.call(_names_and_routes, seconds=30)
    except name_server.CannotMountError as error:
        pytest.skip(f"resolv.conf can't be replaced: {error}")
    assert found == {
        "no route": ("timed out", errno.ENETUNREACH),
        "late name": ("ready", socket.EAI_NONAME),
        "silent name server": ("timed out", errno.ETIMEDOUT),
    }


def _names_and_routes():
    """The last wait leaves a thread in getaddrinfo() for a minute, and this process must end before."""
    found = {}
    outcome, (waited,) = wait(progress(5432, "192.0.2.1"), timeout=SHORT)
    found["no route"] = outcome, waited.error.errno
    names = {}
    with name_server.serving(names), faults.listener() as server:
        waited = progress(server.getsockname()[1], "db.test")
        start = after(1, waited, lambda: names.update({"db.test": "127.0.0.1"}))
        found["late name"] = wait(waited, changed=start)[0], waited.error.errno
    with name_server.silent():
        outcome, (waited,) = wait(progress(5432, "other.test"), timeout=SHORT)
        found["silent name server"] = outcome, waited.error.errno
    return found


@pytest.mark.storm
@pytest.mark.parametrize("steered", [True, False], ids=["steered", "unsteered"])
def test_dead_port_of_a_range_of_two(steered):
    """Where wait-for-it and others call the port ready."""
    namespace.require()
    assert namespace.call(_wait_for_one_of_two, steered, port_range=(40000, 40001)) == ("timed out", steered)


def _wait_for_one_of_two(steered):
    steering._steerable = steered
    released = []
    waited = progress(40000)

    def changed(_):
        released.append(isinstance(waited.error, safedial.SelfConnectError))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run, "_policy", safedial.reconnect(within=None, cap=0.01))
        outcome, _ = wait(waited, timeout=2, changed=changed)
    faults.assert_server_can_bind("127.0.0.1", 40000)
    return outcome, not any(released)
