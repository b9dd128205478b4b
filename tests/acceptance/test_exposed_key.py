"""An exposed key as an operator answers it: one command replaces it, cuts its sessions and names its roles."""

import time
from datetime import timedelta
from typing import Any

import pytest
from botocore.exceptions import ClientError

from rekeyd.demo.emulator import HUB, SeededUser
from tests.acceptance.stand import Stand, eventually

ROTATE = ("rotate-now", "ci", "--emergency", "--revoke-sessions", "--yes", "--json")


@pytest.fixture
def exposed(stand: Stand) -> SeededUser:
    """A user whose key somebody else has, with a session and a role that were made with it."""
    stand.write_config({"overlap": "1h", "quarantine": "1h"})
    user = stand.user("ci")
    # Of what a session may do, the emulator knows only an administrator's rights.
    stand.aws.world.admins.add(user.user_id)
    return user


def operator(stand: Stand) -> tuple[str, str]:
    return "--operator-role-arn", stand.aws.add_role(HUB, "incident-operator")


def session_of(stand: Stand, key_id: str) -> Any:
    """IAM as a session of GetSessionToken sees it."""
    made = stand.aws.client_with("sts", key_id, stand.aws.secret_of(key_id)).get_session_token()["Credentials"]
    return stand.aws.client_with("iam", made["AccessKeyId"], made["SecretAccessKey"], token=made["SessionToken"])


def federated_session_of(stand: Stand, key_id: str) -> Any:
    """The same of GetFederationToken."""
    sts = stand.aws.client_with("sts", key_id, stand.aws.secret_of(key_id))
    made = sts.get_federation_token(Name="guest")["Credentials"]
    return stand.aws.client_with("iam", made["AccessKeyId"], made["SecretAccessKey"], token=made["SessionToken"])


def refusal(client: Any) -> str | None:
    try:
        client.list_users()
    except ClientError as error:
        return str(error.response["Error"]["Code"])
    return None


def test_an_exposed_key_is_replaced_its_sessions_are_denied_and_its_roles_named_in_one_command(
    stand: Stand, exposed: SeededUser, record_property: Any
) -> None:
    old = exposed.key.access_key_id
    stolen, guest = session_of(stand, old), federated_session_of(stand, old)
    role = stand.aws.add_role(HUB, "deployer")
    stand.aws.client_with("sts", old, stand.aws.secret_of(old)).assume_role(RoleArn=role, RoleSessionName="thief")
    assert (refusal(stolen), refusal(guest)) == (None, None)
    began = time.monotonic()
    ran = stand.run(*ROTATE, *operator(stand))
    took = time.monotonic() - began
    record_property("exposed_key_answered_seconds", f"{took:.2f}")
    print(f"replaced, Inactive and its sessions denied after {took:.2f} s, without propagation delay")
    assert ran.code == 0, ran.err
    assert ran.document["rotations"][0]["outcome"] == "published"
    assert stand.aws.key(old).status == "Inactive"
    assert stand.serves_a_live_pair("ci")
    assert (refusal(stolen), refusal(guest)) == ("AccessDenied", "AccessDenied")
    (cut,) = ran.document["sessions"]
    assert (cut["outcome"], cut["user_name"]) == ("revoked", "ci")
    assert [(each["role_arn"], each["session_name"], each["signed_by"]) for each in cut["roles"]] == [
        (role, "thief", old)
    ]
    # Keys are not touched, and sessions made from now on with the new one are good.
    new = stand.held_id("ci")
    assert new is not None
    for of in (session_of, federated_session_of):
        eventually(lambda of=of: refusal(of(stand, new)) is None or None, "a new session that is not denied")  # type: ignore[misc]
    events = [each["event"] for each in stand.run("history", "--user", "ci", "--json").document["events"]]
    assert [each for each in events if each.startswith("sessions.")] == ["sessions.revoking", "sessions.revoked"]
    assert took < 30


