"""What rekeyd may expect of `Iam`, `Sts` and `Cloud`: the same for the world in memory and for AWS over HTTP."""

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from rekeyd.core.model import (
    AccessKeyId,
    CreateIntent,
    KeyStatus,
    NeverUsed,
    Proof,
    RotationId,
    Used,
    UseUnknown,
)
from rekeyd.core.secret import Secret
from rekeyd.errors import (
    AccessDeniedError,
    LeaseLostError,
    LimitExceededError,
    NotFoundError,
    OutcomeUnknownError,
)
from rekeyd.ports import Iam, Pair
from tests.contract.aws_sides import ACCOUNT, EmulatedSide, Side, emulated, in_memory

UNKNOWN_KEY = AccessKeyId("AKIAXXXXXXXXXXXXXXXX")


@pytest.fixture(params=["world", "adapter"])
def side(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Side]:
    if request.param == "world":
        yield in_memory()
        return
    with emulated(monkeypatch) as aws:
        yield EmulatedSide(aws)


@pytest.fixture
def iam(side: Side) -> Iam:
    side.add_user("ci", path="/svc/", tags={"team": "build"})
    return side.cloud.iam(ACCOUNT)


def passes() -> None:
    """A guard of a holder that still holds."""


def test_a_user_is_found_by_its_name_in_any_case_and_gives_the_canonical_one(side: Side, iam: Iam) -> None:
    user = iam.get_user("CI")
    assert (user.user_name, user.path, user.account_id) == ("ci", "/svc/", ACCOUNT)
    assert user.arn == f"arn:aws:iam::{ACCOUNT}:user/svc/ci"
    assert user.user_id.startswith("AIDA")
    assert user.tags == {"team": "build"}


def test_a_user_that_is_not_there_is_not_found(iam: Iam) -> None:
    with pytest.raises(NotFoundError, match="nobody"):
        iam.get_user("nobody")
    with pytest.raises(NotFoundError, match="nobody"):
        iam.list_access_keys("nobody")


def test_all_users_come_in_bulk_with_their_tags(side: Side, iam: Iam) -> None:
    side.add_user("plain")
    users = {user.user_name: user for user in iam.list_users()}
    assert users["ci"] == iam.get_user("ci")
    assert users["plain"].tags == {}


def test_keys_are_listed_with_status_and_age(side: Side, iam: Iam) -> None:
    old = side.add_key("ci", age=timedelta(days=100), status=KeyStatus.INACTIVE)
    new = side.add_key("ci")
    keys = {key.id: key for key in iam.list_access_keys("ci")}
    assert keys.keys() == {old.access_key_id, new.access_key_id}
    assert keys[old.access_key_id].status is KeyStatus.INACTIVE
    assert keys[new.access_key_id].status is KeyStatus.ACTIVE
    age = side.now() - keys[old.access_key_id].created_at
    assert timedelta(days=100) <= age < timedelta(days=100, minutes=1)


def test_a_user_without_keys_has_an_empty_list(iam: Iam) -> None:
    assert iam.list_access_keys("ci") == ()


def test_a_created_key_is_given_once_with_its_secret(iam: Iam) -> None:
    made = iam.create_access_key("CI", operation_id="op-1", guard=passes)
    (listed,) = iam.list_access_keys("ci")
    assert made.user_name == "ci"
    assert (made.pair.access_key_id, made.created_at) == (listed.id, listed.created_at)
    assert made.created_at.tzinfo is UTC


def test_a_third_key_is_refused_as_the_quota(side: Side, iam: Iam) -> None:
    side.add_key("ci")
    side.add_key("ci", status=KeyStatus.INACTIVE)
    with pytest.raises(LimitExceededError, match="ci"):
        iam.create_access_key("ci", operation_id="op-1", guard=passes)
    assert len(iam.list_access_keys("ci")) == 2


def test_a_lost_answer_of_a_creation_is_an_outcome_unknown(side: Side, iam: Iam) -> None:
    side.lose_answer()
    with pytest.raises(OutcomeUnknownError, match="lost"):
        iam.create_access_key("ci", operation_id="op-1", guard=passes)
    assert len(iam.list_access_keys("ci")) == 1


def test_a_key_is_deactivated_reactivated_and_deleted(side: Side, iam: Iam) -> None:
    key_id = side.add_key("ci").access_key_id
    iam.update_access_key("ci", key_id, KeyStatus.INACTIVE, guard=passes)
    assert [key.status for key in iam.list_access_keys("ci")] == [KeyStatus.INACTIVE]
    iam.update_access_key("ci", key_id, KeyStatus.ACTIVE, guard=passes)
    assert [key.status for key in iam.list_access_keys("ci")] == [KeyStatus.ACTIVE]
    iam.delete_access_key("ci", key_id, guard=passes)
    assert iam.list_access_keys("ci") == ()


def test_deleting_what_is_gone_is_success_and_updating_it_is_not(iam: Iam) -> None:
    iam.delete_access_key("ci", UNKNOWN_KEY, guard=passes)
    with pytest.raises(NotFoundError, match="ci"):
        iam.update_access_key("ci", UNKNOWN_KEY, KeyStatus.INACTIVE, guard=passes)


