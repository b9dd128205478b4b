"""What a finding says, word for word, and whose it is: people and programs act on both."""

import dataclasses
import re
from datetime import timedelta

import pytest

from rekeyd.core.findings import AccountSeen, FindingReason, check, found, refused, undecided
from rekeyd.core.findings_text import remedy_of
from rekeyd.core.model import AccessKeyId
from rekeyd.core.notice import AlarmState, state_of
from rekeyd.core.reasons import Reason
from rekeyd.core.rights import NO_PASSWORD_POLICY, PasswordPolicy
from tests.unit.test_findings import (
    ACCOUNT,
    DAY,
    DENIED,
    HOUR,
    NOW,
    SECOND,
    failing,
    key,
    managed,
    notice,
    report,
    root,
    row,
    seen,
    summary,
    with_notices,
    with_rights,
)

MESSAGES: dict[str, tuple[AccountSeen, str]] = {
    "root_access_key": (
        seen(summary(keys=True), report(root_row=root(key(used=HOUR), key(age=9 * DAY, used=None, active=False)))),
        (
            "the account's root user has an access key: account 111122223333 (shop), an active key made "
            "2026-05-31, last "
            "used 2026-06-01; an inactive key made 2026-05-23, no use on record"
        ),
    ),
    "root_access_key of which the report knows nothing": (
        seen(summary(keys=True), report()),
        (
            "the account's root user has an access key: account 111122223333 (shop), seen in the account summary; the "
            "credential report does not list it yet"
        ),
    ),
    "root_unreadable": (
        seen(summary_problem=DENIED),
        (
            "whether the account's root user has access keys cannot be told: account 111122223333 (shop), "
            "iam:GetAccountSummary was refused: AccessDenied"
        ),
    ),
    "report_unreadable": (
        seen(report_problem=failing(3)),
        (
            "the account's credential report cannot be read: account 111122223333 (shop), 3 looks in a row failed, the "
            "last: iam:GetAccountSummary was throttled"
        ),
    ),
    "root_unwatched": (
        seen(unwatched="suspended"),
        "nobody watches the account's root user: account 111122223333 (shop), suspended",
    ),
    "root_used": (
        seen(None, report(root_row=root(password_used=DAY))),
        "the account's root user was used: account 111122223333 (shop), last at 2026-05-31 12:00 UTC",
    ),
    "root_without_mfa": (
        seen(summary(mfa=False)),
        "the account's root user has a password and no MFA: account 111122223333 (shop)",
    ),
    "key_over_max_age": (
        seen(users=managed(oldest=91 * DAY)),
        (
            "a managed user has an active access key over its policy's age limit: 91 days old, policy "
            '"default" allows '
            "90 days, because the old key is still used"
        ),
    ),
    "unmanaged_key_over_max_age": (
        seen(None, report(row(key(age=91 * DAY))), users={}),
        "a user in no policy has an active access key over the age limit: 91 days old",
    ),
    "unlisted_credentials": (
        seen(None, report(dataclasses.replace(row(key(), key()), more_credentials=True)), users={}),
        "a user in no policy has more credentials than the credential report lists",
    ),
    "key_unused": (
        seen(None, report(row(key(age=60 * DAY, used=50 * DAY)))),
        "an active access key is unused: no use on record for 50 days",
    ),
    "console_user_with_keys": (
        seen(None, report(row(key(), password=True))),
        "a user with a console password has an active access key",
    ),
    "user_compromised": (
        with_notices(
            with_rights(seen(), quarantined="AWSCompromisedKeyQuarantineV3"),
            dataclasses.replace(notice("AKIA1", user="ci"), key_ids=(AccessKeyId("AKIA1"), AccessKeyId("AKIA2"))),
        ),
        (
            "AWS says that an access key of a user is in wrong hands: AWSCompromisedKeyQuarantineV3 is attached; AWS "
            "Health has AWS_RISK_CREDENTIALS_EXPOSED of AKIA1, AKIA2, since 2026-06-01 10:00 UTC"
        ),
    ),
    "credentials_exposed": (
        with_notices(seen(), notice("AKIA2"), notice("")),
        (
            "AWS says that credentials of the account are in wrong hands: account 111122223333 (shop), AWS Health has "
            "AWS_RISK_CREDENTIALS_EXPOSED of AKIA2, since 2026-06-01 10:00 UTC; AWS Health has "
            "AWS_RISK_CREDENTIALS_EXPOSED of nothing that it names, since 2026-06-01 10:00 UTC"
        ),
    ),
    "administrator_with_keys": (
        with_rights(seen(None, report(row(key()))), administrator="AdministratorAccess"),
        "a user with administrator rights has an active access key: by AdministratorAccess",
    ),
    "weak_password_policy": (
        dataclasses.replace(seen(), password_policy=NO_PASSWORD_POLICY),
        (
            "the account's password policy is weaker than the benchmarks ask: account 111122223333 (shop), "
            "8 characters are "
            "enough, and 14 should be the least; no former passwords are refused, and 24 should be"
        ),
    ),
    "posture_unreadable": (
        dataclasses.replace(seen(), rights_unreadable=DENIED, password_unreadable=failing(3)),
        (
            "some of the account's settings cannot be read: account 111122223333 (shop), 3 looks in a row "
            "failed, the last: iam:GetAccountSummary was throttled; "
            "iam:GetAccountSummary was refused: AccessDenied"
        ),
    ),
    "two_active_keys of a managed user": (
        seen(None, report(row(key(), key(age=2 * DAY))), users=managed()),
        "a user has more than one active access key: the overlap of a rotation is one, and ends by itself",
    ),
    "two_active_keys of nobody's user": (
        seen(None, report(row(key(), key(age=2 * DAY))), users={}),
        "a user has more than one active access key",
    ),
    "two_active_keys while nobody knows who is managed": (
        seen(None, report(row(key(), key(age=2 * DAY)))),
        "a user has more than one active access key",
    ),
}


