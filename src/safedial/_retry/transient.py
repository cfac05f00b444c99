"""Transient or permanent: what a failed connection means. Pure functions over an exception, for sync and async code.

The first that says something about an error decides:

1. the kernel's number, or the code and class that `safedial._retry.clients` knows: nobody asks what is behind it;
2. the errors behind it, and of these a permanent one before a transient one: a login that failed at the second address
   must not be tried again because the first one was refused;
3. its words, if its library keeps nothing else.
"""

from safedial._retry import clients, kinds
from safedial._retry.chain import LIMIT, attribute, linked, other_addresses, text_of
from safedial._retry.kinds import Kind, Verdict, strongest
from safedial.errors import PortsExhaustedError, SelfConnectError

_SPURIOUS = (SelfConnectError, PortsExhaustedError)
# The user's own mistakes. Outermost they decide, whatever was handled when they were raised.
_MISTAKES = (TypeError, ValueError, LookupError, AttributeError, NameError, AssertionError, ArithmeticError)


def verdict(error: BaseException) -> Verdict:
    """Return what an operator would say of *error*, with which a connection failed."""
    found = _kind(error)
    return Verdict.UNKNOWN if found is None else found.verdict


def error_type(error: BaseException) -> str:
    """Return the kind of *error* in a word or two for logs and metrics, as in OpenTelemetry's ``error.type``.

    Such as connection_refused or name_resolution_error. It is that of the error that decides on the verdict. If nothing
    is known of it: the name of the class with its module.
    """
    if (found := _kind(error)) is not None:
        return found.name
    kind = type(error)
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


def is_transient(error: BaseException, *, names: bool = False) -> bool:
    """Return whether a later round may succeed after *error*, the error of a server that may come back.

    If *names* is set, so may a name that does not resolve, and a source address that this host does not have.
    Otherwise they count only if they are known to have been there (`mark_as_known`).
    """
    found = verdict(error)
    if found is Verdict.ABSENT:
        return names or any(attribute(each, "_was_there") is True for each in errors_of(error))
    return found is Verdict.TRANSIENT


def is_spurious(error: BaseException) -> bool:
    """Return whether *error* says nothing about the server: a self-connect, or exhausted local ports."""
    if type(error) is ConnectionRefusedError and error.errno and getattr(error, "_other_addresses", None) is None:
        return False  # the most frequent failure: each refused dial asks
    if kinds.kernels(error) is not None and attribute(error, "_other_addresses") is None:
        return isinstance(error, _SPURIOUS)  # most errors
    return any(map(_is_spurious, errors_of(error))) and verdict(error) is not Verdict.PERMANENT


def mark_as_known(error: BaseException) -> None:
    """Mark *error*, a name or an address that is not there, as one that was there before in this process."""
    error._was_there = True  # type: ignore[attr-defined]  # is_transient reads it


def errors_of(error: BaseException) -> list[BaseException]:
    """Return *error*, those of the other addresses of its dial, and the kernel's error behind another library's."""
    if (kinds.kernels(error) is not None) and attribute(error, "_other_addresses") is None:
        return [error]  # most errors
    found = {id(error): error}  # a chain may be a ring
    todo = [error]
    for each in todo:  # grows meanwhile
        behind = other_addresses(each)
        if kinds.kernels(each) is None:
            behind += linked(each, clients.links(each))
        for one in behind:
            if id(one) not in found and len(found) < LIMIT:
                found[id(one)] = one
                todo.append(one)
    return [each for each in todo if not isinstance(each, BaseExceptionGroup)]


def _is_spurious(error: BaseException) -> bool:
    if isinstance(error, _SPURIOUS):
        return True
    # asyncio keeps only the texts if all addresses of a name fail.
    return kinds.kernels(error) is None and kinds.says_spurious(text_of(error))


def _kind(error: BaseException) -> Kind | None:
    """Return the kind of *error*, None if nothing is known of it."""
    if (own := kinds.kernels(error)) is not None and attribute(error, "_other_addresses") is None:
        return own  # most errors
    # Depth first, without recursion, because a chain may be as long as a program likes. Each error comes up twice:
    # first for its own kind, then for that of the errors behind it. A ring finds the first.
    found: dict[int, Kind | None] = {}
    alive: list[BaseException] = []  # so that no id is used again
    todo: list[tuple[BaseException, bool, list[BaseException] | None]] = [(error, True, None)]
    while todo:
        each, outermost, behind = todo.pop()
        if behind is not None:
            found[id(each)] = _judged(each, found[id(each)], [found.get(id(one)) for one in behind])
        elif id(each) not in found and len(found) < LIMIT:
            alive.append(each)
            own = found[id(each)] = _own_kind(each, outermost=outermost)
            behind = other_addresses(each)
            if own is None:
                behind += linked(each, clients.links(each))
            todo.append((each, outermost, behind))
            inside = outermost and isinstance(each, BaseExceptionGroup)
            todo += [(one, inside, None) for one in reversed(behind)]
    return found[id(error)]


def _own_kind(error: BaseException, *, outermost: bool) -> Kind | None:
    if outermost and _is_mistake(error):
        return Kind(Verdict.PERMANENT, type(error).__qualname__)
    return kinds.kernels(error) or clients.by_class_or_code(error)


def _judged(error: BaseException, own: Kind | None, behind: list[Kind | None]) -> Kind | None:
    """Return the kind of *error* from its *own*, those *behind* it, and its words."""
    best = strongest([own, *behind])
    if own is not None or _is_mistake(error):
        return best
    if best is not None and best.verdict is not Verdict.PERMANENT and clients.is_answer(error):
        best = None
    said = clients.by_words(error)
    # What was being handled may be behind it: a lost connection, while the login fails.
    if said is not None and (said.verdict is Verdict.PERMANENT or _is_vague(best)):
        return strongest([best, said])
    if _is_vague(best):
        best = strongest([best, kinds.by_words(text_of(error))])
    return best or clients.by_default(error) or kinds.by_base(error)


def _is_vague(kind: Kind | None) -> bool:
    return kind is None or kind.verdict is Verdict.UNKNOWN


def _is_mistake(error: BaseException) -> bool:
    return isinstance(error, _MISTAKES) and not isinstance(error, OSError | EOFError)
