"""Which users a command means: names, accounts and policies of the command line against what IAM lists now."""

import difflib
from collections.abc import Sequence
from dataclasses import dataclass

from rekeyd.core.actions import OpenRotation, Wait
from rekeyd.core.model import AccountId, Principal, Selection
from rekeyd.core.policy import Policy, Selected, select
from rekeyd.core.reasons import Reason
from rekeyd.errors import UsageError
from rekeyd.fleet.passes import Fleet
from rekeyd.fleet.preview import Preview


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    principal: Principal
    selected: Selected

    @property
    def account_id(self) -> AccountId:
        return self.principal.account_id

    @property
    def user_name(self) -> str:
        return self.principal.user_name

    @property
    def policy(self) -> Policy | None:
        return self.selected.policy

    @property
    def refusal(self) -> tuple[Reason, str] | None:
        """Why nobody may ask for this user; None: it is managed."""
        match self.selected.selection:
            case Selection.MANAGED:
                return None
            case Selection.UNKNOWN:
                return Reason.POLICY_UNKNOWN, f"{Reason.POLICY_UNKNOWN.sentence}: its tags could not be read"
            case Selection.LEFT:
                by = self.selected.excluded_by
                why = "no policy matches this user" if by is None else f'policy "{by}" excludes this user'
                return Reason.LEFT_POLICY, why


def watched_accounts(fleet: Fleet, account: str | None) -> tuple[AccountId, ...]:
    """Those to look in. UsageError for one that is not watched."""
    watched = fleet.cloud.accounts().watched
    if account is None:
        return watched
    if account not in watched:
        raise UsageError(f"account {account} is not watched", hint=f"watched: {', '.join(watched) or 'none'}")
    return (AccountId(account),)


def named(fleet: Fleet, names: Sequence[str], account: str | None) -> list[Target]:
    """Each of them exactly once, in the given order. UsageError: unknown, or in several accounts.

    An account that cannot be listed fails the command: the name might be there too.
    """
    preview = Preview(fleet=fleet)
    users = [user for account_id in watched_accounts(fleet, account) for user in preview.list(account_id).users]
    targets: dict[str, Target] = {}
    for name in names:
        # IAM's user names are unique without regard to case.
        found = [user for user in users if user.user_name.casefold() == name.casefold()]
        if not found:
            raise _unknown(name, users, account)
        if len(found) > 1:
            where = ", ".join(user.account_id for user in found)
            raise UsageError(
                f'"{name}" is a user of several accounts: {where}', hint=f"name one: --account {found[0].account_id}"
            )
        targets.setdefault(found[0].label, _target(fleet, found[0]))
    return list(targets.values())


def of_policy(fleet: Fleet, policy: str | None, account: str | None, *, due_only: bool) -> list[Target]:
    """All users that the policy (None: any) manages; `due_only`: those whose rotation is due now, by a live look."""
    if policy is not None:
        check_policy(fleet, policy)
    preview = Preview(fleet=fleet)
    concerned = [user for account_id in watched_accounts(fleet, account) for user in preview.list(account_id).concerned]
    targets = [_target(fleet, user) for user in concerned]
    chosen = [t for t in targets if t.policy is not None and policy in (None, t.policy.name)]
    if not due_only:
        return chosen
    by_user = {target.principal.user_id: target for target in chosen}
    looked = preview.look_at_all([target.principal for target in chosen])
    return [by_user[seen.principal.user_id] for seen in looked if _is_due(seen.action)]


def check_policy(fleet: Fleet, name: str) -> None:
    known = [policy.name for policy in fleet.rules.policies]
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean {near[0]}?" if near else f"policies: {', '.join(known) or 'none'}"
        raise UsageError(f'there is no policy "{name}"', hint=hint)


def _is_due(action: object) -> bool:
    """A person who asks for all that is due does not wait for a window."""
    return isinstance(action, OpenRotation) or (isinstance(action, Wait) and action.reason is Reason.OUTSIDE_WINDOW)


def _target(fleet: Fleet, user: Principal) -> Target:
    return Target(principal=user, selected=select(fleet.rules.policies, user))


def _unknown(name: str, users: Sequence[Principal], account: str | None) -> UsageError:
    where = "in any watched account" if account is None else f"in account {account}"
    near = difflib.get_close_matches(name, [user.user_name for user in users], n=3)
    hint = f"did you mean {' or '.join(near)}?" if near else "`rekeyd plan` lists the users that policies manage"
    return UsageError(f'there is no user "{name}" {where}', hint=hint)
