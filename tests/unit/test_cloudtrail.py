"""What messages of the event queue point at, and what is made of the odd ones."""

import json
from datetime import UTC, datetime
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rekeyd.core.cloudtrail import KeyChange, NotAnEventError, Pointer, is_known, pointed_at
from rekeyd.core.model import AccessKeyId, AccountId, JournalFacts, KeyFacts, RotationId
from rekeyd.fleet.looks import (
    EXPOSURE_SOONEST,
    ROOT_GAP,
    SAME_USER_GAP,
    TRAIL_FOR,
    TRAIL_GAP,
    USERS_AT_ONCE,
    USERS_GAP,
    DueLook,
    Looks,
)
from rekeyd.fleet.posture import Part

ACCOUNT = AccountId("111122223333")
KEY = AccessKeyId("AKIAIOSFODNN7EXAMPLE")
ROOT = {"type": "Root", "principalId": ACCOUNT, "arn": f"arn:aws:iam::{ACCOUNT}:root", "accountId": ACCOUNT}
SOMEBODY = {"type": "AssumedRole", "arn": f"arn:aws:sts::{ACCOUNT}:assumed-role/admin/me", "accountId": ACCOUNT}


def event(name: str, identity: dict[str, Any] = SOMEBODY, *, account: str = ACCOUNT, **record: Any) -> str:
    return json.dumps(
        {
            "version": "0",
            "id": "c52b5b5f-0b1c-4f6e-9c39-6f1b2d1c6a11",
            "detail-type": "AWS API Call via CloudTrail",
            "source": "aws.iam",
            "account": account,
            "time": "2026-11-23T19:22:34Z",
            "region": "us-east-1",
            "resources": [],
            "detail": {
                "eventVersion": "1.10",
                "userIdentity": identity,
                "eventTime": "2026-11-23T19:22:34Z",
                "eventSource": "iam.amazonaws.com",
                "eventName": name,
                "requestParameters": None,
                "responseElements": None,
                **record,
            },
        }
    )


def made(user_name: str = "ci") -> dict[str, Any]:
    return {
        "requestParameters": {"userName": user_name},
        "responseElements": {"accessKey": {"accessKeyId": KEY, "userName": user_name, "status": "Active"}},
    }


def pointer(**changed: Any) -> Pointer:
    return Pointer(account_id=changed.pop("account_id", ACCOUNT), **changed)


def health(code: Any = "AWS_RISK_CREDENTIALS_EXPOSED", **more: Any) -> str:
    detail = {"eventTypeCode": code, "service": "RISK", "affectedEntities": [{"entityValue": KEY}], **more}
    return json.dumps({"detail-type": "AWS Health Event", "source": "aws.health", "account": ACCOUNT, "detail": detail})


