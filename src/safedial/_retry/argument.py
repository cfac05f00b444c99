"""The argument *policy*: its default, its check, and the round after a failed one.

Loads tenacity only when a policy is given or needed.
"""

import enum
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias, TypeVar

from safedial._address import shown
from safedial._retry.transient import is_spurious

if TYPE_CHECKING:
    from tenacity import AsyncRetrying, Retrying

    from safedial._retry.loop import Rounds

    Policy: TypeAlias = Retrying | AsyncRetrying

T = TypeVar("T")


class Default(enum.Enum):
    """The type of `DEFAULT`."""

    DEFAULT = "<default>"

    def __repr__(self) -> str:
        return self.value


# Marks an argument that was not given.
DEFAULT: Final = Default.DEFAULT

PolicyArgument: TypeAlias = "Policy | Literal[Default.DEFAULT] | None"

# Policies of these classes can be copied. Checked once for each class, because a copy costs half a dial.
_good_classes: set[type] = set()


def check_policy(policy: Any) -> Any:
    """Return *policy*, or raise TypeError if it is no policy."""
    if policy is None or policy is DEFAULT or type(policy) in _good_classes:
        return policy
    from tenacity import AsyncRetrying, Retrying  # late: most programs never give a policy

    if not isinstance(policy, Retrying | AsyncRetrying):
        raise TypeError(
            f"policy must be a tenacity.Retrying or AsyncRetrying, such as safedial.reconnect(), "
            f"or None for a single round, not {shown(policy)}"
        )
    try:
        policy.copy()  # each dial works on a copy
    except TypeError as error:
        raise TypeError(f"policy: {type(policy).__name__}.copy() must work, but raised: {error}") from error
    _good_classes.add(type(policy))
    return policy


def policy_after(policy: PolicyArgument, error: Exception) -> "Policy | None":
    """Return the policy that decides on the next round after *error*, None if there is no next round."""
    if policy is not DEFAULT:
        return policy
    if not is_spurious(error):
        return None  # redial() would stop too; this does not load tenacity for a mere refusal
    from safedial._retry.policies import default_policy

    return default_policy()


async def go_on(
    policy: "Policy",
    record: "Rounds",
    error: Exception,
    once: Callable[[], Awaitable[T]],
    failures: type[Exception] = OSError,
    *,
    blocking: bool,
) -> T:
    """Await *once* for as many rounds as *policy*, of `policy_after`, says after the first one raised *error*.

    Only *failures* are passed to the policy. An OSError is a failed dial; other exceptions come from the
    user's own code and end the dial, as KeyboardInterrupt does. A *blocking* dial never suspends.
    """
    from safedial._retry import loop  # late, because it loads tenacity

    try:
        return await loop.rounds(policy, record, error, once, failures, blocking=blocking)
    finally:
        del error  # its traceback holds this frame: break the cycle
