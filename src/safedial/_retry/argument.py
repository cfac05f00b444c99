"""The argument *policy*: its default, its check, and the policy that decides. Loads tenacity only if it is needed."""

import enum
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias

from safedial._address import shown
from safedial._forks import loading
from safedial._retry.transient import is_spurious

if TYPE_CHECKING:
    from tenacity import AsyncRetrying, Retrying

    Policy: TypeAlias = Retrying | AsyncRetrying


class Default(enum.Enum):
    """The type of `DEFAULT`, which marks an argument that was not given."""

    DEFAULT = "<default>"

    def __repr__(self) -> str:
        return self.value


DEFAULT: Final = Default.DEFAULT
PolicyArgument: TypeAlias = "Policy | Literal[Default.DEFAULT] | None"
# tenacity's own classes, once they are loaded. Their policies can be copied; a copy costs half a dial, so none is made.
_plain_classes: set[type] = set()


def check_policy(policy: Any) -> Any:
    """Return *policy*, or raise TypeError if it is not a policy."""
    if policy is None or policy is DEFAULT or type(policy) in _plain_classes:
        return policy
    with loading:
        from tenacity import AsyncRetrying, Retrying

        from safedial._retry import loop as loop  # which the first failure would load

    if not isinstance(policy, Retrying | AsyncRetrying):
        raise TypeError(
            f"policy must be a tenacity.Retrying or AsyncRetrying, such as safedial.reconnect(), "
            f"or None for a single round, not {shown(policy)}{_hint(policy)}"
        )
    _plain_classes.update((Retrying, AsyncRetrying))
    if type(policy) not in _plain_classes:
        try:
            policy.copy()  # each dial works on a copy
        except TypeError as error:
            raise TypeError(f"policy: {type(policy).__name__}.copy() must work, but raised: {error}") from error
    return policy


def _hint(policy: Any) -> str:
    """Return what was probably meant by *policy*, which is none."""
    if type(policy) is int:
        return f"; for {policy} rounds: policy=safedial.redial({policy})"
    if getattr(policy, "__module__", None) == "safedial._retry.policies" and hasattr(policy, "__name__"):
        return f"; call it: policy=safedial.{policy.__name__}()"
    if hasattr(policy, "dial_async"):
        return "; to dial with a Dialer, call its dial(address)"
    if hasattr(policy, "predicate"):
        return "; a strategy is a part of a policy: tenacity.Retrying(retry=...)"
    return ""


def policy_after(policy: PolicyArgument, error: Exception) -> "Policy | None":
    """Return the policy that decides on the next round after *error*, None if there is no next round."""
    if policy is not DEFAULT:
        return policy
    if not is_spurious(error):
        return None  # redial() would stop too; this does not load tenacity for a mere refusal
    with loading:
        from safedial._retry.policies import default_policy
    return default_policy
