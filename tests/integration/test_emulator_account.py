"""Lists, reports, root, roles, organization, CloudTrail, throttling of the emulated AWS."""

import csv
import io
import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from botocore.exceptions import ClientError

from rekeyd.demo.emulator import HUB, Delays, EmulatedAws, WorldClock
from tests.secret_registry import remember

NOW = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
OTHER = "222222222222"
MINUTE = timedelta(minutes=1)
DAY = timedelta(days=1)


@pytest.fixture
def aws() -> Iterator[EmulatedAws]:
    with EmulatedAws(clock=WorldClock(stands_at=NOW), delays=Delays(), page_size=3, on_secret=remember) as emulated:
        yield emulated


def refusal(call: Callable[[], object]) -> str:
    with pytest.raises(ClientError, match="An error occurred") as caught:
        call()
    return str(caught.value.response["Error"]["Code"])


def report_rows(aws: EmulatedAws) -> dict[str, dict[str, str]]:
    text = aws.client("iam").get_credential_report()["Content"].decode()
    return {row["user"]: row for row in csv.DictReader(io.StringIO(text))}


@pytest.mark.parametrize(
    ("operation", "entries"),
    [("list_users", "Users"), ("get_account_authorization_details", "UserDetailList")],
)
def test_lists_of_users_come_in_pages(aws: EmulatedAws, operation: str, entries: str) -> None:
    names = [f"user-{n}" for n in range(7)]
    for name in names:
        aws.create_user(HUB, name, tags={"n": name})
    more = {"Filter": ["User"]} if operation == "get_account_authorization_details" else {}
    pages = list(aws.client("iam").get_paginator(operation).paginate(**more))
    assert [len(page[entries]) for page in pages] == [3, 3, 1]
    assert [user["UserName"] for page in pages for user in page[entries]] == names


def test_keys_come_in_pages_that_say_whether_there_is_more(aws: EmulatedAws) -> None:
    aws.create_user(HUB, "svc")
    for _ in range(4):
        aws.add_key(HUB, "svc")
    iam = aws.client("iam")
    first = iam.list_access_keys(UserName="svc")
    assert (len(first["AccessKeyMetadata"]), first["IsTruncated"]) == (3, True)
    rest = iam.list_access_keys(UserName="svc", Marker=first["Marker"])
    assert (len(rest["AccessKeyMetadata"]), rest["IsTruncated"]) == (1, False)


def test_authorization_details_have_tags_paths_and_policies(aws: EmulatedAws) -> None:
    aws.create_user(HUB, "svc", path="/apps/", tags={"team": "a"})
    iam = aws.client("iam")
    iam.attach_user_policy(UserName="svc", PolicyArn="arn:aws:iam::aws:policy/AdministratorAccess")
    (user,) = iam.get_account_authorization_details(Filter=["User"])["UserDetailList"]
    assert (user["Path"], user["Tags"]) == ("/apps/", [{"Key": "team", "Value": "a"}])
    assert [policy["PolicyName"] for policy in user["AttachedManagedPolicies"]] == ["AdministratorAccess"]


def test_what_is_not_emulated_here_is_answered_by_moto(aws: EmulatedAws) -> None:
    iam = aws.client("iam", OTHER)
    iam.create_account_alias(AccountAlias="other")
    assert iam.list_account_aliases()["AccountAliases"] == ["other"]
    assert aws.client("iam").list_account_aliases()["AccountAliases"] == []


def test_last_use_lags_and_counts_accepted_calls_only(aws: EmulatedAws) -> None:
    aws.delays.last_used_lag = 30 * MINUTE
    user = aws.create_user(HUB, "svc", key_age=DAY)
    iam = aws.client("iam")
    key_id = user.key.access_key_id
    wrong = aws.client_with("sts", key_id, "wrong")
    assert refusal(wrong.get_caller_identity) == "SignatureDoesNotMatch"
    aws.clock.advance(31 * MINUTE)
    never = iam.get_access_key_last_used(AccessKeyId=key_id)
    assert never["AccessKeyLastUsed"] == {"ServiceName": "N/A", "Region": "N/A"}
    used_at = aws.clock.now()
    aws.client_with("sts", key_id, user.key.secret_access_key, region="eu-west-1").get_caller_identity()
    aws.clock.advance(29 * MINUTE)
    assert "LastUsedDate" not in iam.get_access_key_last_used(AccessKeyId=key_id)["AccessKeyLastUsed"]
    aws.clock.advance(MINUTE)
    seen = iam.get_access_key_last_used(AccessKeyId=key_id)
    assert seen["AccessKeyLastUsed"] == {"LastUsedDate": used_at, "ServiceName": "sts", "Region": "eu-west-1"}
    assert seen["UserName"] == "svc"


