"""What is found about an account: tables with sentence keys, and every boundary at its exact instant."""

import dataclasses
import math
from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from rekeyd.core import findings_text
from rekeyd.core.findings import (
    CHECKS_BEFORE_UNREADABLE,
    POSTURE_REASONS,
    AccountSeen,
    Finding,
    FindingReason,
    Limits,
    ManagedSeen,
    Unreadable,
    check,
    found,
    refused,
    root_state,
    root_used_at,
    undecided,
)
from rekeyd.core.model import AccessKeyId, AccountId
from rekeyd.core.posture import AccountSummary, CredentialReport, ExposureNotice, ReportKey, ReportRow
from rekeyd.core.reasons import Reason, Severity
from rekeyd.core.rights import NO_PASSWORD_POLICY, PasswordPolicy, UserRights
from rekeyd.core.sessions import LONGEST_SESSION

NOW = datetime(2026, 6, 1, 12, tzinfo=UTC)
DAY = timedelta(days=1)
SECOND = timedelta(seconds=1)
ACCOUNT = AccountId("111122223333")
ROOT_ARN = f"arn:aws:iam::{ACCOUNT}:root"
CI = f"arn:aws:iam::{ACCOUNT}:user/ci"


def summary(*, keys: bool = False, mfa: bool = True, password: bool = True) -> AccountSummary:
    return AccountSummary(root_access_keys_present=keys, root_mfa_enabled=mfa, root_password_present=password, users=1)


def key(*, age: timedelta = DAY, used: timedelta | None = timedelta(0), active: bool = True) -> ReportKey:
    """`used`: how long ago; None: never."""
    return ReportKey(active=active, created_at=NOW - age, last_used_at=None if used is None else NOW - used)


def row(
    *keys: ReportKey, name: str = "ci", password: bool | None = False, password_used: timedelta | None = None
) -> ReportRow:
    return ReportRow(
        user_name=name,
        arn=f"arn:aws:iam::{ACCOUNT}:user/{name}",
        keys=keys,
        password_enabled=password,
        password_last_used_at=None if password_used is None else NOW - password_used,
        mfa_active=True,
    )


def root(*keys: ReportKey, password_used: timedelta | None = None, mfa: bool = True) -> ReportRow:
    seen = row(*keys, name="<root_account>", password=True, password_used=password_used)
    return dataclasses.replace(seen, arn=ROOT_ARN, mfa_active=mfa)


def report(*users: ReportRow, root_row: ReportRow | None = None, age: timedelta = timedelta(0)) -> CredentialReport:
    return CredentialReport(generated_at=NOW - age, root=root_row or root(), users={user.arn: user for user in users})


def managed(
    *,
    max_age: timedelta = 90 * DAY,
    unused_after: timedelta = 45 * DAY,
    oldest: timedelta | None = None,
    looked: timedelta | None = None,
) -> Mapping[str, ManagedSeen]:
    """`oldest`: age of the oldest Active key in the live look; `looked`: how long ago that was."""
    seen = ManagedSeen(
        user_name="ci",
        policy="default",
        max_age=max_age,
        unused_after=unused_after,
        state="on_hold",
        reason=Reason.STILL_USED,
        oldest_active_at=None if oldest is None else NOW - oldest,
        looked_at=None if looked is None else NOW - looked,
    )
    return {CI: seen}


def seen(
    of: AccountSummary | None = None,
    reported: CredentialReport | None = None,
    *,
    summary_age: timedelta = timedelta(0),
    summary_problem: Unreadable | None = None,
    report_problem: Unreadable | None = None,
    unwatched: str | None = None,
    users: Mapping[str, ManagedSeen] | None = None,
    limits: Limits | None = None,
) -> AccountSeen:
    return AccountSeen(
        account_id=ACCOUNT,
        alias="shop",
        seen_at=NOW,
        summary=of,
        summary_seen_at=None if of is None else NOW - summary_age,
        summary_unreadable=summary_problem,
        report=reported,
        report_unreadable=report_problem,
        unwatched=unwatched,
        managed=users,
        limits=limits or Limits(),
    )


