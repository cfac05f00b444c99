"""The argument *policy*: its default, its check, and which policy decides after an error.

Loads tenacity only when a policy is given or needed.
"""

import enum
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias

from safedial._address import shown
from safedial._retry.transient import is_spurious

if TYPE_CHECKING:
    from tenacity import AsyncRetrying, Retrying

    Policy: TypeAlias = Retrying | AsyncRetrying


class Default(enum.Enum):
    """The type of `DEFAULT`, for an argument that was not given."""

    DEFAULT = "<default>"

    def __repr__(self) -> str:
        return self.value


DEFAULT: Final = Default.DEFAULT


def policy_after(policy: "Policy | Literal[Default.DEFAULT] | None", error: Exception) -> "Policy | None":
    """Return the policy that decides what follows *error*, None where nothing does."""
    if policy is not DEFAULT:
        return policy
    if not is_spurious(error):
        return None  # what redial() would say, without loading tenacity for a mere refusal
    from safedial._retry.policies import default_policy

    return default_policy()


def check_policy(policy: Any) -> None:
    """Raise TypeError where *policy* is no policy."""
    if policy is None or policy is DEFAULT:
        return
    from tenacity import AsyncRetrying, Retrying  # late: most programs never give a policy

    if not isinstance(policy, Retrying | AsyncRetrying):
        raise TypeError(
            f"policy must be a tenacity.Retrying or AsyncRetrying, such as safedial.reconnect(), "
            f"or None for a single round, not {shown(policy)}"
        )
    try:
        policy.copy()  # as each dial will
    except TypeError as error:
        raise TypeError(f"policy: {type(policy).__name__}.copy() must work, and does not: {error}") from error