def test_only_the_first_use_in_a_span_is_recorded(aws: EmulatedAws) -> None:
    aws.delays.last_used_span = 15 * MINUTE
    user = aws.create_user(HUB, "svc", key_age=DAY)
    sts = aws.client_with("sts", user.key.access_key_id, user.key.secret_access_key)
    sts.get_caller_identity()
    aws.clock.advance(14 * MINUTE)
    sts.get_caller_identity()
    assert aws.key(user.key.access_key_id).last_used_at == NOW
    aws.clock.advance(MINUTE)
    sts.get_caller_identity()
    assert aws.key(user.key.access_key_id).last_used_at == NOW + 15 * MINUTE


def test_the_report_lives_through_its_states(aws: EmulatedAws) -> None:
    aws.delays.report_build = 2 * MINUTE
    aws.delays.report_lifetime = 10 * MINUTE
    aws.create_user(HUB, "svc", key_age=DAY)
    iam = aws.client("iam")
    assert refusal(iam.get_credential_report) == "ReportNotPresent"
    assert iam.generate_credential_report()["State"] == "STARTED"
    assert iam.generate_credential_report()["State"] == "INPROGRESS"
    with pytest.raises(iam.exceptions.CredentialReportNotReadyException, match="Unknown"):
        iam.get_credential_report()
    aws.clock.advance(2 * MINUTE)
    assert iam.generate_credential_report()["State"] == "COMPLETE"
    first = iam.get_credential_report()
    assert first["GeneratedTime"] == NOW + 2 * MINUTE
    aws.create_user(HUB, "later")
    aws.clock.advance(9 * MINUTE)
    assert iam.generate_credential_report()["State"] == "COMPLETE"
    assert iam.get_credential_report()["Content"] == first["Content"]
    aws.clock.advance(MINUTE)
    with pytest.raises(iam.exceptions.CredentialReportExpiredException, match="Unknown"):
        iam.get_credential_report()
    assert iam.generate_credential_report()["State"] == "STARTED"
    aws.clock.advance(2 * MINUTE)
    assert "later" in report_rows(aws)


def test_the_report_has_the_live_shape(aws: EmulatedAws) -> None:
    user = aws.create_user(HUB, "svc", key_age=100 * DAY)
    spare = aws.add_key(HUB, "svc", age=DAY, active=False)
    aws.create_user(HUB, "Bare,name")
    aws.client("iam").generate_credential_report()
    text = aws.client("iam").get_credential_report()["Content"].decode()
    assert not text.endswith("\n")
    rows = report_rows(aws)
    assert list(rows) == ["<root_account>", "Bare,name", "svc"]
    assert len(rows["svc"]) == 22
    # Slots are ordered by id, so the newer key may be first.
    slots = sorted([(user.key.access_key_id, "true", 100), (spare.access_key_id, "false", 1)])
    for slot, (_, active, days) in enumerate(slots, start=1):
        assert rows["svc"][f"access_key_{slot}_active"] == active
        assert rows["svc"][f"access_key_{slot}_last_rotated"] == f"{NOW - days * DAY:%Y-%m-%dT%H:%M:%SZ}"
    assert rows["Bare,name"]["access_key_1_last_rotated"] == "N/A"


def test_a_report_with_more_than_two_keys_has_one_more_column(aws: EmulatedAws) -> None:
    aws.create_user(HUB, "svc", key_age=3 * DAY)
    aws.add_key(HUB, "svc")
    aws.add_key(HUB, "svc")
    aws.client("iam").generate_credential_report()
    assert report_rows(aws)["svc"]["additional_credentials_info"].startswith("1 additional")