def failing(times: int) -> Unreadable:
    return Unreadable(denied=False, failures_in_a_row=times, detail="iam:GetAccountSummary was throttled")


DENIED = Unreadable(denied=True, failures_in_a_row=1, detail="iam:GetAccountSummary was refused: AccessDenied")


def reasons(facts: AccountSeen) -> list[str]:
    return [finding.reason for finding in check(facts, NOW)]


HOUR = timedelta(hours=1)

ROOT_KEYS: dict[str, tuple[AccountSeen, float]] = {
    "no key in either source": (seen(summary(), report()), 0.0),
    "no key by the summary alone": (seen(summary()), 0.0),
    "a key in the summary alone": (seen(summary(keys=True)), 1.0),
    "a key in the summary that the report does not have yet": (seen(summary(keys=True), report(age=HOUR)), 1.0),
    "a key in the summary that a later report denies": (
        seen(summary(keys=True), report(), summary_age=HOUR),
        1.0,
    ),
    "an active key in both": (seen(summary(keys=True), report(root_row=root(key()))), 1.0),
    "an inactive key in the report": (seen(None, report(root_row=root(key(active=False)))), 1.0),
    "a report one second newer than a clear summary raises": (
        seen(summary(), report(root_row=root(key())), summary_age=SECOND),
        1.0,
    ),
    "a report of the very second of a clear summary does not": (
        seen(summary(), report(root_row=root(key()))),
        0.0,
    ),
    "a report older than a clear summary does not": (
        seen(summary(), report(root_row=root(key()), age=3 * HOUR)),
        0.0,
    ),
    "an old report raises when there is no summary": (
        seen(None, report(root_row=root(key()), age=3 * HOUR), summary_problem=DENIED),
        1.0,
    ),
    "a key seen before the summary became unreadable stays": (
        seen(summary(keys=True), summary_age=HOUR, summary_problem=DENIED),
        1.0,
    ),
    "a key of an account that is no longer watched stays": (
        seen(summary(keys=True), unwatched="excluded by the configuration"),
        1.0,
    ),
    "nothing was gathered": (seen(), math.nan),
    "only a clean report": (seen(None, report()), math.nan),
    "the summary is denied": (seen(summary(), summary_age=HOUR, summary_problem=DENIED), math.nan),
    "the summary failed twice": (seen(summary(), summary_age=HOUR, summary_problem=failing(2)), 0.0),
    "the summary failed three times": (seen(summary(), summary_age=HOUR, summary_problem=failing(3)), math.nan),
    "an account that nobody watches": (seen(summary(), unwatched="suspended"), math.nan),
}


@pytest.mark.parametrize(("facts", "state"), ROOT_KEYS.values(), ids=ROOT_KEYS.keys())
def test_root_access_keys(facts: AccountSeen, state: float) -> None:
    assert root_state(facts) == pytest.approx(state, nan_ok=True)
    raised = [finding for finding in check(facts, NOW) if finding.reason == "root_access_key"]
    assert [finding.severity for finding in raised] == ([Severity.CRITICAL] if state == 1.0 else [])


CLEAR = seen(summary(), report(), users={})

STRONG = PasswordPolicy(minimum_length=14, reuse_prevention=24)


def with_rights(
    facts: AccountSeen,
    *,
    administrator: str | None = None,
    quarantined: str | None = None,
    revoked: timedelta | None = None,
) -> AccountSeen:
    """`revoked`: so long ago its sessions were cut."""
    before = None if revoked is None else NOW - revoked
    user = UserRights(
        user_name="ci", administrator_by=administrator, quarantined_by=quarantined, sessions_revoked_before=before
    )
    return replace(facts, rights={row().arn: user})


def notice(entity: str, *, user: str | None = None) -> ExposureNotice:
    """AWS Health's, two hours old; of a key of the user, else of nobody who can be told."""
    keys = () if user is None else (AccessKeyId(entity),)
    return ExposureNotice(
        code="AWS_RISK_CREDENTIALS_EXPOSED", since=NOW - 2 * HOUR, entity=entity, user_name=user, key_ids=keys
    )