@pytest.mark.parametrize("case", MESSAGES)
def test_a_finding_says(case: str) -> None:
    facts, message = MESSAGES[case]
    (finding,) = [each for each in check(facts, NOW) if each.reason == case.split(maxsplit=1)[0]]
    assert finding.message == message
    assert finding.account_id == ACCOUNT


AGES = {
    "a span of two days is told in days": (2 * DAY, "2 days"),
    "one a second shorter exactly": (2 * DAY - SECOND, "1 day, 23:59:59"),
    "one of minutes exactly": (timedelta(minutes=7), "0:07:00"),
}


@pytest.mark.parametrize("case", AGES)
def test_an_age_is_told(case: str) -> None:
    age, text = AGES[case]
    facts = seen(users=managed(max_age=SECOND, oldest=age))
    (finding,) = check(facts, NOW)
    assert f": {text} old, " in finding.message


def test_a_root_user_whose_password_is_only_in_the_report_needs_mfa() -> None:
    bare, with_mfa = report(root_row=root(mfa=False)), report(root_row=root(mfa=True))
    without_password = report(root_row=dataclasses.replace(root(mfa=False), password_enabled=None))
    found_by = [[each.reason for each in check(seen(None, each), NOW)] for each in (bare, with_mfa, without_password)]
    assert found_by == [["root_without_mfa"], [], []]


def test_a_user_that_is_new_in_the_report_is_not_found_unused_by_a_day_limit() -> None:
    facts = seen(None, report(row(key(active=False))), limits=dataclasses.replace(seen().limits, unused_after=DAY))
    assert check(facts, NOW) == ()


def test_a_managed_user_without_a_report_row_is_judged_by_its_look() -> None:
    facts = seen(None, report(), users=managed(oldest=91 * DAY, looked=9 * DAY))
    assert [each.reason for each in check(facts, NOW)] == ["key_over_max_age"]


