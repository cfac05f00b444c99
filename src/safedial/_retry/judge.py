"""Looks behind an error for what it means: at the errors that its library links to it, and at its words.

A mistake of the program, such as a TypeError, is permanent, whatever is behind it. Else the first of these decides:

1. the kernel's number, or the code and class that `safedial._retry.clients` knows: nobody asks what is behind it;
2. the errors behind it, and of these a permanent one before a transient one: a login that failed at the second address
   must not be tried again because the first one was refused;
3. its words, if its library keeps nothing else; but words of a failed login always count;
4. what its class suggests.
"""

from safedial._retry import clients, kinds, words
from safedial._retry.chain import LIMIT, linked, other_addresses, text_of
from safedial._retry.kinds import Kind, Verdict, strongest
from safedial.errors import PortsExhaustedError, SelfConnectError

# The user's own mistakes. Outermost they decide, whatever was handled when they were raised.
_MISTAKES = (TypeError, ValueError, LookupError, AttributeError, NameError, AssertionError, ArithmeticError)


def errors_of(error: BaseException) -> list[BaseException]:
    """Return *error*, those of the other addresses of its dial, and those behind them."""
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


def is_spurious(error: BaseException) -> bool:
    """Return whether *error* itself, and none behind it, is safedial's for a self-connect or exhausted ports."""
    if isinstance(error, SelfConnectError | PortsExhaustedError):
        return True
    # asyncio keeps only the texts if all addresses of a name fail.
    return kinds.kernels(error) is None and words.says_spurious(text_of(error))


def kind_of(error: BaseException) -> Kind | None:
    """Return the kind of *error*, None if nothing is known of it."""
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
        elif outermost and found.get(id(each)) is None:  # it is behind another member of the group, too
            found[id(each)] = _own_kind(each, outermost=True)
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
    if said is not None and said.verdict is not Verdict.PERMANENT and clients.may_quote(error):
        said = None  # such as the user's data
    # What was being handled may be behind it: a lost connection, while the login fails.
    if said is not None and (said.verdict is Verdict.PERMANENT or _is_vague(best)):
        return strongest([best, said])
    if _is_vague(best):
        best = strongest([best, words.by_words(text_of(error))])
    return best or clients.by_default(error) or words.by_base(error)


def _is_vague(kind: Kind | None) -> bool:
    return kind is None or kind.verdict is Verdict.UNKNOWN


def _is_mistake(error: BaseException) -> bool:
    return isinstance(error, _MISTAKES) and not isinstance(error, OSError | EOFError)