def with_notices(facts: AccountSeen, *notices: ExposureNotice) -> AccountSeen:
    return replace(facts, notices=notices)


ACCOUNT_FINDINGS: dict[str, tuple[AccountSeen, list[str]]] = {
    "a clear account has none": (CLEAR, []),
    "an account of which nothing was gathered has none": (seen(), []),
    "CloudTrail shows a use of the root user that the report does not": (
        replace(CLEAR, root_seen_used_at=NOW - HOUR),
        ["root_used"],
    ),
    "CloudTrail shows one before any report was read": (replace(seen(), root_seen_used_at=NOW - HOUR), ["root_used"]),
    "a use of exactly a week ago is still found": (replace(CLEAR, root_seen_used_at=NOW - 7 * DAY), ["root_used"]),
    "a use of a second more is not": (replace(CLEAR, root_seen_used_at=NOW - 7 * DAY - SECOND), []),
    "CloudTrail may not be asked": (replace(CLEAR, trail_unreadable=DENIED), ["root_trail_unreadable"]),
    "CloudTrail failed twice": (replace(CLEAR, trail_unreadable=failing(CHECKS_BEFORE_UNREADABLE - 1)), []),
    "a denied summary is found at once": (seen(summary_problem=DENIED), ["root_unreadable"]),
    "two failures of the summary are not": (seen(summary_problem=failing(CHECKS_BEFORE_UNREADABLE - 1)), []),
    "the third failure of the summary is": (
        seen(summary_problem=failing(CHECKS_BEFORE_UNREADABLE)),
        ["root_unreadable"],
    ),
    "a denied report is found at once": (seen(summary(), report_problem=DENIED), ["report_unreadable"]),
    "two failures of the report are not": (seen(summary(), report_problem=failing(2)), []),
    "the third failure of the report is": (seen(summary(), report_problem=failing(3)), ["report_unreadable"]),
    "a password policy exactly as the benchmarks ask": (replace(CLEAR, password_policy=STRONG), []),
    "one character less": (
        replace(CLEAR, password_policy=PasswordPolicy(minimum_length=13, reuse_prevention=24)),
        ["weak_password_policy"],
    ),
    "one former password less": (
        replace(CLEAR, password_policy=PasswordPolicy(minimum_length=14, reuse_prevention=23)),
        ["weak_password_policy"],
    ),
    "no password policy at all": (replace(CLEAR, password_policy=NO_PASSWORD_POLICY), ["weak_password_policy"]),
    "a password policy that may not be read": (replace(CLEAR, password_unreadable=DENIED), ["posture_unreadable"]),
    "rights that may not be read": (replace(CLEAR, rights_unreadable=DENIED), ["posture_unreadable"]),
    "rights that failed twice": (replace(CLEAR, rights_unreadable=failing(2)), []),
    "an unwatched account is never clear": (seen(summary(), unwatched="suspended"), ["root_unwatched"]),
    "a root user used exactly seven days ago": (
        seen(summary(), report(root_row=root(password_used=7 * DAY))),
        ["root_used"],
    ),
    "a root user used a second earlier": (seen(summary(), report(root_row=root(password_used=7 * DAY + SECOND))), []),
    "a recent use of a root key behind an old sign-in": (
        seen(summary(keys=True), report(root_row=root(key(used=DAY), password_used=300 * DAY))),
        ["root_access_key", "root_used"],
    ),
    "a recent use of the second root key": (
        seen(summary(keys=True), report(root_row=root(key(used=None), key(used=DAY)))),
        ["root_access_key", "root_used"],
    ),
    "a recent sign-in before an old use of a root key": (
        seen(summary(keys=True), report(root_row=root(key(used=300 * DAY), password_used=DAY))),
        ["root_access_key", "root_used"],
    ),
    "AWS Health knows of a key of the root user, and of what nobody can tell": (
        with_notices(CLEAR, notice("AKIA1"), notice("something")),
        ["credentials_exposed"],
    ),
    "a root password without MFA": (seen(summary(mfa=False)), ["root_without_mfa"]),
    "no MFA and no password either": (seen(summary(mfa=False, password=False)), []),
    "the summary knows better than an old report about MFA": (
        seen(summary(), report(root_row=root(mfa=False), age=HOUR)),
        [],
    ),
    "the report tells about MFA where there is no summary": (
        seen(None, report(root_row=root(mfa=False))),
        ["root_without_mfa"],
    ),
}