QUARANTINE = "arn:aws:iam::aws:policy/AWSCompromisedKeyQuarantineV3"
BY_ROOT = {"root": True, "root_used": True}
OF_CI = {"user_name": "ci", "access_key_id": KEY}
SEEN: dict[str, tuple[str, Pointer | None]] = {
    "root made a key for itself": (event("CreateAccessKey", ROOT), pointer(**BY_ROOT)),
    "root deleted its key": (
        event("DeleteAccessKey", ROOT, requestParameters={"accessKeyId": KEY}),
        pointer(**BY_ROOT),
    ),
    "root signed in": (event("ConsoleLogin", ROOT, eventSource="signin.amazonaws.com"), pointer(**BY_ROOT)),
    "root used anything": (event("RunInstances", ROOT, eventSource="ec2.amazonaws.com"), pointer(**BY_ROOT)),
    "root was refused": (event("CreateUser", ROOT, errorCode="AccessDenied"), pointer(**BY_ROOT)),
    "a service did it for the root user": (
        event("RunInstances", {**ROOT, "invokedBy": "autoscaling.amazonaws.com"}, eventSource="ec2.amazonaws.com"),
        pointer(root=True),
    ),
    "a service did it by itself": (event("RotateKey", ROOT, eventType="AwsServiceEvent"), pointer(root=True)),
    "a session of AssumeRoot deleted a key of the root user": (
        event("DeleteAccessKey", {**ROOT, "sessionContext": {"assumedRoot": "true"}}),
        pointer(root=True),
    ),
    "root made a key for a user": (
        event("CreateAccessKey", ROOT, **made()),
        pointer(**BY_ROOT, change=KeyChange.CREATED, **OF_CI),
    ),
    "somebody made a key": (event("CreateAccessKey", **made()), pointer(change=KeyChange.CREATED, **OF_CI)),
    "a user made a key for itself": (
        event(
            "CreateAccessKey",
            {"type": "IAMUser", "userName": "ci", "accountId": ACCOUNT},
            responseElements={"accessKey": {"accessKeyId": KEY}},
        ),
        pointer(change=KeyChange.CREATED, **OF_CI),
    ),
    "somebody made a key, and only the answer names the user": (
        event("CreateAccessKey", **made() | {"requestParameters": None}),
        pointer(change=KeyChange.CREATED, **OF_CI),
    ),
    "somebody who is no user made a key of nobody": (
        event("CreateAccessKey", {**SOMEBODY, "userName": "admin"}),
        None,
    ),
    "somebody deleted a key": (
        event("DeleteAccessKey", requestParameters={"userName": "ci", "accessKeyId": KEY}),
        pointer(change=KeyChange.DELETED, **OF_CI),
    ),
    "somebody deactivated a key": (
        event("UpdateAccessKey", requestParameters={"userName": "ci", "accessKeyId": KEY, "status": "Inactive"}),
        pointer(change=KeyChange.DEACTIVATED, **OF_CI),
    ),
    "somebody reactivated a key": (
        event("UpdateAccessKey", requestParameters={"userName": "ci", "accessKeyId": KEY, "status": "Active"}),
        pointer(change=KeyChange.REACTIVATED, **OF_CI),
    ),
    "a change without an id": (
        event("DeleteAccessKey", requestParameters={"userName": "ci", "accessKeyId": 7}),
        pointer(user_name="ci", change=KeyChange.DELETED),
    ),
    "AWS found a key": (health(), pointer(exposed=True)),
    "AWS suspects that a key is known": (health("AWS_RISK_CREDENTIALS_EXPOSURE_SUSPECTED"), pointer(exposed=True)),
    "AWS found a key of another account of the organization": (
        health(affectedAccount="444455556666"),
        pointer(account_id=AccountId("444455556666"), exposed=True),
    ),
    "AWS found a key of an account that is none": (health(affectedAccount="x"), pointer(exposed=True)),
    "AWS Health says something else": (health("AWS_EC2_OPERATIONAL_ISSUE"), None),
    "AWS put a user in quarantine": (
        event("AttachUserPolicy", requestParameters={"userName": "ci", "policyArn": QUARANTINE}),
        pointer(exposed=True),
    ),
    "somebody could not do as AWS does": (
        event("AttachUserPolicy", requestParameters={"policyArn": QUARANTINE}, errorCode="AccessDenied"),
        None,
    ),
    "somebody asked which entities have AWS's policy": (
        event("ListEntitiesForPolicy", requestParameters={"policyArn": QUARANTINE}),
        None,
    ),
    "another service has such a name": (
        event("AttachUserPolicy", requestParameters={"policyArn": QUARANTINE}, eventSource="x.amazonaws.com"),
        None,
    ),
    "somebody attached another policy": (
        event("AttachUserPolicy", requestParameters={"policyArn": "arn:aws:iam::aws:policy/ReadOnlyAccess"}),
        None,
    ),
    "a refused change": (event("CreateAccessKey", **made(), errorCode="LimitExceededException"), None),
    "a change of something else": (event("CreateUser", requestParameters={"userName": "ci"}), None),
    "the same name in another service": (event("CreateAccessKey", **made(), eventSource="lightsail.aws"), None),
    "a user name that IAM would not take": (event("CreateAccessKey", **made("c i\ud800")), None),
    "a user name of digits from elsewhere": (event("CreateAccessKey", **made("٣")), None),
}


@pytest.mark.parametrize("case", SEEN.items(), ids=lambda case: case[0])
def test_an_event_points_at_whom_it_is_about(case: tuple[str, tuple[str, Pointer | None]]) -> None:
    body, expected = case[1]
    assert pointed_at(body) == expected