@pytest.mark.parametrize("active", [True, False])
def test_a_root_key_shows_in_summary_and_report(aws: EmulatedAws, active: bool) -> None:
    iam = aws.client("iam", OTHER)
    assert iam.get_account_summary()["SummaryMap"]["AccountAccessKeysPresent"] == 0
    aws.add_root_key(OTHER, active=active, last_used_at=NOW - DAY)
    aws.set_root(OTHER, mfa=False, password=True)
    summary = iam.get_account_summary()["SummaryMap"]
    flags = [summary[f"Account{name}"] for name in ("AccessKeysPresent", "MFAEnabled", "PasswordPresent")]
    assert flags == [1, 0, 1]
    iam.generate_credential_report()
    text = iam.get_credential_report()["Content"].decode()
    root = next(csv.DictReader(io.StringIO(text)))
    assert root["access_key_1_active"] == str(active).lower()
    assert (root["access_key_1_last_rotated"], root["mfa_active"]) == ("2026-11-23T12:00:00Z", "false")
    assert root["access_key_1_last_used_date"] == "2026-11-22T12:00:00Z"
    aws.remove_root_key(OTHER)
    assert iam.get_account_summary()["SummaryMap"]["AccountAccessKeysPresent"] == 0


def test_a_root_key_is_the_root_user(aws: EmulatedAws) -> None:
    key = aws.add_root_key(HUB)
    sts = aws.client_with("sts", key.access_key_id, key.secret_access_key)
    assert sts.get_caller_identity()["Arn"] == f"arn:aws:iam::{HUB}:root"


def test_a_root_session_lists_and_deletes_root_keys_and_nothing_else(aws: EmulatedAws) -> None:
    aws.create_organization({OTHER: "member"}, root_access=True)
    key = aws.add_root_key(OTHER)
    hub = aws.client("sts")
    policy = "arn:aws:iam::aws:policy/root-task/"

    def session(task: str) -> object:
        lent = hub.assume_root(TargetPrincipal=OTHER, TaskPolicyArn={"arn": policy + task})["Credentials"]
        return aws.client_with("iam", lent["AccessKeyId"], lent["SecretAccessKey"], token=lent["SessionToken"])

    audit: object = session("IAMAuditRootUserCredentials")
    listed = audit.list_access_keys()["AccessKeyMetadata"]  # type: ignore[attr-defined]
    assert [(each["AccessKeyId"], "UserName" in each) for each in listed] == [(key.access_key_id, False)]
    assert "UserName" not in audit.get_user()["User"]  # type: ignore[attr-defined]
    delete = lambda: audit.delete_access_key(AccessKeyId=key.access_key_id)  # type: ignore[attr-defined]  # noqa: E731
    assert refusal(delete) == "AccessDenied"
    deleter: object = session("IAMDeleteRootUserCredentials")
    deactivate = lambda: deleter.update_access_key(AccessKeyId=key.access_key_id, Status="Inactive")  # type: ignore[attr-defined]  # noqa: E731
    assert refusal(deactivate) == "AccessDenied"
    deleter.delete_access_key(AccessKeyId=key.access_key_id)  # type: ignore[attr-defined]
    assert aws.client("iam", OTHER).get_account_summary()["SummaryMap"]["AccountAccessKeysPresent"] == 0
    assert aws.client("iam").list_organizations_features()["EnabledFeatures"] == [
        "RootCredentialsManagement",
        "RootSessions",
    ]
    own = lambda: hub.assume_root(TargetPrincipal=HUB, TaskPolicyArn={"arn": policy + "IAMAuditRootUserCredentials"})  # noqa: E731
    assert refusal(own) == "AccessDenied"


def test_a_role_is_entered_by_whom_it_trusts_with_its_external_id(aws: EmulatedAws) -> None:
    arn = aws.add_role(OTHER, "rekeyd", external_id="shared")
    enter = aws.client_with("sts", *_admin_pair(aws)).assume_role
    assert refusal(lambda: enter(RoleArn=arn, RoleSessionName="one")) == "AccessDenied"
    assert refusal(lambda: enter(RoleArn=arn, RoleSessionName="one", ExternalId="guess")) == "AccessDenied"
    assert refusal(lambda: enter(RoleArn=arn + "x", RoleSessionName="one", ExternalId="shared")) == "AccessDenied"
    assert (
        enter(RoleArn=arn, RoleSessionName="one", ExternalId="shared")["Credentials"]["Expiration"] == NOW + 60 * MINUTE
    )
    closed = aws.add_role(OTHER, "closed", trusted=["333333333333"])
    assert refusal(lambda: enter(RoleArn=closed, RoleSessionName="one")) == "AccessDenied"