@pytest.mark.parametrize(("facts", "expected"), ACCOUNT_FINDINGS.values(), ids=ACCOUNT_FINDINGS.keys())
def test_findings_about_an_account(facts: AccountSeen, expected: list[str]) -> None:
    assert reasons(facts) == expected


def users_of(*rows: ReportRow, users: Mapping[str, ManagedSeen] | None, age: timedelta = timedelta(0)) -> AccountSeen:
    return seen(summary(), report(*rows, age=age), users=users)


USER_FINDINGS: dict[str, tuple[AccountSeen, list[str]]] = {
    "an administrator with an active key": (
        with_rights(users_of(row(key()), users=managed()), administrator="AdministratorAccess"),
        ["administrator_with_keys"],
    ),
    "an administrator with an inactive key": (
        with_rights(users_of(row(key(active=False)), users=managed()), administrator="AdministratorAccess"),
        [],
    ),
    "an administrator without a key": (with_rights(users_of(row(), users={}), administrator="AdministratorAccess"), []),
    "a user whom AWS put in quarantine": (
        with_rights(users_of(row(key()), users=managed()), quarantined="AWSCompromisedKeyQuarantineV3"),
        ["user_compromised"],
    ),
    "a user of whose keys AWS Health knows two": (
        with_notices(users_of(row(key()), users=managed()), notice("AKIA1", user="ci"), notice("AKIA2", user="ci")),
        ["user_compromised"],
    ),
    "AWS says so in both ways": (
        with_notices(
            with_rights(users_of(row(key()), users=managed()), quarantined="AWSCompromisedKeyQuarantineV3"),
            notice("AKIA1", user="ci"),
        ),
        ["user_compromised"],
    ),
    "sessions were cut a second less than 36 hours ago": (
        with_rights(users_of(row(key()), users=managed()), revoked=LONGEST_SESSION - SECOND),
        [],
    ),
    "sessions were cut 36 hours ago": (
        with_rights(users_of(row(key()), users=managed()), revoked=LONGEST_SESSION),
        ["revocation_left"],
    ),
    "a managed key of exactly max_age": (users_of(row(key(age=90 * DAY)), users=managed()), []),
    "a managed key one second over max_age": (
        users_of(row(key(age=90 * DAY + SECOND)), users=managed()),
        ["key_over_max_age"],
    ),
    "an inactive key may be as old as it likes": (users_of(row(key(age=900 * DAY, active=False)), users=managed()), []),
    "the policy's max_age counts, not the account's": (
        users_of(row(key(age=11 * DAY)), users=managed(max_age=10 * DAY)),
        ["key_over_max_age"],
    ),
    "a live look newer than the report clears the old key": (
        users_of(row(key(age=91 * DAY)), users=managed(oldest=DAY, looked=timedelta(0)), age=HOUR),
        [],
    ),
    "a live look of the report's very second overrules it": (
        users_of(row(key(age=91 * DAY)), users=managed(oldest=DAY, looked=timedelta(0))),
        [],
    ),
    "a live look newer than the report finds the old key": (
        users_of(row(key()), users=managed(oldest=91 * DAY, looked=timedelta(0)), age=HOUR),
        ["key_over_max_age"],
    ),
    "a live look older than the report is overruled": (
        users_of(row(key(age=91 * DAY)), users=managed(oldest=DAY, looked=HOUR)),
        ["key_over_max_age"],
    ),
    "without a report the live look tells": (
        seen(summary(), users=managed(oldest=91 * DAY, looked=HOUR)),
        ["key_over_max_age"],
    ),
    "a user in no policy with a key of exactly 90 days": (users_of(row(key(age=90 * DAY)), users={}), []),
    "a user in no policy with a key one second older": (
        users_of(row(key(age=90 * DAY + SECOND)), users={}),
        ["unmanaged_key_over_max_age"],
    ),
    "which users are managed is not known": (
        users_of(replace(row(key(age=91 * DAY)), more_credentials=True), users=None),
        [],
    ),
    "a user in no policy with more keys than the report has columns for": (
        users_of(replace(row(key()), more_credentials=True), users={}),
        ["unlisted_credentials"],
    ),
    "a user in a policy with more keys is refused for them": (
        users_of(replace(row(key()), more_credentials=True), users=managed()),
        [],
    ),
    "a key silent for exactly 45 days": (
        users_of(row(key(age=60 * DAY, used=45 * DAY)), users=managed()),
        ["key_unused"],
    ),
    "a key silent for one second less": (users_of(row(key(age=60 * DAY, used=45 * DAY - SECOND)), users=managed()), []),
    "a key never used counts from its creation": (
        users_of(row(key(age=45 * DAY, used=None)), users=managed()),
        ["key_unused"],
    ),
    "a young key never used": (users_of(row(key(age=44 * DAY, used=None)), users=managed()), []),
    "a silent inactive key": (users_of(row(key(age=60 * DAY, used=None, active=False)), users=managed()), []),
    "a use after the report was made would not show": (
        users_of(row(key(age=60 * DAY, used=45 * DAY)), users=managed(), age=SECOND),
        [],
    ),
    "the policy's own unused_after": (
        users_of(row(key(age=60 * DAY, used=10 * DAY)), users=managed(unused_after=10 * DAY)),
        ["key_unused"],
    ),
    "one silent key beside a used one": (
        users_of(row(key(), key(age=60 * DAY, used=None)), users=managed()),
        ["key_unused", "two_active_keys"],
    ),
    "a console user with an active key": (
        users_of(row(key(), password=True), users=managed()),
        ["console_user_with_keys"],
    ),
    "a console user with an inactive key": (users_of(row(key(active=False), password=True), users=managed()), []),
    "whether there is a password is not known": (users_of(row(key(), password=None), users=managed()), []),
    "two active keys": (users_of(row(key(), key()), users=managed()), ["two_active_keys"]),
    "an active and an inactive key": (users_of(row(key(), key(active=False)), users=managed()), []),
    "a user without keys": (users_of(row(password=True), users={}), []),
}


