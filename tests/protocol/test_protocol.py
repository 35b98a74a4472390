"""The protocol holds in every state, and the model finds every fault that is put into it.

The default form takes seconds. ``HYPOTHESIS_PROFILE=thorough pytest tests/protocol`` explores what takes minutes and
gigabytes, too. ``-rP`` prints the numbers of states.
"""

import os

import pytest

from tests.protocol.explore import Exploration, TooManyStatesError, explore
from tests.protocol.model import LEFT, RIGHT, WHOLE, Configuration, Faults

_ONE_KEY = Configuration(requests=1, before=(LEFT,), halves=0b01)
_EDGE = Configuration(requests=2, gateways=1, before=(LEFT,), halves=0b01)
_SPLIT = Configuration(requests=1, before=(WHOLE,), after=(LEFT, RIGHT))
_JOIN = Configuration(requests=1, before=(LEFT, RIGHT), after=(WHOLE,))


def _with(configuration: Configuration, **changes: object) -> Configuration:
    return Configuration(**{**vars(configuration), **changes})


RIGHT_ONES = {
    "request of two keys, any crash": Configuration(requests=1),
    "edge, any crash": _with(_EDGE, has_zombies=False),
    "unclaimed key, any crash, bad network": _with(_ONE_KEY, network_faults=1, is_begun=False),
    "durable, any two crashes": _with(_ONE_KEY, crashes=2, is_begun=False, is_durable=True),
    "collections and checkpoints, collector crashes twice": _with(
        _ONE_KEY, gateways=1, collections=2, checkpoints="free", crashes=2, crashing=("collector",)
    ),
    "ledger, any crash": _with(_ONE_KEY, is_begun=False, has_ledger=True),
    "split, collector crashes": _with(_SPLIT, gateways=1, crashing=("collector",)),
    "join, collector crashes": _with(_JOIN, crashing=("collector",)),
    "split, host crashes": _with(_SPLIT, gateways=1, crashing=("host",), has_zombies=False),
    "join, host crashes": _with(_JOIN, gateways=1, crashing=("host",), has_zombies=False),
}

THOROUGH_ONES = {
    "edge, unclaimed, any crash, zombie": _with(_EDGE, is_begun=False),
    "split, two gateways, collector crashes": _with(_SPLIT, crashing=("collector",)),
    "edge, two gateways, any crash": _with(_EDGE, gateways=2),
    "edge, durable, any crash": _with(_EDGE, is_durable=True),
    "edge, collections, collector crashes": _with(_EDGE, collections=2, crashing=("collector",)),
    "one key, any crash, collections, checkpoints": _with(_ONE_KEY, gateways=1, collections=2, checkpoints="free"),
    "one key, durable, any two crashes, bad network": _with(
        _ONE_KEY, crashes=2, network_faults=1, is_begun=False, is_durable=True
    ),
    "ledger, any crash, bad network": _with(_ONE_KEY, network_faults=1, is_begun=False, has_ledger=True),
    "two keys, two requests, no crash": Configuration(gateways=1, crashes=0),
    "two keys, two requests, collector crashes": Configuration(gateways=1, crashing=("collector",)),
    "two keys, two requests, gateway crashes": Configuration(gateways=1, crashing=("gateway",)),
    "split of the edge": _with(_SPLIT, requests=2, gateways=1, halves=0b01, crashes=0),
    "join of the edge": _with(_JOIN, requests=2, gateways=1, halves=0b01, crashes=0),
    "split, bad network": _with(_SPLIT, gateways=1, crashes=0, network_faults=1),
    "split, gateway crashes": _with(_SPLIT, gateways=1, crashing=("gateway",)),
    "split, host crashes, zombie": _with(_SPLIT, gateways=1, crashing=("host",)),
    "join, gateway crashes": _with(_JOIN, gateways=1, crashing=("gateway",)),
    "join, host crashes, zombie": _with(_JOIN, gateways=1, crashing=("host",)),
}

