"""Cutting the sessions of an exposed key, for `rotate-now --emergency --revoke-sessions` and `rekeyd alarms sessions`.

The user's sessions are denied by an inline policy that an operator puts, never the daemon's role; the journal says so
before and after. Roles assumed with the key are only listed: their sessions are cut at the role, for all who have it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rekeyd.cli import output
from rekeyd.errors import Error

if TYPE_CHECKING:
    from rekeyd.adapters.aws_operator import Operator
    from rekeyd.app import App
    from rekeyd.cli.targets import Target
    from rekeyd.core.model import AccessKeyId
    from rekeyd.core.sessions import AssumedRole

OperatorOption = Annotated[
    str | None,
    typer.Option(
        "--operator-role-arn",
        metavar="ARN",
        help="The role that may write the user's policy; never the daemon's. [default: this command's own credentials]",
        show_default=False,
    ),
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Revoking:
    """Cuts sessions; `checked` before the rotation begins, so that nothing is found out too late."""

    app: "App"
    operator: "Operator"
    actor: str

    def check(self, targets: "list[Target]") -> None:
        """StateError: the operator cannot be, or must not be, whoever it is."""
        for account_id in dict.fromkeys(target.account_id for target in targets):
            rekeyd = self.app.cloud.sts.caller_identity(account_id)
            self.operator.check(account_id, not_as=rekeyd.arn)

    def revoke(self, target: "Target", key_id: "AccessKeyId | None") -> "dict[str, Any]":
        """One entry of `sessions[]`. An error is in it: the rotation is done all the same."""
        from rekeyd.core.events import Event
        from rekeyd.core.sessions import POLICY_NAME, removable_at
        from rekeyd.fleet.documents import time_text

        clock = self.app.clock
        # An Inactive key is honoured a little longer somewhere, and what it asks for until then is meant too.
        before = (clock.now() + self.app.rules.settle + timedelta(seconds=1)).replace(microsecond=0)
        detail = {"policy": POLICY_NAME, "before": time_text(before)}
        entry: dict[str, Any] = {
            "account_id": target.account_id,
            "user_name": target.user_name,
            "outcome": "failed",
            "message": "",
            "revoked_before": None,
            "removable_at": None,
        }
        try:
            self._record(Event.SESSIONS_REVOKING, target, key_id, detail)
            self.operator.revoke(target.account_id, target.user_name, before=before)
            self._record(Event.SESSIONS_REVOKED, target, key_id, detail)
        except Error as error:
            again = f"rekeyd alarms sessions {target.user_name} --account {target.account_id} --deny"
            hint = f" ({error.hint})" if error.hint else ""
            entry["message"] = f"its sessions are not denied: {error.message}{hint}; again: {again}"
        else:
            entry |= {
                "outcome": "revoked",
                "message": "sessions issued before this moment are denied; consumers make theirs anew",
                "revoked_before": time_text(before),
                "removable_at": time_text(removable_at(before)),
            }
        return entry | roles(self.app, target, key_id)

    def lift(self, target: "Target") -> None:
        from rekeyd.core.events import Event
        from rekeyd.core.sessions import POLICY_NAME

        self.operator.lift(target.account_id, target.user_name)
        self._record(Event.SESSIONS_LIFTED, target, None, {"policy": POLICY_NAME})

    def _record(
        self, event: str, target: "Target", key_id: "AccessKeyId | None", detail: Mapping[str, str | int | None]
    ) -> None:
        self.app.journal.append(
            event,
            at=self.app.clock.now(),
            actor=self.actor,
            account_id=target.account_id,
            user_name=target.user_name,
            access_key_id=key_id,
            detail=detail,
        )


def revoking(app: "App", actor: str, operator_role_arn: str | None) -> Revoking:
    from rekeyd.adapters.aws_operator import Operator

    return Revoking(app=app, operator=Operator(app.cloud.sessions, role_arn=operator_role_arn), actor=actor)


def roles(app: "App", target: "Target", key_id: "AccessKeyId | None") -> "dict[str, Any]":
    """`roles` and `roles_message` of an entry; `roles` None: CloudTrail could not be asked."""
    from rekeyd.adapters.aws_trail import AwsTrail
    from rekeyd.core.sessions import LONGEST_ROLE_SESSION, lives

    if key_id is None:
        return {"roles": None, "roles_message": "which key to look for is not known; name it with --key"}
    now = app.clock.now()
    try:
        seen = AwsTrail(app.cloud.sessions, target.account_id).roles_of(key_id, since=now - LONGEST_ROLE_SESSION)
    except Error as error:
        return {"roles": None, "roles_message": f"which roles were assumed cannot be told: {error.message}"}
    where = " and ".join(seen.regions)
    more = "" if seen.complete else "; there is more than was asked for"
    again = f"rekeyd alarms sessions {target.user_name} --account {target.account_id} --key {key_id}"
    return {
        "roles": [_role(role) for role in seen.roles if lives(role, now)],
        "roles_message": f"by CloudTrail of {where}{more}; it is about 15 minutes late, so look again: {again}",
    }


def _role(role: "AssumedRole") -> "dict[str, Any]":
    from rekeyd.fleet.documents import time_text

    name = role.role_arn.rpartition("/")[2]
    return {
        "role_arn": role.role_arn,
        "session_name": role.session_name,
        "signed_by": role.signed_by,
        "at": time_text(role.at),
        "ends_at": time_text(role.ends_at),
        "remedy": f"IAM console > Roles > {name} > Revoke sessions; it cuts the sessions of everybody who has the role",
    }


def show(entry: "dict[str, Any]") -> None:
    who = f"{entry['account_id']}/{entry['user_name']}"
    if entry["revoked_before"] is not None:
        output.line(f"{who}: {entry['message']}: {entry['revoked_before']}")
        output.line(
            f"  no such session can live after {entry['removable_at']}; then: "
            f"rekeyd alarms sessions {entry['user_name']} --account {entry['account_id']} --remove"
        )
    else:
        output.line(f"{who}: {entry['message']}")
    for role in entry["roles"] or ():
        ends = role["ends_at"] or "within 12 hours"
        output.line(f"  role {role['role_arn']}, session {role['session_name']}, since {role['at']}, ends {ends}")
        output.line(f"    not cut by this: {role['remedy']}")
    if entry["roles"] == []:
        output.line(f"  no role assumed with it is open, {entry['roles_message']}")
    else:
        output.say(f"roles: {entry['roles_message']}")
