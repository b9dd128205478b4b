"""Which users a scan looks at: all that could need something, and no others."""

from dataclasses import replace
from datetime import datetime, timedelta

import pytest

from rekeyd.core.model import Principal, UserId
from rekeyd.core.policy import Match, Policy, due_at
from rekeyd.core.reasons import Reason
from rekeyd.fleet.scan import Scan, ToLookAt, fingerprint, users_to_look_at
from rekeyd.ports import CredentialReport, PrincipalStatus, ReportKey, ReportRow
from tests.unit.test_decide import DAY, NOW, SECOND, USER

POLICY = Policy(name="default", match=Match(users=("ci*",)))
OTHER = replace(USER, user_name="web", user_id=UserId("AIDAWEB"), arn="arn:aws:iam::111122223333:user/web")
DUE_SINCE_NOW = NOW - (due_at(POLICY, USER, NOW) - NOW)
"""Made then, a key of USER falls due now."""


def row(*made: datetime, active: bool = True, user: Principal = USER, more: bool = False) -> ReportRow:
    return ReportRow(
        user_name=user.user_name,
        arn=user.arn,
        keys=tuple(ReportKey(active=active, created_at=at, last_used_at=None) for at in made),
        password_enabled=False,
        password_last_used_at=None,
        mfa_active=False,
        more_credentials=more,
    )


def report(*rows: ReportRow) -> CredentialReport:
    return CredentialReport(generated_at=NOW - DAY, root=None, users={each.arn: each for each in rows})


def status(next_at: datetime | None, user: Principal = USER) -> dict[UserId, PrincipalStatus]:
    found = PrincipalStatus(
        account_id=user.account_id,
        user_name=user.user_name,
        user_id=user.user_id,
        policy="default",
        state="fresh",
        reason=Reason.NOT_DUE,
        message="",
        held_access_key_id=None,
        old_access_key_id=None,
        held_created_at=None,
        oldest_active_at=None,
        next_at=next_at,
        looked_at=NOW - DAY,
    )
    return {user.user_id: found}


YOUNG = row(NOW - DAY)


def scan_for(
    user: Principal = USER,
    shown: CredentialReport | None = report(YOUNG),  # noqa: B008 - immutable
    *,
    policies: tuple[Policy, ...] = (POLICY,),
    statuses: dict[UserId, PrincipalStatus] | None = None,
    open_users: frozenset[UserId] = frozenset(),
    asked: frozenset[str] = frozenset(),
    before: dict[str, tuple[object, ...]] | None = None,
    drift: bool = False,
) -> ToLookAt:
    return users_to_look_at(
        Scan(account_id=user.account_id, users=(user,), report=shown, scanned_at=NOW),
        policies,
        statuses={} if statuses is None else statuses,
        open_users=open_users,
        asked=asked,
        rows_before={} if before is None else before,
        drift=drift,
        now=NOW,
    )


def looks(answer: ToLookAt) -> bool:
    return bool(answer.look)


def test_a_young_user_is_left_alone() -> None:
    assert scan_for() == ToLookAt(look=(), managed=1, due=0)


def test_a_user_is_looked_at_from_the_moment_its_key_is_due_by_the_report() -> None:
    assert scan_for(shown=report(row(DUE_SINCE_NOW))) == ToLookAt(look=(USER,), managed=1, due=1)
    assert scan_for(shown=report(row(DUE_SINCE_NOW + SECOND))) == ToLookAt(look=(), managed=1, due=0)


def test_one_old_key_of_two_is_enough_even_an_inactive_one() -> None:
    assert looks(scan_for(shown=report(row(NOW - DAY, DUE_SINCE_NOW))))
    assert looks(scan_for(shown=report(row(DUE_SINCE_NOW, active=False))))


def test_a_drift_look_is_at_every_managed_user_and_no_other() -> None:
    assert scan_for(drift=True) == ToLookAt(look=(USER,), managed=1, due=0)
    assert scan_for(OTHER, drift=True) == ToLookAt(look=(), managed=0, due=0)


def test_what_was_begun_is_looked_at() -> None:
    assert looks(scan_for(open_users=frozenset({USER.user_id})))
    assert not looks(scan_for(open_users=frozenset({OTHER.user_id})))


