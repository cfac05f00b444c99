"""Reads the table of the clients: what a library's own code, class or words say of a failed connection."""

import functools
from collections.abc import Iterable, Mapping

from safedial._retry.chain import text_of
from safedial._retry.clients.row import Client
from safedial._retry.clients.table import BY_PACKAGE
from safedial._retry.kinds import Kind, Verdict, strongest
from safedial._retry.words import by_strerror

_UNLISTED = Kind(Verdict.UNKNOWN, "")


def knows(error: BaseException) -> bool:
    """Return whether the class of *error*, or one of its bases, is of a library in the table."""
    client, _ = _row(type(error).__mro__)
    return client is not None


def by_class_or_code(error: BaseException) -> Kind | None:
    """Return the kind that the table has for the code of *error*, or else for its class or the nearest base."""
    client, names = _row(type(error).__mro__)
    if client is None:
        return None
    code = _code(client, error)
    # A SQLSTATE's first two characters are its class.
    for part in (code, code[:2] if len(code) == 5 else ""):
        if part in client.codes:
            return client.codes[part]
    return _first(names, client.classes)


def by_words(error: BaseException) -> Kind | None:
    """Return the kind that the table has for words in the message of *error*."""
    client, _ = _row(type(error).__mro__)
    if client is None or not client.words:
        return None
    text = text_of(error)
    found = [kind for words, kind in client.words.items() if words in text]
    if client.in_c and (kind := by_strerror(text)):
        found.append(kind)
    answers: list[str] = client.answers.findall(text) if client.answers else []
    if not all(any(words in answer for words in client.words) for answer in answers):
        # In the server's language, unknown here. It may be a failed login, whatever the other lines say.
        found = [kind for kind in found if kind and kind.verdict is Verdict.PERMANENT]
    return strongest(found)


def by_default(error: BaseException) -> Kind | None:
    """Return the kind that the table has for the class of *error* if nothing else is known of it."""
    client, names = _row(type(error).__mro__)
    if client is None:
        return None
    return _first([_code(client, error), *names], client.defaults)


def is_answer(error: BaseException) -> bool:
    """Return whether *error* has a code that only a server gives."""
    client, _ = _row(type(error).__mro__)
    return client is not None and client.answered is not None and bool(client.answered.fullmatch(_code(client, error)))


def may_quote(error: BaseException) -> bool:
    """Return whether the message of *error* is the server's to a code that says enough: it may quote anything."""
    client, _ = _row(type(error).__mro__)
    return is_answer(error) and client is not None and client.codes.get(_code(client, error), _UNLISTED) is not None


def links(error: BaseException) -> Iterable[str]:
    """Return the names of the attributes in which the library of *error* keeps the errors behind it."""
    client, _ = _row(type(error).__mro__)
    return client.links if client else ()


@functools.lru_cache(256)  # some libraries make a class for each error
def _row(mro: tuple[type, ...]) -> tuple[Client | None, tuple[str, ...]]:
    """Return the client that an error's class and bases are of, and the names of those, the nearest first."""
    # A class of the user's own may be derived from the library's.
    for place, base in enumerate(mro):
        package = _package(base)
        if client := BY_PACKAGE.get(package):
            return client, tuple(each.__name__ for each in mro[place:] if _package(each) == package)
    return None, ()


def _package(kind: type) -> str:
    return str(kind.__module__).partition(".")[0]


def _code(client: Client, error: BaseException) -> str:
    try:
        code = client.code(error)
    except Exception:
        return ""  # an error of the same library without a code
    return str(code) if isinstance(code, int | str) else ""


def _first(keys: Iterable[str], kinds: Mapping[str, Kind | None]) -> Kind | None:
    return next((kinds[key] for key in keys if key in kinds), None)