def test_a_guard_that_raises_keeps_every_change_from_happening(side: Side, iam: Iam) -> None:
    key_id = side.add_key("ci").access_key_id

    def stops() -> None:
        raise LeaseLostError("another holder")

    with pytest.raises(LeaseLostError, match="another holder"):
        iam.create_access_key("ci", operation_id="op-1", guard=stops)
    with pytest.raises(LeaseLostError, match="another holder"):
        iam.update_access_key("ci", key_id, KeyStatus.INACTIVE, guard=stops)
    with pytest.raises(LeaseLostError, match="another holder"):
        iam.delete_access_key("ci", key_id, guard=stops)
    (only,) = iam.list_access_keys("ci")
    assert (only.id, only.status) == (key_id, KeyStatus.ACTIVE)


def test_last_use_tells_used_never_used_and_cannot_tell_apart(side: Side, iam: Iam) -> None:
    pair = side.add_key("ci")
    assert iam.last_use(pair.access_key_id) == NeverUsed()
    side.use(pair)
    used = iam.last_use(pair.access_key_id)
    assert isinstance(used, Used)
    assert (used.service, abs(side.now() - used.at) < timedelta(minutes=1)) == ("sts", True)
    assert isinstance(iam.last_use(UNKNOWN_KEY), UseUnknown)


def test_a_pair_is_proven_against_the_principal(side: Side, iam: Iam) -> None:
    pair = side.add_key("ci")
    side.add_user("other")
    user, other = iam.get_user("ci"), iam.get_user("other")
    sts = side.cloud.sts
    assert sts.prove(pair, user) is Proof.ACCEPTED
    assert sts.prove(pair, user, region="eu-west-1") is Proof.ACCEPTED
    assert sts.prove(pair, other) is Proof.OTHER_PRINCIPAL
    # Made again under its old name, or moved to another path: not the one that was meant.
    assert sts.prove(pair, replace(user, user_id=other.user_id)) is Proof.OTHER_PRINCIPAL
    assert sts.prove(pair, replace(user, arn=other.arn)) is Proof.OTHER_PRINCIPAL
    wrong = Pair(access_key_id=pair.access_key_id, secret_access_key=Secret("not/the/secret/of/that/key/0123456789ab"))
    assert sts.prove(wrong, user) is Proof.WRONG_SECRET
    iam.update_access_key("ci", pair.access_key_id, KeyStatus.INACTIVE, guard=passes)
    assert sts.prove(pair, user) is Proof.NOT_HONOURED


def test_cloudtrail_tells_our_keys_from_those_of_another_hand(side: Side, iam: Iam) -> None:
    sent_at = side.now()
    ours = iam.create_access_key("ci", operation_id="op-1", guard=passes).pair.access_key_id
    foreign = side.create_by_another_hand("ci")
    side.add_user("other")
    side.create_by_another_hand("other")
    assert iam.who_created([_intent("op-1", sent_at)], "ci") == {ours: "op-1", foreign: None}
    # The operation of an intent that is not asked about is somebody else's.
    assert iam.who_created([_intent("op-2", sent_at)], "ci") == {ours: None, foreign: None}
    assert iam.who_created([_intent("op-1", sent_at)], "other") is not None


def test_cloudtrail_that_cannot_be_asked_is_none(side: Side, iam: Iam) -> None:
    side.deny("LookupEvents")
    assert iam.who_created([_intent("op-1", side.now())], "ci") is None


def test_a_denied_read_names_what_was_denied(side: Side, iam: Iam) -> None:
    side.deny("ListAccessKeys")
    with pytest.raises(AccessDeniedError, match=r"ListAccessKeys|list_access_keys"):
        iam.list_access_keys("ci")


@pytest.mark.parametrize("active", [True, False], ids=["active", "inactive"])
def test_a_root_key_shows_in_summary_and_report(side: Side, iam: Iam, active: bool) -> None:
    assert not iam.account_summary().root_access_keys_present
    side.add_root_key(active=active)
    assert iam.account_summary().root_access_keys_present
    root = iam.credential_report(max_wait=timedelta(seconds=30)).root
    assert root is not None
    assert [key.active for key in root.keys] == [active]


def test_the_report_counts_keys_by_arn_with_age_and_status(side: Side, iam: Iam) -> None:
    side.add_key("ci", age=timedelta(days=100))
    side.add_key("ci", age=timedelta(days=10), status=KeyStatus.INACTIVE)
    report = iam.credential_report(max_wait=timedelta(seconds=30))
    row = report.users[f"arn:aws:iam::{ACCOUNT}:user/svc/ci"]
    assert sorted((key.active, round((side.now() - key.created_at) / timedelta(days=1))) for key in row.keys) == [
        (False, 10),
        (True, 100),
    ]
    assert not row.more_credentials
    assert abs(side.now() - report.generated_at) < timedelta(minutes=1)


def test_the_caller_is_in_its_account_and_is_not_root(side: Side) -> None:
    caller = side.cloud.sts.caller_identity(ACCOUNT)
    assert caller.account_id == ACCOUNT
    assert not caller.is_root


def test_without_configuration_the_own_account_is_watched(side: Side) -> None:
    assert side.cloud.accounts().watched == (ACCOUNT,)


def _intent(operation_id: str, sent_at: datetime) -> CreateIntent:
    return CreateIntent(
        rotation_id=RotationId("rotation-1"), operation_id=operation_id, sent_at=sent_at, keys_before=frozenset()
    )