@pytest.mark.parametrize(("facts", "expected"), USER_FINDINGS.values(), ids=USER_FINDINGS.keys())
def test_findings_about_users(facts: AccountSeen, expected: list[str]) -> None:
    assert reasons(facts) == expected
    assert {finding.principal for finding in check(facts, NOW)} <= {"ci"}


ROOT_BY_SUMMARY = {"root_access_key", "root_unreadable", "root_without_mfa"}

UNDECIDED: dict[str, tuple[AccountSeen, AbstractSet[str], AbstractSet[str]]] = {
    "everything was read": (
        replace(CLEAR, rights={}, password_policy=STRONG, settings_seen_at=NOW),
        set(),
        {reason.value for reason in POSTURE_REASONS},
    ),
    "CloudTrail fails for a moment": (
        replace(CLEAR, settings_seen_at=NOW, trail_unreadable=failing(1)),
        {"root_used"},
        {"root_trail_unreadable"},
    ),
    "CloudTrail fails for a moment, and all but the summary was never read": (
        replace(seen(summary()), trail_unreadable=failing(1)),
        {"root_used", "key_unused", "root_trail_unreadable", "administrator_with_keys", "weak_password_policy"},
        {"root_access_key"},
    ),
    "CloudTrail may not be asked": (
        replace(CLEAR, settings_seen_at=NOW, trail_unreadable=DENIED),
        set(),
        {"root_used", "root_trail_unreadable"},
    ),
    "AWS Health fails for a moment": (
        replace(CLEAR, rights={}, settings_seen_at=NOW, notices_unreadable=failing(1)),
        {"user_compromised", "credentials_exposed"},
        {"revocation_left", "administrator_with_keys"},
    ),
    "nothing was gathered": (seen(), POSTURE_REASONS - {FindingReason.ROOT_UNWATCHED}, {"root_unwatched"}),
    "nobody watches": (
        seen(summary(), report(), users={}, unwatched="excluded"),
        POSTURE_REASONS - {FindingReason.ROOT_UNWATCHED},
        {"root_unwatched"},
    ),
    "the summary failed once": (
        seen(summary(), report(), users={}, summary_problem=failing(1)),
        ROOT_BY_SUMMARY,
        {"root_used", "key_unused", "report_unreadable"},
    ),
    "the report failed once": (
        seen(summary(), report(), users={}, report_problem=failing(1)),
        {"report_unreadable", "root_used", "key_unused"},
        ROOT_BY_SUMMARY,
    ),
    "which users are managed is not known": (
        seen(summary(), report()),
        {"key_over_max_age", "unmanaged_key_over_max_age", "unlisted_credentials"},
        ROOT_BY_SUMMARY | {"key_unused"},
    ),
}