NO_RECORD = "its detail is no record of CloudTrail"
MALFORMED = {
    "nothing": ("", "it is not JSON"),
    "no JSON": ("{", "it is not JSON"),
    "too deep to read": ("[" * 200_000, "it is not JSON"),
    "a number too long to read": ("1" * 10_000, "it is not JSON"),
    "a list": ("[]", "it has no detail"),
    "null": ("null", "it has no detail"),
    "no detail": (json.dumps({"account": ACCOUNT}), "it has no detail"),
    "detail as text": (json.dumps({"account": ACCOUNT, "detail": "x"}), "it has no detail"),
    "no account": (json.dumps({"detail": {}}), "it names no account"),
    "an account as a number": (json.dumps({"account": 111122223333, "detail": {}}), "it names no account"),
    "an account of thirteen digits": (event("CreateAccessKey", account="1111222233334"), "it names no account"),
    "an account of other digits": (event("CreateAccessKey", account="١١١١٢٢٢٢٣٣٣٣"), "it names no account"),
    "a code that is a number": (health(7), NO_RECORD),
    "no record": (
        json.dumps({"account": ACCOUNT, "detail": {"eventName": "x"}}),
        NO_RECORD,
    ),
    "no name of an event": (
        json.dumps({"account": ACCOUNT, "detail": {"userIdentity": {}}}),
        NO_RECORD,
    ),
}


@pytest.mark.parametrize("case", MALFORMED.items(), ids=lambda case: case[0])
def test_what_is_no_event_says_so(case: tuple[str, tuple[str, str]]) -> None:
    body, said = case[1]
    with pytest.raises(NotAnEventError, match=f"^{said}$"):
        pointed_at(body)


_NAMES = ["account", "detail", "eventName", "userIdentity", "requestParameters", "type", "userName"]
_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["account", "detail", "eventName", "userIdentity", "requestParameters", "type", "userName"]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@given(_JSON | st.builds(lambda detail: {"account": ACCOUNT, "detail": detail}, _JSON))
def test_whatever_comes_is_an_event_or_is_refused(document: Any) -> None:
    try:
        found = pointed_at(json.dumps(document))
    except NotAnEventError:
        return
    assert found is None or found.root or found.exposed or found.user_name is not None


AT = datetime(2026, 11, 23, tzinfo=UTC)
OURS = KeyFacts(made_by=RotationId("r1"), made_at=AT)
KNOWN: dict[str, tuple[KeyChange, KeyFacts, bool]] = {
    "our create": (KeyChange.CREATED, OURS, True),
    "a create of a key that was there before us": (KeyChange.CREATED, KeyFacts(), False),
    "our deactivation": (KeyChange.DEACTIVATED, KeyFacts(deactivated_by_us=True), True),
    "another's deactivation": (KeyChange.DEACTIVATED, OURS, False),
    "a late deactivation of a key that is gone": (KeyChange.DEACTIVATED, KeyFacts(gone=True), True),
    "our deletion": (KeyChange.DELETED, KeyFacts(gone=True), True),
    "another's deletion": (KeyChange.DELETED, OURS, False),
    "any reactivation": (KeyChange.REACTIVATED, KeyFacts(made_by=RotationId("r1"), deactivated_by_us=True), False),
}


@pytest.mark.parametrize("case", KNOWN.items(), ids=lambda case: case[0])
def test_a_call_of_our_own_is_no_news(case: tuple[str, tuple[KeyChange, KeyFacts, bool]]) -> None:
    change, facts, expected = case[1]
    assert is_known(pointer(change=change, **OF_CI), JournalFacts(keys={KEY: facts})) is expected


def test_a_key_that_the_journal_does_not_know_is_news() -> None:
    assert not is_known(pointer(change=KeyChange.CREATED, **OF_CI), JournalFacts())
    assert not is_known(pointer(user_name="ci", change=KeyChange.CREATED), JournalFacts(keys={KEY: OURS}))


# --- how often ---

ROOT_LOOK = DueLook(account_id=ACCOUNT, root=True)
EXPOSURE_LOOK = DueLook(account_id=ACCOUNT, root=True, anew=frozenset({Part.EXPOSURE}))
TRAIL_LOOK = DueLook(account_id=ACCOUNT, root=True, anew=frozenset({Part.TRAIL}))


