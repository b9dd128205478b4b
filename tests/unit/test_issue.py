"""Issuing one key, step by step: what each failure leaves behind in IAM, in Vault and in the journal."""

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta

import pytest

from rekeyd.core.model import IssueState, KeyStatus, Rotation
from rekeyd.core.policy import step_time
from rekeyd.core.reasons import Reason
from rekeyd.errors import (
    AccessDeniedError,
    ConflictError,
    Error,
    JournalError,
    LeaseLostError,
    LimitExceededError,
    StoppingError,
    TemporaryError,
)
from rekeyd.fleet.account import Worked
from tests.rig import ACCOUNT, DAY, Rig, failure_of, policy
from tests.world import Lags, World, lost

SECOND = timedelta(seconds=1)
POLICY = policy(publish_timeout=timedelta(seconds=20))
STEP = step_time(
    verify_first=POLICY.verify_first, verify_timeout=POLICY.verify_timeout, publish_timeout=POLICY.publish_timeout
)


def due(*, lags: Lags | None = None, points: bool = False) -> Rig:
    rig = Rig(POLICY, world=World(lags=lags), journal_points=points)
    rig.world.user(ACCOUNT, "ci", age=100 * DAY)
    return rig


def rotation(rig: Rig) -> Rotation:
    found = rig.journal.known(rig.world.state(ACCOUNT, "ci").principal).facts.rotation
    assert found is not None
    return found


def unresolved(rig: Rig) -> int:
    return len(rig.journal.known(rig.world.state(ACCOUNT, "ci").principal).facts.unresolved)


def keys(rig: Rig) -> int:
    return len(rig.world.keys(ACCOUNT, "ci"))


def vault_version(rig: Rig) -> int:
    served = rig.world.vault.state.served(rig.world.place(ACCOUNT, "ci"))
    assert served is not None
    return served.number


def rotates_by_itself(rig: Rig) -> None:
    """Whatever was left behind: the next looks clear it away, and one key, held and accepted, is the end."""
    rig.settle(span=30 * DAY)
    assert keys(rig) == 1
    assert rig.world.consumer(ACCOUNT, "ci")
    rig.world.check_promises()


# --- 1: preconditions -------------------------------------------------------------------------------------------------


def _as_root(rig: Rig) -> None:
    account = rig.world.account(ACCOUNT)
    account.caller = replace(account.caller, arn=f"arn:aws:iam::{ACCOUNT}:root")


def _as_another_account(rig: Rig) -> None:
    account = rig.world.account(ACCOUNT)
    account.caller = replace(account.caller, account_id=type(ACCOUNT)("999999999999"))


def _aws_credentials_end(rig: Rig) -> None:
    rig.world.account(ACCOUNT).credentials_expire_at = rig.world.clock.now() + STEP - SECOND


def _vault_token_ends(rig: Rig) -> None:
    rig.world.vault.token_end = rig.world.clock.now() + STEP - SECOND


PRECONDITIONS: dict[str, tuple[Callable[[Rig], object], str]] = {
    "rekeyd acts as the root user": (_as_root, "acts as the root user of account 111122223333"),
    "its credentials belong to another account": (_as_another_account, "belong to account 999999999999"),
    "it may not write the secret": (lambda rig: rig.world.vault.denied.add("publish"), "lacks the capability"),
    "its AWS credentials end within the step": (_aws_credentials_end, "the AWS credentials end at"),
    "its Vault token ends within the step": (_vault_token_ends, "the Vault token end at"),
    "it cannot ask who it is": (
        lambda rig: rig.world.fault("sts.caller_identity", error=TemporaryError("throttled"), times=None),
        "throttled",
    ),
    "the intent cannot be written down": (
        lambda rig: rig.world.fault("journal.create_intended", error=JournalError("disk full"), times=None),
        "disk full",
    ),
}


@pytest.mark.parametrize("case", PRECONDITIONS)
def test_nothing_is_sent_when(case: str) -> None:
    arrange, says = PRECONDITIONS[case]
    rig = due(points=True)
    arrange(rig)
    assert says in failure_of(rig.look("ci")).message
    assert rig.world.counts["iam.create_access_key"] == 0
    assert (rotation(rig).state, unresolved(rig), keys(rig)) == (IssueState.OPENED, 0, 1)
    rig.world.check_promises()


def test_credentials_that_last_exactly_as_long_as_the_step_are_enough() -> None:
    rig = due()
    rig.world.account(ACCOUNT).credentials_expire_at = rig.world.clock.now() + STEP
    rig.world.vault.token_end = rig.world.clock.now() + STEP
    assert rig.look("ci").published