def test_what_was_asked_is_looked_at_without_regard_to_case() -> None:
    assert looks(scan_for(replace(USER, user_name="CI"), asked=frozenset({"ci"})))
    assert not looks(scan_for(asked=frozenset({"web"})))


@pytest.mark.parametrize(
    ("next_at", "wanted"), [(NOW, True), (NOW + SECOND, False), (NOW - DAY, True), (None, False)], ids=str
)
def test_a_wait_that_ended_is_looked_at(next_at: datetime | None, *, wanted: bool) -> None:
    assert looks(scan_for(statuses=status(next_at))) is wanted


CHANGES: dict[str, ReportRow] = {
    "a key more": row(NOW - DAY, NOW - 2 * DAY),
    "a key less": row(),
    "another key": row(NOW - DAY + SECOND),
    "another status": row(NOW - DAY, active=False),
    "more keys than the report has columns for": row(NOW - DAY, more=True),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_row_that_changed_is_looked_at(change: str) -> None:
    before = {USER.arn: fingerprint(YOUNG)}
    assert looks(scan_for(shown=report(CHANGES[change]), before=before))
    assert not looks(scan_for(before=before))


def test_a_use_and_the_order_of_keys_change_no_row() -> None:
    two = row(NOW - DAY, NOW - 2 * DAY)
    turned = replace(two, keys=tuple(replace(key, last_used_at=NOW) for key in reversed(two.keys)))
    assert fingerprint(two) == fingerprint(turned)


def test_a_row_that_was_never_seen_before_waits_for_the_drift_look() -> None:
    assert not looks(scan_for(before={OTHER.arn: fingerprint(YOUNG)}))


def test_without_a_report_the_journal_and_the_drift_look_still_select() -> None:
    assert not looks(scan_for(shown=None))
    assert looks(scan_for(shown=None, open_users=frozenset({USER.user_id})))
    assert looks(scan_for(shown=None, drift=True))
    assert not looks(scan_for(shown=report(row(NOW - 900 * DAY, user=OTHER))))


def test_a_user_that_left_its_policy_is_looked_at_while_something_is_left_of_it() -> None:
    assert not looks(scan_for(OTHER, shown=report(row(NOW - 900 * DAY, user=OTHER)), asked=frozenset({"web"})))
    assert scan_for(OTHER, open_users=frozenset({OTHER.user_id})) == ToLookAt(look=(OTHER,), managed=0, due=0)
    assert looks(scan_for(OTHER, statuses=status(None, OTHER)))


def test_a_user_whose_policy_cannot_be_told_counts_as_managed_and_not_as_due() -> None:
    unread = replace(USER, tags=None)
    by_tag = (Policy(name="by-tag", match=Match(tags={"team": "*"})),)
    assert scan_for(unread, report(row(NOW - 900 * DAY)), policies=by_tag) == ToLookAt(look=(), managed=1, due=0)
    assert scan_for(unread, policies=by_tag, drift=True) == ToLookAt(look=(unread,), managed=1, due=0)


def test_each_user_is_judged_by_its_own_row() -> None:
    both = (Policy(name="all"),)
    made = due_at(both[0], OTHER, NOW) - NOW
    shown = report(YOUNG, row(NOW - made - timedelta(days=2), user=OTHER))
    answer = users_to_look_at(
        Scan(account_id=USER.account_id, users=(USER, OTHER), report=shown, scanned_at=NOW),
        both,
        statuses={},
        open_users=(),
        asked=(),
        rows_before={},
        drift=False,
        now=NOW,
    )
    assert answer == ToLookAt(look=(OTHER,), managed=2, due=1)


def test_whoever_is_due_is_looked_at_before_those_at_rest() -> None:
    """A process that dies in every pass, or is stopped in the middle of it, comes to them all the same."""
    everybody = (Policy(name="all"),)
    made = due_at(everybody[0], OTHER, NOW) - NOW
    answer = users_to_look_at(
        Scan(
            account_id=USER.account_id,
            users=(USER, OTHER),
            report=report(YOUNG, row(NOW - made - timedelta(days=2), user=OTHER)),
            scanned_at=NOW,
        ),
        everybody,
        statuses={},
        open_users=(),
        asked=(),
        rows_before={},
        drift=True,
        now=NOW,
    )
    assert answer.look == (OTHER, USER)
