"""The closed list of reasons: complete, and every one of them reachable."""

from pathlib import Path

import pytest

from rekeyd.core.actions import Idle, ProveHeld, Refuse, Wait, only_looks, publishes
from rekeyd.core.model import IssueState, JournalFacts, Observed, Selection, VaultAbsent
from rekeyd.core.reasons import Reason
from rekeyd.core.state import State, state_of
from tests.unit.test_decide import AGED, HOUR, INTENT, NOW, OLD, PLACE, USER, retiring, rotation

SOURCE = Path(__file__).parents[2] / "src" / "rekeyd"


@pytest.mark.parametrize("reason", Reason)
def test_every_reason_has_a_sentence(reason: Reason) -> None:
    assert reason.sentence
    assert reason.sentence[0].islower() or reason.sentence.split()[0] in {
        "IAM",
        "Vault",
        "Vault's",
        "CloudTrail",
        "AWS",
    }
    assert not reason.sentence.endswith(".")


@pytest.mark.parametrize("reason", Reason)
def test_every_reason_is_given_somewhere_in_the_code(reason: Reason) -> None:
    uses = [
        path
        for path in SOURCE.rglob("*.py")
        if path.name not in {"reasons.py", "findings_text.py"} and f"Reason.{reason.name}" in path.read_text()
    ]
    assert uses, f"{reason} is in the list and nobody gives it"


def _seen(**changes: object) -> Observed:
    return Observed(principal=USER, keys=(AGED,), vault=VaultAbsent(0), place=PLACE, **changes)  # type: ignore[arg-type]


STATES: dict[Reason, State] = {
    Reason.STILL_USED: State.ON_HOLD,
    Reason.LAST_USE_UNKNOWN: State.ON_HOLD,
    Reason.USED_IN_QUARANTINE: State.ON_HOLD,
    Reason.REACTIVATED: State.ON_HOLD,
    Reason.UNMANAGED: State.UNMANAGED,
    Reason.TWO_KEYS_UNMANAGED: State.UNMANAGED,
    Reason.BRAKED: State.DUE,
    Reason.OBSERVE_MODE: State.DUE,
    Reason.RATE_LIMITED: State.DUE,
    Reason.FROZEN: State.FROZEN,
    Reason.LEFT_POLICY: State.FROZEN,
    Reason.STRAY_KEY: State.REFUSED,
    Reason.HELD_KEY_DEAD: State.REFUSED,
    Reason.VAULT_UNREADABLE: State.REFUSED,
}


@pytest.mark.parametrize("reason", STATES)
def test_the_state_of_a_refusal(reason: Reason) -> None:
    assert state_of(_seen(), Refuse(reason=reason)) is STATES[reason]


WAITS: dict[Reason, State] = {
    Reason.NOT_DUE: State.FRESH,
    Reason.OUTSIDE_WINDOW: State.DUE,
    Reason.IN_OVERLAP: State.OVERLAP,
    Reason.IN_QUARANTINE: State.QUARANTINE,
    Reason.AWAITING_CLOUDTRAIL: State.ROTATING,
}


@pytest.mark.parametrize("reason", WAITS)
def test_the_state_of_a_wait(reason: Reason) -> None:
    seen = _seen(journal=JournalFacts(rotation=rotation(state=IssueState.CREATING)))
    assert state_of(seen, Wait(until=NOW, reason=reason)) is WAITS[reason]


def test_settling_without_a_rotation_is_fresh() -> None:
    assert state_of(_seen(), Wait(until=NOW, reason=Reason.SETTLING)) is State.FRESH


def test_settling_shows_how_far_the_rotation_is() -> None:
    settling = Wait(until=NOW, reason=Reason.SETTLING)
    open_ = JournalFacts(rotation=rotation(state=IssueState.CREATED))
    assert state_of(_seen(journal=open_), settling) is State.ROTATING
    overlap = JournalFacts(rotation=rotation(), keys={OLD: retiring()})
    assert state_of(_seen(journal=overlap), settling) is State.OVERLAP
    quarantine = JournalFacts(rotation=rotation(), keys={OLD: retiring(deactivated=HOUR)})
    assert state_of(_seen(journal=quarantine), settling) is State.QUARANTINE
    assert state_of(_seen(journal=JournalFacts(unresolved=(INTENT,))), settling) is State.ROTATING


def test_a_step_is_rotating() -> None:
    assert state_of(_seen(), ProveHeld(reason=Reason.PROOF_NEEDED)) is State.ROTATING


def test_a_user_of_no_policy_is_unmanaged() -> None:
    assert state_of(_seen(selection=Selection.LEFT), Idle(reason=Reason.LEFT_POLICY)) is State.UNMANAGED
    assert state_of(_seen(), Idle(reason=Reason.NO_KEYS)) is State.UNMANAGED
    assert state_of(_seen(), Idle(reason=Reason.RESTORED_BY_ROLLBACK)) is State.FRESH


def test_only_a_mere_proof_looks() -> None:
    assert only_looks(ProveHeld(reason=Reason.PROOF_NEEDED))
    recording = ProveHeld(reason=Reason.PUBLISHED_BUT_UNRECORDED, publishes=rotation().id)
    assert not only_looks(recording)
    assert publishes(recording)
    assert not publishes(ProveHeld(reason=Reason.PROOF_NEEDED))