def test_a_chained_role_ends_after_an_hour(aws: EmulatedAws) -> None:
    arn = aws.add_role(OTHER, "rekeyd", max_session=timedelta(hours=12))
    chained = aws.client("sts").assume_role
    assert refusal(lambda: chained(RoleArn=arn, RoleSessionName="one", DurationSeconds=3601)) == "ValidationError"
    direct = aws.client_with("sts", *_admin_pair(aws)).assume_role
    assert direct(RoleArn=arn, RoleSessionName="one", DurationSeconds=43200)["Credentials"]


def test_members_of_the_organization_come_in_pages_even_empty_ones(aws: EmulatedAws) -> None:
    members = {f"{n:012d}": f"member {n}" for n in range(1, 6)}
    client = aws.client("organizations")
    assert refusal(client.list_accounts) == "AWSOrganizationsNotInUseException"
    organization = aws.create_organization(members, empty_first_page=True)
    organization.members["000000000002"].state = "SUSPENDED"
    pages = list(client.get_paginator("list_accounts").paginate())
    assert [len(page["Accounts"]) for page in pages] == [0, 3, 3]
    states = {each["Id"]: each["State"] for page in pages for each in page["Accounts"]}
    assert (states["000000000002"], states[HUB], len(states)) == ("SUSPENDED", "ACTIVE", 6)
    assert refusal(aws.client("organizations", "000000000001").list_accounts) == "AccessDeniedException"


def test_cloudtrail_tells_late_who_made_a_key(aws: EmulatedAws) -> None:
    aws.delays.cloudtrail_lag = 5 * MINUTE
    aws.create_user(HUB, "svc")
    made = aws.client("iam").create_access_key(UserName="svc")["AccessKey"]
    trail = aws.client("cloudtrail")
    by_name = {"LookupAttributes": [{"AttributeKey": "EventName", "AttributeValue": "CreateAccessKey"}]}
    assert trail.lookup_events(**by_name)["Events"] == []
    aws.clock.advance(5 * MINUTE)
    (event,) = trail.lookup_events(**by_name, StartTime=NOW, EndTime=NOW)["Events"]
    detail = json.loads(event["CloudTrailEvent"])
    assert detail["responseElements"]["accessKey"]["accessKeyId"] == made["AccessKeyId"]
    assert detail["requestParameters"] == {"userName": "svc"}
    assert "Botocore" in detail["userAgent"]
    assert made["SecretAccessKey"] not in event["CloudTrailEvent"]
    assert event["EventTime"] == NOW
    assert trail.lookup_events(**by_name, StartTime=NOW + MINUTE)["Events"] == []
    assert aws.client("cloudtrail", region="eu-west-1").lookup_events(**by_name)["Events"] == []
    assert aws.client("cloudtrail", OTHER).lookup_events(**by_name)["Events"] == []


def test_a_bucket_throttles_in_the_genuine_form_until_it_fills(aws: EmulatedAws) -> None:
    aws.throttle("iam:List*", per_second=1, burst=2)
    iam = aws.client("iam")
    iam.list_users()
    iam.list_users()
    with pytest.raises(ClientError, match="Rate exceeded") as caught:
        iam.list_users()
    assert caught.value.response["Error"]["Code"] == "Throttling"
    assert caught.value.response["ResponseMetadata"]["HTTPStatusCode"] == 400
    assert iam.get_account_summary()["SummaryMap"]
    aws.clock.advance(timedelta(seconds=1))
    assert iam.list_users()["Users"] == []


def test_a_denial_holds_for_its_account_and_action_until_it_is_lifted(aws: EmulatedAws) -> None:
    denial = aws.deny(OTHER, "iam:Get*")
    iam = aws.client("iam", OTHER)
    assert refusal(iam.get_account_summary) == "AccessDenied"
    assert iam.list_users()["Users"] == []
    assert aws.client("iam").get_account_summary()["SummaryMap"]
    denial.lift()
    assert iam.get_account_summary()["SummaryMap"]


def test_no_glob_denies_the_question_who_one_is(aws: EmulatedAws) -> None:
    aws.deny(HUB, "*")
    sts = aws.client("sts")
    assert sts.get_caller_identity()["Account"] == HUB
    aws.deny(HUB, "sts:GetCallerIdentity")
    assert refusal(sts.get_caller_identity) == "AccessDenied"