def test_a_root_user_is_looked_at_at_once_and_then_no_more_often_than_its_gap() -> None:
    looks, gap = Looks(), ROOT_GAP.total_seconds()
    for _ in range(1_000):
        looks.want_root(ACCOUNT)
    assert looks.take(0.0) == (ROOT_LOOK,)
    assert looks.take(0.0) == ()
    looks.want_root(ACCOUNT)
    assert looks.take(gap - 0.001) == ()
    assert looks.take(gap) == (ROOT_LOOK,)
    assert looks.take(10 * gap) == ()


def test_cloudtrail_is_asked_again_and_again_after_a_use_of_the_root_user_until_it_must_have_shown_it() -> None:
    looks, gap = Looks(), TRAIL_GAP.total_seconds()
    for _ in range(1_000):
        looks.want_trail(ACCOUNT, 0.0)
    assert looks.take(gap - 0.001) == ()
    asked = [at for at in range(7_200) if looks.take(float(at)) == (TRAIL_LOOK,)]
    assert asked == [gap * number for number in range(1, 8)]
    assert asked[-1] >= TRAIL_FOR.total_seconds()


def test_a_later_use_of_the_root_user_prolongs_that_and_makes_it_no_more_frequent() -> None:
    looks, gap = Looks(), TRAIL_GAP.total_seconds()
    asked = []
    for at in range(7_200):
        if at <= 3_600:
            looks.want_trail(ACCOUNT, float(at))
        asked += [float(at)] * len(looks.take(float(at)))
    assert {after - before for before, after in pairwise(asked)} == {gap}
    assert 0 <= asked[-1] - 3_600 - TRAIL_FOR.total_seconds() <= gap
    looks.want_trail(ACCOUNT, 7_200.0)
    assert looks.take(7_200.0 + gap) == (TRAIL_LOOK,)


def test_exposed_credentials_are_looked_at_at_once_and_a_few_times_more() -> None:
    looks = Looks()
    for _ in range(1_000):
        looks.want_exposure(ACCOUNT, 0.0)
    asked = [at for at in range(7_200) if looks.take(float(at)) == (EXPOSURE_LOOK,)]
    assert asked == [0, 300, 600, 900]


def test_another_exposure_does_not_wait_for_the_next_of_these_looks() -> None:
    looks, soonest = Looks(), EXPOSURE_SOONEST.total_seconds()
    looks.want_exposure(ACCOUNT, 0.0)
    assert looks.take(0.0) == (EXPOSURE_LOOK,)
    looks.want_exposure(ACCOUNT, 1.0)
    assert looks.take(soonest - 0.001) == ()
    assert looks.take(soonest) == (EXPOSURE_LOOK,)
    assert looks.take(soonest + 1) == ()


def test_one_account_does_not_hold_up_another() -> None:
    looks, other = Looks(), AccountId("444455556666")
    looks.want_root(ACCOUNT)
    looks.take(0.0)
    looks.want_root(ACCOUNT)
    looks.want_root(other)
    assert [look.account_id for look in looks.take(0.1)] == [other]


def test_users_are_looked_at_few_at_a_time_in_the_order_in_which_they_were_wanted() -> None:
    looks, gap = Looks(), USERS_GAP.total_seconds()
    names = [f"u{number:02}" for number in range(USERS_AT_ONCE + 2)]
    for name in names * 3:
        looks.want_user(ACCOUNT, name)
    (first,) = looks.take(0.0)
    assert first.user_names == tuple(names[:USERS_AT_ONCE])
    assert looks.take(gap - 0.001) == ()
    (second,) = looks.take(gap)
    assert second.user_names == tuple(names[USERS_AT_ONCE:])
    assert not second.root


def test_the_same_user_waits_and_is_not_forgotten() -> None:
    looks, again = Looks(), SAME_USER_GAP.total_seconds()
    looks.want_user(ACCOUNT, "ci")
    assert len(looks.take(0.0)) == 1
    looks.want_user(ACCOUNT, "ci")
    assert looks.take(again - 0.001) == ()
    (look,) = looks.take(again)
    assert look.user_names == ("ci",)
