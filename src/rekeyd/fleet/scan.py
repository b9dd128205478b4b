"""Which users of an account need a look now. Calls, not users: a scan costs a constant plus the users it selects.

The credential report only selects; it can be hours old, and every act is decided on
fresh answers. A full look at every managed user (drift) runs on its own clock.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from rekeyd.core.model import AccountId, Principal, Selection, UserId
from rekeyd.core.policy import Policy, due_at, select
from rekeyd.ports import CredentialReport, PrincipalStatus, ReportRow


@dataclass(frozen=True, slots=True, kw_only=True)
class Scan:
    account_id: AccountId
    users: tuple[Principal, ...]
    report: CredentialReport | None
    """None: it could not be had; only the drift look and the journal select then."""
    scanned_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class ToLookAt:
    look: tuple[Principal, ...]
    managed: int
    due: int
    """Of `look`: because the report shows a key at its age."""


def fingerprint(row: ReportRow) -> tuple[object, ...]:
    """What must not change without a look: the keys' dates and states, not their use."""
    return tuple(sorted((key.created_at, key.active) for key in row.keys)), row.more_credentials


def users_to_look_at(
    scan: Scan,
    policies: Sequence[Policy],
    *,
    statuses: Mapping[UserId, PrincipalStatus],
    open_users: Collection[UserId],
    asked: Collection[str],
    rows_before: Mapping[str, tuple[object, ...]],
    drift: bool,
    now: datetime,
) -> ToLookAt:
    """`asked`: casefolded user names with a pending request. `rows_before`: fingerprints of the last report by ARN."""
    # First those for whom there is something to do: a process that dies in every pass must come to them all the same.
    first, rest, managed, due = [], [], 0, 0
    for user in scan.users:
        selected = select(policies, user)
        is_managed = selected.selection is not Selection.LEFT
        managed += is_managed
        is_due = selected.policy is not None and _due_by_report(scan, selected.policy, user, now)
        due += is_due
        if not is_managed:
            if user.user_id in open_users or user.user_id in statuses:
                first.append(user)
            continue
        if (
            is_due
            or user.user_id in open_users
            or user.user_name.casefold() in asked
            or _status_wants(statuses.get(user.user_id), now)
        ):
            first.append(user)
        elif drift or _row_changed(scan, user, rows_before):
            rest.append(user)
    return ToLookAt(look=(*first, *rest), managed=managed, due=due)


def _due_by_report(scan: Scan, policy: Policy, user: Principal, now: datetime) -> bool:
    row = None if scan.report is None else scan.report.users.get(user.arn)
    if row is None:
        return False
    # The report's dates are IAM's own; an inactive key still counts as a slot that may be in the way.
    return any(due_at(policy, user, key.created_at) <= now for key in row.keys)


def _row_changed(scan: Scan, user: Principal, rows_before: Mapping[str, tuple[object, ...]]) -> bool:
    row = None if scan.report is None else scan.report.users.get(user.arn)
    before = rows_before.get(user.arn)
    return row is not None and before is not None and before != fingerprint(row)


def _status_wants(status: PrincipalStatus | None, now: datetime) -> bool:
    return status is not None and status.next_at is not None and status.next_at <= now