def test_the_journal_knows_who_asked_what_and_no_secret(aws: EmulatedAws) -> None:
    user = aws.create_user(HUB, "svc", key_age=DAY)
    aws.client("iam").create_access_key(UserName="svc")
    aws.client_with("sts", user.key.access_key_id, user.key.secret_access_key).get_caller_identity()
    made, asked = aws.requests
    assert (made.seq, made.op, made.user_name, made.account_id, made.status) == (1, "CreateAccessKey", "svc", HUB, 200)
    assert made.created_access_key_id in {key.access_key_id for key in aws.keys(HUB, "svc")}
    assert (asked.service, asked.signed_by, asked.user_name) == ("sts", user.key.access_key_id, "svc")
    assert aws.calls("iam:*", account=HUB, user="svc") == [made]
    assert not any(secret in repr(aws.requests) for secret in aws.secrets)


def _admin_pair(aws: EmulatedAws) -> tuple[str, str]:
    key = aws.create_user(HUB, "daemon", key_age=DAY, admin=True).key
    return key.access_key_id, key.secret_access_key


def _decisions(aws: EmulatedAws, source: str, **more: Any) -> list[tuple[str, str]]:
    """Of making and deleting keys of `ci`."""
    said = aws.client("iam").simulate_principal_policy(
        PolicySourceArn=source,
        ActionNames=["iam:CreateAccessKey", "iam:DeleteAccessKey"],
        ResourceArns=[f"arn:aws:iam::{HUB}:user/ci"],
        **more,
    )
    assert said["IsTruncated"] is False
    return [(each["EvalActionName"], each["EvalDecision"]) for each in said["EvaluationResults"]]


def test_policies_are_simulated_as_the_gate_would_decide(aws: EmulatedAws) -> None:
    create, delete = "iam:CreateAccessKey", "iam:DeleteAccessKey"
    aws.create_user(HUB, "boss", path="/it/", admin=True)
    aws.create_user(HUB, "nobody")
    role = aws.add_role(HUB, "rekeyd")
    for source in (f"arn:aws:iam::{HUB}:user/it/boss", role):
        assert _decisions(aws, source) == [(create, "allowed"), (delete, "allowed")]
    assert _decisions(aws, f"arn:aws:iam::{HUB}:user/nobody") == [(create, "implicitDeny"), (delete, "implicitDeny")]
    aws.deny(HUB, "DeleteAccessKey", user="ci")
    assert _decisions(aws, role) == [(create, "allowed"), (delete, "explicitDeny")]


def test_a_simulation_knows_the_tags_that_it_is_told_and_no_others(aws: EmulatedAws) -> None:
    aws.create_user(HUB, "ci", tags={"team": "a"})
    role = aws.add_role(HUB, "rekeyd")
    aws.deny(HUB, "CreateAccessKey", unless_tag=("team", "a"))
    told = [{"ContextKeyName": "aws:ResourceTag/team", "ContextKeyType": "string", "ContextKeyValues": ["a"]}]
    assert _decisions(aws, role)[0] == ("iam:CreateAccessKey", "implicitDeny")
    assert _decisions(aws, role, ContextEntries=told)[0] == ("iam:CreateAccessKey", "allowed")
    assert aws.client("iam").create_access_key(UserName="ci")["AccessKey"]["Status"] == "Active"


def test_a_simulation_comes_in_pages_and_refuses_sources_that_are_none(aws: EmulatedAws) -> None:
    role = aws.add_role(HUB, "rekeyd")
    actions = [f"iam:{name}" for name in ("CreateAccessKey", "UpdateAccessKey", "DeleteAccessKey", "GetUser")]
    paginator = aws.client("iam").get_paginator("simulate_principal_policy")
    pages = list(paginator.paginate(PolicySourceArn=role, ActionNames=actions))
    assert [len(page["EvaluationResults"]) for page in pages] == [3, 1]
    simulate = aws.client("iam").simulate_principal_policy
    for source, code in (
        (f"arn:aws:iam::{HUB}:role/other", "NoSuchEntity"),
        (f"arn:aws:iam::{HUB}:user/other", "NoSuchEntity"),
        (f"arn:aws:sts::{HUB}:assumed-role/rekeyd/x", "InvalidInput"),
    ):
        assert refusal(lambda source=source: simulate(PolicySourceArn=source, ActionNames=actions)) == code  # type: ignore[misc]


def test_an_answer_has_one_date_and_it_is_the_worlds(aws: EmulatedAws) -> None:
    headers = aws.client("sts").get_caller_identity()["ResponseMetadata"]["HTTPHeaders"]
    assert headers["date"] == "Mon, 23 Nov 2026 12:00:00 GMT"