@pytest.mark.parametrize(("facts", "open_", "decided"), UNDECIDED.values(), ids=UNDECIDED.keys())
def test_what_the_facts_cannot_tell_is_not_clear(
    facts: AccountSeen, open_: AbstractSet[str], decided: AbstractSet[str]
) -> None:
    assert open_ <= undecided(facts)
    assert not decided & undecided(facts)


def test_every_posture_reason_is_found_by_some_case() -> None:
    facts = [case[0] for case in ROOT_KEYS.values()]
    facts += [case[0] for case in ACCOUNT_FINDINGS.values()] + [case[0] for case in USER_FINDINGS.values()]
    assert {reason for each in facts for reason in reasons(each)} == POSTURE_REASONS


def test_a_root_alarm_says_which_keys_and_what_to_do() -> None:
    keys = (key(age=400 * DAY, used=None), key(age=2 * DAY, used=DAY, active=False))
    (finding,) = (f for f in check(seen(summary(keys=True), report(root_row=root(*keys))), NOW) if "key" in f.reason)
    assert f"{ACCOUNT} (shop)" in finding.message
    assert "an active key made 2025-04-27, no use on record" in finding.message
    assert "an inactive key made 2026-05-30, last used 2026-05-31" in finding.message
    assert ACCOUNT in finding.remedy
    assert {"CIS v1.4 1.4", "CIS v4.0 1.4", "CIS v5.0 1.3", "CIS v6.0 2.3", "CIS v7.0 2.4"} <= set(finding.cis)
    assert (finding.account_id, finding.principal) == (ACCOUNT, None)


def test_an_old_managed_key_says_why_it_is_so_old() -> None:
    (finding,) = check(users_of(row(key(age=97 * DAY)), users=managed()), NOW)
    assert finding.message.endswith('97 days old, policy "default" allows 90 days, because the old key is still used')
    assert finding.remedy.startswith("run: rekeyd explain ci --account 111122223333")


def test_a_denied_look_names_the_missing_permission() -> None:
    (finding,) = check(seen(summary_problem=DENIED), NOW)
    assert "iam:GetAccountSummary" in finding.message
    assert "allow iam:GetAccountSummary" in finding.remedy


def test_a_failing_look_says_how_often_it_failed() -> None:
    (finding,) = check(seen(summary_problem=failing(5)), NOW)
    assert "5 looks in a row failed, the last: iam:GetAccountSummary was throttled" in finding.message


def test_a_fingerprint_survives_ages_severities_and_words() -> None:
    one, two = (check(users_of(row(key(age=days * DAY)), users=managed()), NOW)[0] for days in (91, 120))
    assert one.message != two.message
    assert one.fingerprint == two.fingerprint
    assert dataclasses.replace(one, severity=Severity.LOW).fingerprint == one.fingerprint


@pytest.mark.parametrize(
    "other",
    [
        {"account_id": AccountId("999988887777")},
        {"principal": "deploy"},
        {"principal": None},
        {"reason": "still_used"},
        {"access_key_id": AccessKeyId("AKIA1")},
        {"access_key_id": None},
    ],
    ids=lambda change: next(iter(change)),
)
def test_a_fingerprint_tells_findings_apart(other: dict[str, object]) -> None:
    finding = refused(Reason.STRAY_KEY, account_id=ACCOUNT, principal="ci", access_key_id=AccessKeyId("AKIA2"))
    assert finding is not None
    changed: Finding = dataclasses.replace(finding, **other)  # type: ignore[arg-type]
    assert changed.fingerprint != finding.fingerprint


