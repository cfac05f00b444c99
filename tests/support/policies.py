"""Policies whose rounds and waits a test chooses."""

import tenacity

import safedial


def retrying(rounds=None, wait=0, kind=tenacity.Retrying, **options):
    """Return a policy that retries transient errors: *rounds* in all (None: for ever), *wait* seconds apart."""
    stop = tenacity.stop_after_attempt(rounds) if rounds else tenacity.stop_never
    return kind(**{"retry": safedial.retry_if_transient, "stop": stop, "wait": tenacity.wait_fixed(wait)} | options)