def test_the_denial_is_removed_by_the_operator_once_no_such_session_can_live(stand: Stand, exposed: SeededUser) -> None:
    as_operator = operator(stand)
    assert stand.run("alarms", "sessions", "ci", "--deny", *as_operator).code == 0
    shown = stand.run("alarms", "sessions", "ci", "--key", exposed.key.access_key_id, "--json").document["sessions"][0]
    assert (shown["outcome"], shown["roles"]) == ("revoked", [])
    early = stand.run("alarms", "sessions", "ci", "--remove", *as_operator, "--json")
    assert (early.code, "may live until" in early.document["error"]["message"]) == (4, True)
    before = stand.aws.clock.now() - timedelta(hours=37)
    (name,) = stand.aws.client("iam").list_user_policies(UserName="ci")["PolicyNames"]
    document = f"""{{"Version": "2012-10-17", "Statement": [{{"Effect": "Deny", "Action": "*", "Resource": "*",
        "Condition": {{"DateLessThan": {{"aws:TokenIssueTime": "{before:%Y-%m-%dT%H:%M:%SZ}"}}}}}}]}}"""
    stand.aws.client("iam").put_user_policy(UserName="ci", PolicyName=name, PolicyDocument=document)
    assert "revocation_left" in [each["reason"] for each in stand.run("audit", "--json").document["findings"]]
    late = stand.run("alarms", "sessions", "ci", "--remove", *as_operator, "--json")
    assert (late.code, late.document["sessions"][0]["outcome"]) == (0, "removed"), late.err
    assert stand.aws.client("iam").list_user_policies(UserName="ci")["PolicyNames"] == []
    assert stand.run("alarms", "sessions", "ci", "--json").document["sessions"][0]["outcome"] == "none"


def test_rekeyds_own_identity_is_refused_as_the_operator_before_anything_is_changed(
    stand: Stand, exposed: SeededUser
) -> None:
    ran = stand.run(*ROTATE)
    assert (ran.code, "must not be able to write policies" in ran.document["error"]["message"]) == (4, True)
    assert stand.aws.key(exposed.key.access_key_id).status == "Active"
    assert stand.aws.calls("CreateAccessKey") == []


def test_an_operator_without_the_right_leaves_a_done_rotation_and_says_what_to_run(
    stand: Stand, exposed: SeededUser
) -> None:
    denied = stand.aws.deny(HUB, "PutUserPolicy")
    as_operator = operator(stand)
    ran = stand.run(*ROTATE, *as_operator)
    assert ran.code == 1
    assert ran.document["rotations"][0]["outcome"] == "published"
    (cut,) = ran.document["sessions"]
    assert cut["outcome"] == "failed"
    assert "--for revoke-sessions" in cut["message"]
    assert "alarms sessions ci --account" in cut["message"]
    denied.lift()
    assert stand.run("alarms", "sessions", "ci", "--deny", *as_operator).code == 0
    assert stand.aws.client("iam").list_user_policies(UserName="ci")["PolicyNames"] != []


def test_sessions_are_revoked_in_emergencies_only(stand: Stand) -> None:
    ran = stand.run("rotate-now", "ci", "--revoke-sessions", "--json")
    assert (ran.code, ran.document["error"]["code"]) == (2, "usage")


def test_the_daemon_replaces_by_itself_what_aws_and_a_person_say_is_exposed(stand: Stand) -> None:
    stand.write_config({"overlap": "1h", "quarantine": "1h", "on_exposed": "rotate"})
    # Young, so that nothing else would rotate them.
    told, found = (stand.user(name, key_age=timedelta(days=5)) for name in ("told", "found"))
    policy = "arn:aws:iam::aws:policy/AWSCompromisedKeyQuarantineV3"
    stand.aws.client("iam").attach_user_policy(UserName="found", PolicyArn=policy)
    with stand.daemon() as daemon:
        key = found.key.access_key_id
        eventually(lambda: stand.aws.key(key).status == "Inactive" or None, "AWS's notice is answered", alive=daemon)
        key = told.key.access_key_id
        raised = stand.run("alarms", "raise", "exposed", key, "--because", "seen in a log")
        assert raised.code == 0, raised.err
        eventually(lambda: stand.aws.key(key).status == "Inactive" or None, "a person's word is answered", alive=daemon)
    for name in ("told", "found"):
        assert stand.serves_a_live_pair(name)
        assert len(stand.aws.calls("CreateAccessKey", user=name)) == 1