# --- 2, 3: CreateAccessKey --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (LimitExceededError("two keys"), Reason.NO_FREE_SLOT),
        (AccessDeniedError("no"), Reason.NOT_CREATED),
        (TemporaryError("throttled"), Reason.NOT_CREATED),
    ],
    ids=str,
)
def test_a_create_that_was_certainly_refused_leaves_the_rotation_as_it_was(error: Error, reason: Reason) -> None:
    rig = due()
    rig.world.fault("iam.create_access_key", error=error)
    assert failure_of(rig.look("ci")).message == error.message
    assert (rotation(rig).state, unresolved(rig), keys(rig)) == (IssueState.OPENED, 0, 1)
    assert reason in [event.reason for event in rig.journal.history()]
    rotates_by_itself(rig)


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_lost_answer_is_looked_for_and_never_sent_again_for_one_intent(when: str) -> None:
    rig = due()
    rig.world.fault("iam.create_access_key", error=lost("create"), when=when)  # type: ignore[arg-type]
    failure_of(rig.look("ci"))
    assert (rotation(rig).state, unresolved(rig)) == (IssueState.CREATING, 1)
    assert rig.world.counts["iam.create_access_key"] == 1
    operation = rotation(rig).operation_id
    rotates_by_itself(rig)
    sent = [call.args["operation_id"] for call in rig.world.calls if call.name == "iam.create_access_key"]
    assert sent.count(operation) == 1


@pytest.mark.parametrize("error", [JournalError("disk full"), LeaseLostError("another holder")], ids=str)
def test_a_key_that_cannot_be_written_down_is_deleted_by_the_process_that_made_it(error: Error) -> None:
    rig = due(points=True)
    rig.world.fault("journal.created", error=error)
    _look_or_lose(rig)
    assert (keys(rig), rig.world.counts["vault.publish"]) == (1, 0)
    assert rotation(rig).state is IssueState.CREATING
    rotates_by_itself(rig)


def test_a_key_that_cannot_even_be_deleted_then_is_found_by_the_next_looks() -> None:
    rig = due(points=True)
    rig.world.fault("journal.created", error=JournalError("disk full"))
    rig.world.fault("iam.delete_access_key", error=TemporaryError("throttled"))
    failure_of(rig.look("ci"))
    assert keys(rig) == 2
    rotates_by_itself(rig)


# --- 4: the proof of the new pair -------------------------------------------------------------------------------------


def test_a_pair_that_aws_does_not_honour_in_time_is_removed_and_vault_left_alone() -> None:
    rig = due(lags=Lags(new_key=(DAY, DAY)))
    before = vault_version(rig)
    message = failure_of(rig.look("ci")).message
    assert "within 0:02:00 (not-honoured)" in message
    assert message.endswith("it was removed and Vault was not touched")
    assert (keys(rig), vault_version(rig)) == (1, before)
    assert rig.world.consumer(ACCOUNT, "ci")
    rig.world.check_promises()


def test_a_pair_is_published_only_once_the_region_of_the_old_keys_use_accepts_it() -> None:
    slow = Lags(region_extra={"ap-south-1": timedelta(seconds=40)})
    rig = due(lags=slow)
    assert rig.world.consumer(ACCOUNT, "ci", region="ap-south-1")
    rig.world.clock.advance(timedelta(minutes=30))  # until IAM shows the use
    before = rig.world.clock.now()
    assert rig.look("ci").published
    assert rig.world.clock.now() - before >= timedelta(seconds=40)
    assert rig.world.consumer(ACCOUNT, "ci", region="ap-south-1")


def test_a_stop_while_the_pair_is_proven_removes_it() -> None:
    rig = due(lags=Lags(new_key=(DAY, DAY)))
    rig.world.clock.after(timedelta(seconds=10), rig.world.clock.stop)
    with pytest.raises(StoppingError, match="asked to stop"):
        rig.look("ci")
    assert keys(rig) == 1
    rig.world.check_promises()


@pytest.mark.parametrize("error", [JournalError("disk full"), LeaseLostError("another holder")], ids=str)
def test_a_pair_whose_publishing_cannot_be_written_down_is_deleted(error: Error) -> None:
    rig = due(points=True)
    rig.world.fault("journal.publish_intended", error=error)
    _look_or_lose(rig)
    assert (keys(rig), rig.world.counts["vault.publish"]) == (1, 0)
    rotates_by_itself(rig)


