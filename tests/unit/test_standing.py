"""What `audit` takes from the journal: open alarms that its live look could neither find nor clear, each once."""

from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest

from rekeyd.cli.audit import _entries
from rekeyd.core.findings import AccountSeen, Finding, FindingReason, Unreadable, found, refused
from rekeyd.core.model import AccessKeyId, AccountId
from rekeyd.core.posture import AccountSummary
from rekeyd.core.reasons import Reason, Severity
from rekeyd.fleet.posture import exposed_findings
from rekeyd.fleet.standing import Looked, standing
from rekeyd.ports import Alarm, ExposedKey

ACCOUNT, UNLISTED, ELSEWHERE = AccountId("111122223333"), AccountId("222233334444"), AccountId("333344445555")
NOW = datetime.fromisoformat("2026-01-31T00:00:00Z")
DAY = timedelta(days=1)
BLIND = Unreadable(denied=False, failures_in_a_row=1, detail="no answer")
SEEN = AccountSeen(
    account_id=ACCOUNT,
    seen_at=NOW,
    summary=AccountSummary(root_access_keys_present=False, root_mfa_enabled=True, root_password_present=False, users=1),
    managed={},
)
LOOKED = Looked(
    accounts={ACCOUNT: SEEN, UNLISTED: replace(SEEN, account_id=UNLISTED, summary_unreadable=BLIND)},
    watched=frozenset({ACCOUNT, UNLISTED}),
    listed=frozenset({ACCOUNT}),
    failed=frozenset({(ACCOUNT, "unseen")}),
)


def alarm_of(finding: Finding, **changes: Any) -> Alarm:
    alarm = Alarm(
        fingerprint=finding.fingerprint,
        severity=finding.severity.value,
        reason=finding.reason,
        account_id=finding.account_id,
        principal=finding.principal,
        message=finding.message,
        remedy=finding.remedy,
        cis=finding.cis,
        first_seen_at=NOW - DAY,
        last_seen_at=NOW - DAY,
        notified_at=NOW - DAY,
    )
    return replace(alarm, **changes)


def refusal(
    reason: Reason, account_id: AccountId = ACCOUNT, principal: str = "ci", key: AccessKeyId | None = None
) -> Finding:
    made = refused(reason, account_id=account_id, principal=principal, access_key_id=key)
    assert made is not None
    return made


STANDS: dict[str, tuple[Finding, bool]] = {
    "an exposed key": (found(FindingReason.KEY_EXPOSED, account_id=ACCOUNT, principal="ci"), True),
    "Vault that the daemon could not use": (found(FindingReason.VAULT_UNREACHABLE), True),
    "a channel": (found(FindingReason.CHANNEL_FAILING), True),
    "the event queue": (found(FindingReason.EVENTS_UNREADABLE), True),
    "a wait": (found(FindingReason.WAIT_OVERDUE, account_id=ACCOUNT, principal="ci"), True),
    "passes that fail": (found(FindingReason.ACCOUNT_FAILING, account_id=ACCOUNT), True),
    "a place left behind": (found(FindingReason.LEFT_PLACE_NOT_EMPTIED, account_id=ACCOUNT, principal="ci"), True),
    "a step that failed": (refusal(Reason.STEP_FAILED), True),
    "a mark that cannot be kept": (refusal(Reason.MARK_NOT_WRITABLE), True),
    "a journal that was restored": (refusal(Reason.JOURNAL_RESTORED), True),
    "a root key that the look did not find": (found(FindingReason.ROOT_ACCESS_KEY, account_id=ACCOUNT), False),
    "one that it could not look for": (found(FindingReason.ROOT_ACCESS_KEY, account_id=UNLISTED), True),
    "one of an account that is gone": (found(FindingReason.ROOT_ACCESS_KEY, account_id=ELSEWHERE), True),
    "what only a report tells, without one": (found(FindingReason.KEY_UNUSED, account_id=ACCOUNT), True),
    "a refusal that is over": (refusal(Reason.STRAY_KEY), False),
    "one of a user that could not be looked at": (refusal(Reason.STRAY_KEY, principal="unseen"), True),
    "one of an account that could not be listed": (refusal(Reason.STRAY_KEY, UNLISTED), True),
    "an account that can be listed again": (found(FindingReason.ACCOUNT_UNREACHABLE, account_id=ACCOUNT), False),
    "an account that cannot": (found(FindingReason.ACCOUNT_UNREACHABLE, account_id=UNLISTED), True),
    "a brake that was released": (found(FindingReason.ACCOUNT_BRAKED, account_id=ACCOUNT), False),
    "the fleet's brake that was released": (found(FindingReason.FLEET_BRAKED), False),
}


@pytest.mark.parametrize("case", STANDS)
def test_an_alarm_stands_unless_the_look_would_have_found_it(case: str) -> None:
    finding, stands = STANDS[case]
    alarm = alarm_of(finding)
    assert standing([alarm], LOOKED) == ((alarm,) if stands else ())


def test_a_look_is_complete_when_nothing_was_left_out() -> None:
    whole = replace(LOOKED, accounts={}, watched=frozenset(), listed=frozenset(), failed=frozenset())
    assert whole.complete
    assert not replace(whole, watched=frozenset({ACCOUNT})).complete
    assert not replace(whole, failed=frozenset({(ACCOUNT, "ci")})).complete
    assert not replace(
        whole, accounts={ACCOUNT: SEEN}, watched=frozenset({ACCOUNT}), listed=frozenset({ACCOUNT})
    ).complete, "without a report"


def entries(findings: list[Finding], *alarms: Alarm) -> list[tuple[str, str | None, str]]:
    told = _entries(findings, alarms, LOOKED, NOW)
    return [(each["reason"], each["principal"], each["first_seen_at"][:10]) for each in told]


def test_the_audit_names_every_exposed_key_once_whether_the_daemon_has_raised_it_or_not() -> None:
    keys = [
        ExposedKey(
            key_id=AccessKeyId(name), account_id=ACCOUNT, user_name="ci", told_by="x", told_at=NOW, because="paste"
        )
        for name in ("AKIAONE", "AKIATWO", "AKIATHREE")
    ]
    one, two, three = exposed_findings(keys)
    told = _entries([one, two], [alarm_of(two), alarm_of(three)], LOOKED, NOW)
    assert [each["message"] for each in told] == [one.message, two.message, three.message]
    assert {each["severity"] for each in told} == {"critical"}


def test_a_failure_that_the_look_found_too_is_one_entry() -> None:
    failed = refusal(Reason.STEP_FAILED, key=AccessKeyId("AKIAOLD"))
    assert entries([refusal(Reason.STEP_FAILED)], alarm_of(failed)) == [("step_failed", "ci", "2026-01-30")]
    assert entries([], alarm_of(failed)) == [("step_failed", "ci", "2026-01-30")]


@pytest.mark.parametrize(
    ("severity", "shown"),
    [("critical", "ticket 4711"), ("medium", None)],
    ids=["as it was", "a lesser one was acknowledged"],
)
def test_the_audit_says_who_knows_of_a_finding(severity: str, shown: str | None) -> None:
    root_key = found(FindingReason.ROOT_ACCESS_KEY, account_id=ACCOUNT)
    alarm = alarm_of(
        root_key,
        severity=Severity(severity).value,
        acknowledged_until=NOW + DAY,
        acknowledged_by="user:ann",
        acknowledged_because="ticket 4711",
    )
    (entry,) = _entries([root_key], [alarm], LOOKED, NOW)
    assert (entry["severity"], entry.get("acknowledged_because")) == ("critical", shown)
