"""Whatever a host, a service or a bad argument holds: no control character and no secret is shown."""

import asyncio
import functools
import logging
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

import safedial
from safedial import _address

# Such as a line break, ESC, DEL, a C1 control, a bidirectional override, a lone surrogate, a line separator.
HARMFUL = st.sampled_from("\n\r\t\x1b\x7f\x85\x9b\u202e\u2066\u2028\ud800")
TEXTS = st.text(st.characters() | HARMFUL, max_size=30)


class Lines(logging.Handler):
    """Keeps the messages and the fields of the records."""

    def __init__(self):
        super().__init__()
        self.lines = []

    def emit(self, record):
        self.lines += [record.getMessage(), str(record.__dict__.get("host")), str(record.__dict__.get("port"))]


def said_by(dial):
    """Return what is logged and noted while *dial* fails."""
    handler, logger = Lines(), logging.getLogger("safedial")
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)
    try:
        dial()
    except Exception as error:
        ours = isinstance(error, TypeError | ValueError) and not isinstance(error, UnicodeError)
        return [*handler.lines, *getattr(error, "__notes__", ()), *([str(error)] if ours else [])]
    finally:
        logger.setLevel(level)
        logger.removeHandler(handler)
    return handler.lines


def fail(host, *args, **kwds):
    raise OSError(f"can't resolve {host}")


@given(TEXTS)
def test_printable_text_has_no_control_character(text):
    shown = _address.printable(text)
    assert not any(unicodedata.category(each)[0] == "C" or each in "\u2028\u2029" for each in shown)
    assert shown == text or not text.isprintable()


def test_ordinary_letters_stay():
    assert _address.printable("bücher.例え.рф") == "bücher.例え.рф"
    assert _address.printable("a\nb\x1b[2J\u202e\ud800") == r"a\nb\x1b[2J\u202e\ud800"


def dial_blocking(host, port):
    safedial.safe_connect((host, port), resolver=fail)


def dial_with_dialer(host, port):
    safedial.Dialer(resolver=fail, policy=safedial.redial(1)).dial((host, port))


def dial_async(host, port):
    async def main():
        await safedial.open_connection(host, port, resolver=fail)

    asyncio.run(main())


@pytest.mark.parametrize("dial", [dial_blocking, dial_with_dialer, dial_async])
@given(host=TEXTS, port=TEXTS | st.just(80))
def test_nothing_harmful_is_logged_or_noted(dial, host, port):
    for line in said_by(lambda: dial(host, port)):
        assert line.isprintable(), ascii(line)


@given(TEXTS)
def test_messages_of_the_own_errors(host):
    assert safedial.SelfConnectError.at(host, 80).strerror.isprintable()
    assert safedial.PortsExhaustedError.at(host, 80, safedial.PortUsage()).strerror.isprintable()


def test_forged_line_of_the_log():
    lines = said_by(lambda: dial_blocking("h\n2026 CRITICAL forged\x1b[2J", 80))
    assert any(r"h\n2026 CRITICAL forged\x1b[2J port 80" in line for line in lines)


def test_password_of_a_url_is_not_shown():
    lines = said_by(lambda: safedial.safe_connect(("redis://:secret@db", 6379), resolver=lambda *args, **kwds: []))
    assert any("…@db port 6379" in line for line in lines)
    assert "secret" not in "".join(lines)


SECRET = "s3cr3t-s3cr3t"
HIDDEN = st.recursive(
    st.sampled_from([SECRET, SECRET.encode(), functools.partial(print, SECRET), functools.partial(print, key=SECRET)]),
    lambda inner: (
        st.lists(inner, min_size=1, max_size=4)
        | st.lists(inner, min_size=3, max_size=4).map(tuple)
        | st.dictionaries(st.sampled_from(["key"]), inner, min_size=1)
    ),
    max_leaves=4,
)
NAMES = ["timeout", "total_timeout", "source_address", "family", "socket_options", "happy_eyeballs_delay"]
NAMES += ["resolver", "policy", "on_event", "steer"]


def len_of(value):
    return len(value) if hasattr(value, "__len__") else 0


@pytest.mark.parametrize("name", NAMES)
@given(value=HIDDEN)
def test_no_secret_in_a_message_about_an_argument(name, value):
    try:
        shown = repr(safedial.Dialer(**{name: value}))
    except (TypeError, ValueError) as error:
        shown = str(error)
    assert SECRET not in shown


@given(value=HIDDEN.filter(lambda value: not isinstance(value, str | bytes) and len_of(value) != 2))
def test_no_secret_in_a_message_about_an_address(value):
    for address in (value, ("db\0", value), (value, 80), ("db", value)):
        with pytest.raises((TypeError, ValueError)) as caught:
            safedial.safe_connect(address)
        assert SECRET not in str(caught.value)


@given(value=HIDDEN)
def test_no_secret_in_a_message_about_a_policy(value):
    for make in (safedial.reconnect, safedial.redial, lambda value: safedial.reconnect(also=(value,))):
        with pytest.raises(TypeError) as caught:
            make(value)
        assert SECRET not in str(caught.value)


@given(value=HIDDEN)
def test_no_secret_in_a_message_about_a_resolvers_answer(value):
    with pytest.raises((TypeError, ValueError)) as caught:
        safedial.safe_connect(("db", 80), resolver=lambda *args, **kwds: value)
    assert SECRET not in str(caught.value) + "".join(getattr(caught.value, "__notes__", ()))