# --- 5: the write to Vault --------------------------------------------------------------------------------------------

NOT_LANDED: dict[str, Error] = {
    "somebody else wrote that version": ConflictError("check-and-set"),
    "Vault refused it": AccessDeniedError("denied"),
    "Vault could not be reached until the end": TemporaryError("sealed"),
}


@pytest.mark.parametrize("case", NOT_LANDED)
def test_a_pair_is_removed_when(case: str) -> None:
    rig = due()
    before = vault_version(rig)
    broken = rig.world.fault("vault.publish", error=NOT_LANDED[case], times=None)
    assert failure_of(rig.look("ci")).message == NOT_LANDED[case].message
    assert (keys(rig), vault_version(rig)) == (1, before)
    assert rig.world.consumer(ACCOUNT, "ci")
    broken.remove()
    rotates_by_itself(rig)


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize(
    "error",
    [lost("publish")(), StoppingError("stopping"), LeaseLostError("another holder")],
    ids=["lost", "stop", "lease"],
)
def test_a_pair_whose_write_may_have_landed_stays_until_vault_shows_what_became_of_it(error: Error, when: str) -> None:
    rig = due()
    rig.world.fault("vault.publish", error=error, when=when)  # type: ignore[arg-type]
    _look_or_lose(rig)
    assert keys(rig) == 2
    assert all(key.status is KeyStatus.ACTIVE for key in rig.world.keys(ACCOUNT, "ci"))
    assert rotation(rig).state is IssueState.PUBLISHING
    assert rig.world.consumer(ACCOUNT, "ci")
    rotates_by_itself(rig)


def test_a_pair_that_cannot_be_removed_at_once_is_removed_by_a_later_look() -> None:
    rig = due()
    rig.world.fault("vault.publish", error=ConflictError("check-and-set"))
    rig.world.fault("iam.delete_access_key", error=TemporaryError("throttled"))
    failure_of(rig.look("ci"))
    assert keys(rig) == 2
    rotates_by_itself(rig)


# --- 6: read back, proven, recorded -----------------------------------------------------------------------------------


def _stale(rig: Rig, reads: int) -> None:
    """So many reads after the write come from a server that lags."""
    rig.world.on_call(
        lambda name, phase, _args: _lag(rig, reads) if (name, phase) == ("vault.publish", "after") else None
    )


def _lag(rig: Rig, reads: int) -> None:
    rig.world.fault("vault.current", error=TemporaryError("a standby that lags"), times=reads)


@pytest.mark.parametrize(("reads", "published"), [(4, True), (5, False)])
def test_a_read_back_is_tried_five_times(reads: int, *, published: bool) -> None:
    rig = due()
    _stale(rig, reads)
    worked = rig.look("ci")
    assert worked.published is published
    if not published:
        assert "does not serve the new key of 111122223333/ci" in failure_of(worked).message
        assert rotation(rig).state is IssueState.PUBLISHING
    rotates_by_itself(rig)


@pytest.mark.parametrize("call", ["vault.read_pair", "journal.published"])
def test_a_published_pair_that_was_not_recorded_is_recorded_by_the_next_look(call: str) -> None:
    rig = due(points=True)
    error = JournalError("disk full") if call.startswith("journal") else TemporaryError("sealed")
    rig.world.on_call(
        lambda name, phase, _args: _fail_once(rig, call, error) if (name, phase) == ("vault.publish", "after") else None
    )
    failure_of(rig.look("ci"))
    new = rig.world.held_id(ACCOUNT, "ci")
    assert rotation(rig).state is IssueState.PUBLISHING
    assert rig.world.counts["iam.create_access_key"] == 1
    rig.settle(until=lambda _worked: rotation(rig).state is IssueState.PUBLISHED)
    assert rig.world.held_id(ACCOUNT, "ci") == new
    assert rig.world.counts["iam.create_access_key"] == 1
    rig.world.check_promises()


def _fail_once(rig: Rig, call: str, error: Error) -> None:
    rig.world.fault(call, error=error)


def test_a_note_that_cannot_be_written_changes_nothing() -> None:
    rig = due()
    rig.world.fault("vault.write_note", error=AccessDeniedError("denied"), times=None)
    assert rig.look("ci").published
    assert rotation(rig).state is IssueState.PUBLISHED


def _look_or_lose(rig: Rig) -> Worked | None:
    """A lost lease and a stop end the pass; everything else is one user's failure."""
    try:
        worked = rig.look("ci")
    except (LeaseLostError, StoppingError):
        return None
    failure_of(worked)
    return worked