def test_a_look_older_than_the_report_gives_way_to_the_report() -> None:
    facts = seen(None, report(row(key(age=DAY))), users=managed(oldest=91 * DAY, looked=HOUR))
    assert check(facts, NOW) == ()


def test_a_report_raises_while_nobody_knows_when_the_summary_was_read() -> None:
    facts = seen(summary(), report(root_row=root(key()), age=HOUR))
    assert "root_access_key" not in [each.reason for each in check(facts, NOW)]
    timeless = dataclasses.replace(facts, summary_seen_at=None)
    assert "root_access_key" in [each.reason for each in check(timeless, NOW)]


def test_what_is_undecided_adds_up() -> None:
    nothing, only_policies = undecided(seen()), undecided(seen(summary(), report()))
    assert {FindingReason.ROOT_ACCESS_KEY, FindingReason.ROOT_USED, FindingReason.KEY_OVER_MAX_AGE} <= nothing
    assert FindingReason.KEY_OVER_MAX_AGE in only_policies
    assert not {FindingReason.ROOT_ACCESS_KEY, FindingReason.ROOT_USED} & only_policies
    assert only_policies < undecided(seen(summary()))


def test_settings_are_undecided_while_one_of_them_was_never_read() -> None:
    known = dataclasses.replace(seen(), rights={}, password_policy=NO_PASSWORD_POLICY)
    assert FindingReason.POSTURE_UNREADABLE not in undecided(known)
    for missing in (dataclasses.replace(known, rights=None), dataclasses.replace(known, password_policy=None)):
        assert FindingReason.POSTURE_UNREADABLE in undecided(missing)


# --- remedies and clauses ---------------------------------------------------------------------------------------------


def test_a_remedy_names_the_account_the_user_and_the_key() -> None:
    finding = refused(
        Reason.STRAY_KEY, account_id=ACCOUNT, principal="ci", access_key_id=AccessKeyId("AKIASTRAY"), message="seen"
    )
    assert finding is not None
    assert (finding.account_id, finding.principal, finding.message) == (ACCOUNT, "ci", "seen")
    assert finding.remedy == (
        "find out who made AKIASTRAY; if it is not needed: "
        "rekeyd rotate-now ci --account 111122223333 --replace AKIASTRAY. "
        "IAM console > Users > ci > Security credentials > Access keys"
    )


def test_a_remedy_shows_placeholders_for_what_is_not_known() -> None:
    finding = refused(Reason.STRAY_KEY, account_id=None, principal=None)
    assert finding is not None
    assert finding.remedy == (
        "find out who made KEY_ID; if it is not needed: rekeyd rotate-now USER --account ACCOUNT --replace KEY_ID. "
        "IAM console > Users > USER > Security credentials > Access keys"
    )


_PAGE = re.compile(r"https://|\bconsole > \w")
_COMMAND = re.compile(r"\b(rekeyd|aws|vault) [a-z]")

# Nobody but rekeyd and Vault has a part in these, and neither has a page of its own for them.
WITHOUT_PAGE = {
    FindingReason.ACCOUNT_FAILING,
    FindingReason.ACCOUNT_BRAKED,
    FindingReason.FLEET_BRAKED,
    FindingReason.WAIT_OVERDUE,
    FindingReason.VAULT_UNREACHABLE,
    FindingReason.LEFT_PLACE_NOT_EMPTIED,
}
# What is done about these, is done in IAM.
WITH_PAGE = {
    Reason.TWO_KEYS_UNMANAGED,
    Reason.STRAY_KEY,
    Reason.LAST_USE_UNKNOWN,
    Reason.REACTIVATED,
    Reason.HELD_KEY_DEAD,
    Reason.NO_FREE_SLOT,
    Reason.MORE_THAN_TWO_KEYS,
    Reason.SAME_SECOND_KEYS,
    Reason.KEY_STATUS_UNKNOWN,
    Reason.POLICY_UNKNOWN,
}