FAULTS = {
    "acknowledges_before_journal": _with(_ONE_KEY, gateways=1, crashing=("collector",)),
    "applies_before_journal": _with(_ONE_KEY, gateways=1, collections=2, crashing=("collector",)),
    "no_fingerprints": _with(_ONE_KEY, crashing=("gateway",)),
    "no_fingerprints_in_record": _with(_ONE_KEY, gateways=1, crashing=("host",)),
    "epoch_is_not_checked": _with(_ONE_KEY, gateways=1, crashing=("host",)),
    "gateway_drops_accepted": _with(_ONE_KEY, gateways=1, crashing=("host",)),
    "replays_without_fingerprint": _with(_ONE_KEY, gateways=1, crashing=("host",)),
    "answers_claim_before_journal": _with(_EDGE, is_begun=False, crashing=("collector",)),
    "successor_without_mirror": _with(_EDGE, crashing=("host",), has_zombies=False),
    "checkpoint_drops_collection": _with(_ONE_KEY, gateways=1, collections=1, crashing=("collector",)),
    "claimant_is_not_released": _with(_ONE_KEY, gateways=1, network_faults=1, is_begun=False, crashing=("gateway",)),
    "release_is_given_up": _with(_ONE_KEY, gateways=1, network_faults=2, is_begun=False, crashing=("gateway",)),
    "release_does_not_bind": _with(_ONE_KEY, gateways=1, network_faults=1, is_begun=False, crashing=("gateway",)),
    "fingerprint_without_range": _with(_SPLIT, gateways=1, crashes=0),
    "takes_rows_beyond_its_range": _with(_SPLIT, gateways=1, crashing=("host",), has_zombies=False),
}


def _holds(configuration: Configuration) -> None:
    exploration = explore(configuration)
    print(exploration)
    assert exploration.violation is None, str(exploration)
    assert exploration.quiescent


@pytest.mark.parametrize("name", RIGHT_ONES)
def test_protocol_holds_in_every_state(name: str) -> None:
    _holds(RIGHT_ONES[name])


@pytest.mark.skipif(os.environ.get("HYPOTHESIS_PROFILE") != "thorough", reason="takes minutes and gigabytes")
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", THOROUGH_ONES)
def test_protocol_holds_in_every_state_of_a_bigger_model(name: str) -> None:
    _holds(THOROUGH_ONES[name])


@pytest.mark.parametrize("fault", FAULTS)
def test_fault_is_found(fault: str) -> None:
    exploration = explore(_with(FAULTS[fault], faults=Faults(**{fault: True})))
    print(exploration)
    assert exploration.violation is not None, f"{fault} goes unnoticed in {exploration}"
    assert exploration.trace


def test_every_fault_is_put_in() -> None:
    assert FAULTS.keys() == vars(Faults()).keys()


def test_accepted_is_not_enough_when_gateway_and_host_crash() -> None:
    """The documented limit of the mode (design §3), and a sign that the model can tell the modes apart."""
    two_crashes = _with(_ONE_KEY, gateways=1, crashes=2, crashing=("gateway", "host"))
    exploration = explore(two_crashes)
    assert exploration.violation == "request 0 was acknowledged, and rows of it are not counted"
    assert explore(_with(two_crashes, is_durable=True)).violation is None


def test_trace_tells_every_step() -> None:
    exploration: Exploration = explore(
        _with(FAULTS["gateway_drops_accepted"], faults=Faults(gateway_drops_accepted=True))
    )
    told = str(exploration)
    assert told.startswith("request 0 was acknowledged, and rows of it are not counted, after ")
    assert "  1. client sends request 0 to gateway 0\n" in told
    assert "host 0 crashes" in told


def test_model_without_bound_is_broken_off() -> None:
    with pytest.raises(TooManyStatesError, match="more than 100 states"):
        explore(Configuration(), max_states=100)
