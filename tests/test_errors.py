"""The public exceptions."""

import pickle

import pytest

import safedial


@pytest.mark.parametrize(
    "error",
    [
        safedial.SelfConnectError.at("127.0.0.1", 5432),
        safedial.PortsExhaustedError.at("::1", 5432, safedial.PortUsage(32768, 60999, 28232, 28000)),
    ],
)
def test_errors_survive_pickling(error):
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is type(error)
    assert (copy.errno, str(copy), copy.__dict__) == (error.errno, str(error), error.__dict__)
