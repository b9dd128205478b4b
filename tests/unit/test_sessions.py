"""The policy that cuts sessions, and what CloudTrail's records say of sessions and roles."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from rekeyd.core.model import AccessKeyId
from rekeyd.core.rights import sessions_revoked_before
from rekeyd.core.sessions import (
    LONGEST_ROLE_SESSION,
    POLICY_NAME,
    AssumedRole,
    lives,
    removable_at,
    revocation,
    revoked_before,
    role_assumed,
    session_made,
)

NOW = datetime(2026, 6, 1, 12, tzinfo=UTC)
KEY = AccessKeyId("AKIA0000000000000001")
MADE = {"accessKeyId": "ASIA0000000000000001", "expiration": "Jun 1, 2026, 1:00:05 PM"}


def record(name: str, **more: Any) -> dict[str, Any]:
    answered = {"credentials": MADE}
    return {"eventSource": "sts.amazonaws.com", "eventName": name, "responseElements": answered} | more


def statement(effect: str, before: str) -> dict[str, Any]:
    return {"Statement": [{"Effect": effect, "Condition": {"DateLessThan": {"aws:TokenIssueTime": before}}}]}


def test_the_policy_is_read_again_as_it_was_written() -> None:
    assert revoked_before(json.loads(revocation(NOW))) == NOW
    assert sessions_revoked_before([("other", revocation(NOW)), (POLICY_NAME, revocation(NOW))]) == NOW
    assert sessions_revoked_before([("other", revocation(NOW))]) is None
    assert removable_at(NOW) == NOW + timedelta(hours=36)


def test_the_policy_denies_nothing_to_calls_that_a_key_signs() -> None:
    # Such calls carry no aws:TokenIssueTime, and without IfExists a missing key never meets a condition.
    assert json.loads(revocation(NOW)) == {
        "Version": "2012-10-17",
        "Statement": [
            {
                "Sid": "SessionsOfAnExposedKey",
                "Effect": "Deny",
                "Action": "*",
                "Resource": "*",
                "Condition": {"DateLessThan": {"aws:TokenIssueTime": "2026-06-01T12:00:00Z"}},
            }
        ],
    }


@pytest.mark.parametrize(
    "document",
    [
        None,
        {},
        {"Statement": []},
        {"Statement": [{"Effect": "Deny", "Condition": {"DateLessThan": {"aws:TokenIssueTime": "soon"}}}]},
        {"Statement": [{"Effect": "Deny", "Condition": {"DateLessThan": {"aws:TokenIssueTime": "2026-06-01T12:00"}}}]},
        {
            "Statement": [
                {"Effect": "Allow", "Condition": {"DateLessThan": {"aws:TokenIssueTime": "2026-06-01T12:00Z"}}}
            ]
        },
    ],
)
def test_what_is_no_such_policy_is_none(document: Any) -> None:
    assert revoked_before(document) is None


def test_a_role_is_told_with_its_end() -> None:
    asked = {"roleArn": "arn:aws:iam::111122223333:role/deploy", "roleSessionName": "x"}
    role = role_assumed(record("AssumeRole", requestParameters=asked), signed_by=KEY, at=NOW)
    assert role == AssumedRole(
        role_arn="arn:aws:iam::111122223333:role/deploy",
        session_name="x",
        signed_by=KEY,
        at=NOW,
        ends_at=datetime(2026, 6, 1, 13, 0, 5, tzinfo=UTC),
    )
    assert lives(role, NOW + timedelta(hours=1))
    assert not lives(role, NOW + timedelta(hours=1, seconds=5))


@pytest.mark.parametrize("ends", ["Jun 1, 2026, 1:00:05 PM", "Jun 1, 2026 1:00:05 PM", "Jun 1, 2026, 1:00:05\u202fPM"])
def test_cloudtrail_writes_the_end_of_a_session_in_several_ways(ends: str) -> None:
    answered = {"credentials": MADE | {"expiration": ends}}
    role = role_assumed(record("AssumeRole", responseElements=answered), signed_by=KEY, at=NOW)
    assert role is not None
    assert role.ends_at == datetime(2026, 6, 1, 13, 0, 5, tzinfo=UTC)


def test_a_role_of_a_record_that_does_not_name_it_is_told_all_the_same() -> None:
    role = role_assumed(record("AssumeRole"), signed_by=KEY, at=NOW)
    assert role is not None
    assert (role.role_arn, role.session_name) == ("an unnamed role", "")


def test_a_role_whose_end_is_not_told_may_live_for_twelve_hours() -> None:
    answered = {"credentials": {"accessKeyId": "ASIA0000000000000001", "expiration": 17}}
    role = role_assumed(record("AssumeRole", responseElements=answered), signed_by=KEY, at=NOW)
    assert role is not None
    assert role.ends_at is None
    assert lives(role, NOW + LONGEST_ROLE_SESSION - timedelta(seconds=1))
    assert not lives(role, NOW + LONGEST_ROLE_SESSION)


@pytest.mark.parametrize(
    "event",
    [
        record("AssumeRole", errorCode="AccessDenied"),
        record("AssumeRole", responseElements=None),
        record("AssumeRole", responseElements={"credentials": {"accessKeyId": 17}}),
        record("AssumeRole", eventSource="iam.amazonaws.com"),
        {},
    ],
)
def test_what_made_no_session_is_none(event: dict[str, Any]) -> None:
    assert session_made(event) is None
    assert role_assumed(event, signed_by=KEY, at=NOW) is None


def test_a_session_token_is_a_session_and_no_role() -> None:
    event = record("GetSessionToken")
    assert session_made(event) == MADE["accessKeyId"]
    assert role_assumed(event, signed_by=KEY, at=NOW) is None