def test_a_refused_principal_is_a_finding_with_its_reasons_severity() -> None:
    finding = refused(Reason.HELD_KEY_DEAD, account_id=ACCOUNT, principal="ci")
    assert finding is not None
    assert (finding.severity, finding.reason) == (Severity.CRITICAL, "held_key_dead")
    assert finding.message == Reason.HELD_KEY_DEAD.sentence


def test_a_refusal_can_be_louder_than_usual_and_stays_the_same_finding() -> None:
    usual = refused(Reason.STILL_USED, account_id=ACCOUNT, principal="ci")
    louder = refused(Reason.STILL_USED, account_id=ACCOUNT, principal="ci", severity=Severity.HIGH)
    assert usual is not None
    assert louder is not None
    assert (usual.severity, louder.severity) == (Severity.MEDIUM, Severity.HIGH)
    assert usual.fingerprint == louder.fingerprint


def test_a_principal_that_merely_waits_is_no_finding() -> None:
    assert refused(Reason.NOT_DUE, account_id=ACCOUNT, principal="ci") is None


@pytest.mark.parametrize("reason", list(FindingReason))
def test_every_finding_has_all_its_words(reason: FindingReason) -> None:
    finding = found(reason, account_id=ACCOUNT, principal="ci")
    assert finding.message == reason.sentence
    assert finding.remedy
    assert "{" not in finding.remedy
    assert finding.severity in Severity


@pytest.mark.parametrize("reason", [reason for reason in Reason if reason.severity is not None])
def test_every_refusal_says_what_to_do(reason: Reason) -> None:
    finding = refused(reason, account_id=ACCOUNT, principal="ci", access_key_id=AccessKeyId("AKIA1"))
    assert finding is not None
    assert finding.remedy
    assert "{" not in finding.remedy


def test_no_spelling_means_two_things() -> None:
    assert not {reason.value for reason in FindingReason} & {reason.value for reason in Reason}


def test_remedies_are_written_only_for_refusals() -> None:
    assert {reason for reason in findings_text._REFUSAL_REMEDIES if reason.severity is None} == set()


def test_of_report_and_cloudtrail_the_newest_use_of_the_root_user_is_told() -> None:
    reported = seen(summary(), report(root_row=root(password_used=HOUR)), users={})
    for by_trail, told in ((2 * HOUR, HOUR), (timedelta(minutes=1), timedelta(minutes=1))):
        facts = replace(reported, root_seen_used_at=NOW - by_trail)
        assert root_used_at(facts) == NOW - told
        (finding,) = [each for each in check(facts, NOW) if each.reason == "root_used"]
        assert f"{NOW - told:%Y-%m-%d %H:%M} UTC" in finding.message


def test_a_revocation_that_is_left_is_told_with_its_moment_and_policy() -> None:
    facts = with_rights(users_of(row(key()), users=managed()), revoked=LONGEST_SESSION)
    (finding,) = check(facts, NOW)
    assert finding.account_id == facts.account_id
    before = NOW - LONGEST_SESSION
    assert (
        f"inline policy rekeyd-revoked-sessions, for those issued before {before:%Y-%m-%d %H:%M} UTC" in finding.message
    )


def test_a_cloudtrail_that_may_not_be_asked_is_listed_with_the_permission_and_wakes_nobody() -> None:
    refused = Unreadable(
        denied=True, failures_in_a_row=1, detail="cloudtrail:LookupEvents for 111122223333 was refused: AccessDenied"
    )
    (finding,) = check(replace(CLEAR, trail_unreadable=refused), NOW)
    assert (finding.severity, finding.account_id) == (Severity.LOW, CLEAR.account_id)
    assert "cloudtrail:LookupEvents" in finding.message
    assert "allow cloudtrail:LookupEvents" in finding.remedy
