"""The verdict on the real errors of the real clients: for faults of any server, and for what real servers answer."""

import pytest

from tests.support import namespace, verdicts

# The kinds that clients may give a fault: one that drops the kernel's word calls it by its own.
KINDS = {
    "refused": {"connection_refused"},
    "both addresses refused": {"connection_refused"},
    # A client may write before it reads.
    "end of file": {"connection_closed", "connection_reset", "broken_pipe"},
    "reset": {"connection_closed", "connection_reset", "broken_pipe"},
    "timed out": {"timed_out", "connection_closed"},
    "no name": {"name_resolution_error"},
}
VAGUE = {"timed_out", "server_unavailable"}
VAGUE_CLIENTS = verdicts.BLIND | {"pymongo", "grpc", "aiomqtt"}


@pytest.mark.parametrize(
    "faults", [("refused", "both addresses refused", "no name"), ("reset", "timed out", "end of file")]
)
def test_fault_of_a_server(faults):
    cells = namespace.call_outside(verdicts.judge, *faults)
    assert {fault for fault, _ in cells} == set(faults)
    for (fault, client), (verdict, kind) in cells.items():
        cell = f"{client}, {fault}: {verdict}, {kind}"
        if client in verdicts.SILENT and fault not in ("refused", "both addresses refused", "no name"):
            assert verdict == "no error" or (verdict, kind) == ("TRANSIENT", "connection_reset"), cell
            continue
        absent = fault == "no name" and client not in verdicts.BLIND
        assert verdict == ("ABSENT" if absent else "TRANSIENT") or (absent and client in verdicts.IN_C), cell
        assert kind in KINDS[fault] | (VAGUE if client in VAGUE_CLIENTS else set()), cell