@pytest.mark.parametrize("reason", FindingReason)
def test_every_finding_names_a_command_and_a_page(reason: FindingReason) -> None:
    assert _COMMAND.search(reason.remedy)
    assert bool(_PAGE.search(reason.remedy)) == (reason not in WITHOUT_PAGE)


@pytest.mark.parametrize("reason", [reason for reason in Reason if reason.severity is not None])
def test_every_refusal_names_a_command_and_what_is_mended_in_iam_its_page(reason: Reason) -> None:
    assert _COMMAND.search(remedy_of(reason))
    assert bool(_PAGE.search(remedy_of(reason))) == (reason in WITH_PAGE)


def test_a_finding_about_a_key_names_it() -> None:
    finding = found(FindingReason.KEY_UNUSED, account_id=ACCOUNT, principal="ci", access_key_id=AccessKeyId("AKIAOLD"))
    assert finding.access_key_id == "AKIAOLD"
    assert "ci" in finding.remedy


def test_a_clause_is_named_for_every_version_that_has_it() -> None:
    assert found(FindingReason.ROOT_ACCESS_KEY, account_id=ACCOUNT).cis == (
        *(f"CIS {version} 1.4" for version in ("v1.4", "v1.5", "v2.0", "v3.0", "v4.0")),
        "CIS v5.0 1.3",
        "CIS v6.0 2.3",
        "CIS v7.0 2.4",
    )
    assert found(FindingReason.TWO_ACTIVE_KEYS, account_id=ACCOUNT).cis[-1] == "CIS v6.0 2.12"


# --- where an alarm stands --------------------------------------------------------------------------------------------

STATES = {
    "a new alarm fires": (False, None, 0, AlarmState.FIRING),
    "one that was announced again repeats": (False, None, 2, AlarmState.REPEATED),
    "an acknowledgement holds to its last second": (False, SECOND, 2, AlarmState.ACKNOWLEDGED),
    "and no longer": (False, timedelta(0), 2, AlarmState.REPEATED),
    "what is over is over": (True, SECOND, 2, AlarmState.RESOLVED),
}


@pytest.mark.parametrize("case", STATES)
def test_where_an_alarm_stands(case: str) -> None:
    over, acknowledged_for, repeats, expected = STATES[case]
    state = state_of(
        resolved_at=NOW if over else None,
        acknowledged_until=None if acknowledged_for is None else NOW + acknowledged_for,
        repeats=repeats,
        now=NOW,
    )
    assert state is expected


# The numbers of prowler/compliance/aws/cis_*_aws.json.
@pytest.mark.parametrize(
    ("length", "reuse", "clauses"),
    [
        (13, 24, {"CIS v1.4 1.8", "CIS v4.0 1.8", "CIS v5.0 1.7", "CIS v6.0 2.7", "CIS v7.0 2.8"}),
        (14, 23, {"CIS v1.4 1.9", "CIS v4.0 1.9", "CIS v5.0 1.8", "CIS v6.0 2.8", "CIS v7.0 2.9"}),
        (8, 0, {"CIS v1.4 1.8", "CIS v1.4 1.9", "CIS v7.0 2.8", "CIS v7.0 2.9"}),
    ],
    ids=["too short", "too few remembered", "both"],
)
def test_a_password_policy_is_judged_item_by_item_and_names_the_clauses_of_its_weak_items(
    length: int, reuse: int, clauses: set[str]
) -> None:
    policy = PasswordPolicy(minimum_length=length, reuse_prevention=reuse)
    (weak,) = [
        finding
        for finding in check(dataclasses.replace(seen(), password_policy=policy), NOW)
        if finding.reason == FindingReason.WEAK_PASSWORD_POLICY
    ]
    assert clauses <= set(weak.cis)
    assert len(weak.cis) == 8 * ((length < 14) + (reuse < 24))
