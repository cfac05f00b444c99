"""Natural mistakes in calls of the core: each message names the right line."""

import asyncio
import datetime
import functools
import inspect
import pickle
import pydoc
import re
import warnings

import pytest
import tenacity

import safedial
from safedial._dial import dialer

ADDRESS = ("127.0.0.1", 1)
PAIR = r'a pair, such as \("127\.0\.0\.1", 6379\), not a'
MISTAKES = {
    "a URL": (lambda: safedial.safe_connect("redis://:secret@db:6379"), PAIR + " str"),
    "host:port": (lambda: safedial.safe_connect("db:6379"), PAIR + " str"),
    "two arguments": (lambda: safedial.safe_connect("db", 6379), PAIR + " str"),
    "three items": (lambda: safedial.safe_connect(("db", 6379, "secret")), PAIR + " tuple of 3"),
    "a URL for the loop": (lambda: safedial.connections("redis://db"), r"functools\.partial\(connect, url\)"),
    "hold(host, port)": (lambda: safedial.hold("db", 5432), r"hold\(\(host, port\)\)"),
    "hold(host=, port=)": (lambda: safedial.hold(host="db", port=5432), r"hold\(\(host, port\)\)"),
    "hold as a decorator": (
        lambda: safedial.hold(ADDRESS)(print),
        r"`with safedial\.hold\(\.\.\.\):` inside .* wrap\(",
    ),
    "install's ports by position": (lambda: safedial.install([ADDRESS]), r"install\(hold=\[\(host, port\)\]\)"),
    "one address for install": (lambda: safedial.install(ADDRESS), r"install\(hold=\[\(host, port\)\]\)"),
    "install as a decorator": (lambda: safedial.install(print), r"no decorator: .* safedial\.install\(\)"),
    "a policy for install": (
        lambda: safedial.install(policy=None),
        r"install\(\) takes no policy.*wrap\(connect, policy=",
    ),
    "a policy for guard": (lambda: safedial.guard(policy=None), r"guard\(\) takes no policy.*wrap\(connect, policy="),
    "a URL for hold": (lambda: safedial.hold("redis://db").__enter__(), PAIR + " str"),
    "dialer=": (lambda: safedial.safe_connect(ADDRESS, dialer=safedial.Dialer()), r"dialer\.dial\(address\)"),
    "dialer= for asyncio": (lambda: run(safedial.open_connection(*ADDRESS, dialer=safedial.Dialer())), "dial_async"),
    "a Dialer as policy": (lambda: safedial.Dialer(policy=safedial.Dialer()), r"call its dial\(address\)"),
    "policy not called": (lambda: safedial.Dialer(policy=safedial.reconnect), r"policy=safedial\.reconnect\(\)"),
    "redial not called": (lambda: safedial.safe_connect(ADDRESS, policy=safedial.redial), r"safedial\.redial\(\)"),
    "a number as policy": (lambda: safedial.Dialer(policy=3), r"policy=safedial\.redial\(3\)"),
    "a strategy as policy": (lambda: safedial.Dialer(policy=safedial.retry_if_transient), r"Retrying\(retry="),
    "a timedelta": (
        lambda: safedial.safe_connect(ADDRESS, timeout=datetime.timedelta(seconds=5)),
        r"timeout must be a number of seconds or None, not a timedelta; give its total_seconds\(\)",
    ),
    "a timeout in quotes": (
        lambda: safedial.safe_connect(ADDRESS, timeout="5"),
        "number of seconds or None, not a str",
    ),
    "total_timeout in quotes": (lambda: safedial.Dialer(total_timeout="5"), "total_timeout must be .*, not a str"),
    "a hook that is no function": (lambda: safedial.Dialer(on_event="log"), "on_event must be callable"),
    "a resolver's address": (lambda: safedial.Dialer(resolver="8.8.8.8"), "resolver must be callable or None, not a s"),
    "a strategy that is called": (
        lambda: tenacity.Retrying(retry=safedial.retry_if_transient()),
        "retry_if_transient is a strategy already, which is not called: retry=safedial.retry_if_transient",
    ),
    "a host with its port": (lambda: safedial.is_self_connected("db:1"), "sock must be a socket"),
}


def run(coroutine):
    return asyncio.run(coroutine)


@pytest.mark.parametrize("name", MISTAKES)
def test_message_names_the_right_line(name):
    mistake, message = MISTAKES[name]
    with pytest.raises((TypeError, ValueError), match=message) as caught:
        mistake()
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "signature"),
    [
        ("guard", ["function", "on_event"]),
        ("hold", ["address"]),
        ("install", ["on_event", "hold"]),
    ],
)
def test_signature_is_the_real_one(name, signature):
    function = getattr(safedial, name)
    assert list(inspect.signature(function).parameters) == signature
    assert pickle.loads(pickle.dumps(function)) is function
    with pytest.raises(TypeError, match=rf"^{name}\(\) got an unexpected keyword argument 'retries'"):
        function(retries=3)


def test_hold_that_was_called_is_not_said_to_be_unused(caplog):
    with pytest.raises(TypeError):
        safedial.hold(ADDRESS)(print)
    assert not caplog.records


def test_result_of_print_is_no_hook(server):
    safedial.safe_connect(server.getsockname(), on_event=None).close()


def test_blocking_dial_in_a_coroutine_is_said_once(server, caplog, monkeypatch):
    monkeypatch.setattr(dialer, "_looks", 20)
    monkeypatch.setattr(dialer, "_warned", {})

    async def main():
        for _ in range(2):
            safedial.safe_connect(server.getsockname()).close()
        with pytest.raises(TypeError, match="await"):
            await not_awaitable(safedial.safe_connect(server.getsockname()))

    async def not_awaitable(sock):
        with sock:
            await sock

    asyncio.run(main())
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert "await safedial.open_connection(host, port)" in record.message


def test_missing_await_is_pythons_own_warning():
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with pytest.raises(TypeError, match="coroutine"):
            _reader, _writer = safedial.open_connection(*ADDRESS)
    assert any("'open_connection' was never awaited" in str(each.message) for each in caught)


@pytest.mark.parametrize("name", ["retry_if_transient", "retry_if_spurious"])
def test_help_explains_the_strategies(name):
    text = re.sub(r"\s+", " ", pydoc.plain(pydoc.render_doc(getattr(safedial, name))))
    assert "Tenacity strategy: retry" in text
    assert f"retry=safedial.{name}" in text
    assert repr(getattr(safedial, name)) == name


def test_repr_of_a_dialer_shows_no_secret():
    made = safedial.Dialer(
        timeout=5,
        source_address=("127.0.0.1", 0),
        socket_options=[(6, 14, b"secret")],
        resolver=functools.partial(print, "secret"),
        on_event=functools.partial(print, "secret"),
        policy=tenacity.Retrying(sleep=functools.partial(print, "secret")),
    )
    assert "secret" not in repr(made)
    assert repr(safedial.Dialer()) == "Dialer()"
    assert repr(made).startswith("Dialer(timeout=5, source_address=127.0.0.1 port 0, ")
