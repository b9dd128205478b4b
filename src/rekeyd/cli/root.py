"""`rekeyd root`: the root users of all accounts, and the end of their access keys. The daemon does none of it."""

import sys
from datetime import timedelta
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rekeyd.cli import output
from rekeyd.cli.exits import SCHEMA_VERSION, ExitCode
from rekeyd.cli.options import Session, command, group
from rekeyd.cli.program import app
from rekeyd.cli.rotate import AccountOption, duration
from rekeyd.errors import AccessDeniedError, Error, OutcomeUnknownError, StateError, StoppingError, UsageError

if TYPE_CHECKING:
    from datetime import datetime

    from rekeyd.adapters.aws_accounts import AwsCloud
    from rekeyd.adapters.aws_root import RootAccess, RootKey, RootUser
    from rekeyd.app import App
    from rekeyd.core.model import AccessKeyId, AccountId

root = group("Root users of all accounts: look at them, and delete their access keys.")
app.add_typer(root, name="root")


@command(root, "audit")
def audit(session: Session, *, account: AccountOption = None) -> ExitCode:
    """Show each account's root user: password, access keys with age and last use, MFA, certificates.

    Member accounts are entered with sts:AssumeRoot where the organization has centralized root access and these
    credentials may, all others with their role. Exit code 3 if a root user has an access key, 1 if an account could
    not be looked at.
    """
    from rekeyd.adapters.aws_accounts import AwsCloud
    from rekeyd.adapters.aws_root import RootAccess
    from rekeyd.adapters.clock import SystemClock
    from rekeyd.app import aws_settings

    config = session.load()
    clock = SystemClock()
    now = clock.now()
    cloud = AwsCloud(aws_settings(config), clock, instance=config.journal.instance)
    accounts = cloud.accounts()
    watched = [each for each in accounts.watched if account in (None, each)]
    unwatched = {each: why for each, why in sorted(accounts.unwatched.items()) if account in (None, each)}
    if not watched and not unwatched:
        raise UsageError(f"account {account} is not watched", hint="rekeyd config show")
    access = RootAccess(cloud.sessions)
    central = _enabled(access)
    entries = []
    with output.progress("root users", len(watched)) as bar:
        for account_id in watched:
            entries.append(_looked(cloud, access if central else None, account_id, now))
            bar.step()
    entries += [_entry(None, each, "not looked at", why, now) for each, why in unwatched.items()]
    if session.json:
        output.document({"schema_version": SCHEMA_VERSION, "centralized_root_access": central, "accounts": entries})
    else:
        _show(entries)
        if not central:
            output.say("centralized root access is off, or may not be asked about; its keys' ids are not known then")
    if any(entry["keys"] for entry in entries):
        return ExitCode.CRITICAL
    return ExitCode.FAILED if any(entry["error"] for entry in entries) else ExitCode.DONE


@command(root, "delete-keys")
def delete_keys(
    session: Session,
    *,
    account: Annotated[str, typer.Option("--account", metavar="ID", help="The member account.", show_default=False)],
    confirm: Annotated[
        str | None,
        typer.Option(
            "--confirm", metavar="ID", help="The account id once more, instead of typing it.", show_default=False
        ),
    ] = None,
    unused_for: Annotated[
        str, typer.Option("--unused-for", metavar="DURATION", help="Refuse if a key was used, or made, more recently.")
    ] = "90d",
    force_used: Annotated[
        bool, typer.Option("--force-used", help="Delete keys that were used recently, too.", show_default=False)
    ] = False,
    operator_role_arn: Annotated[
        str | None,
        typer.Option(
            "--operator-role-arn",
            metavar="ARN",
            help="The role that may delete root keys; never the daemon's. [default: this command's own credentials]",
            show_default=False,
        ),
    ] = None,
) -> ExitCode:
    """Delete all access keys of a member account's root user. There is no undo, and no deactivating first.

    It needs the rights of `rekeyd policy aws --for root-cleanup`, which the daemon's role must not have.
    """
    from rekeyd.adapters.aws_root import NotEnteredError, RootAccess
    from rekeyd.app import opened
    from rekeyd.cli.person import actor, refuse_other_user
    from rekeyd.core.model import AccountId

    config = session.load()
    refuse_other_user(config)
    silence = duration("--unused-for", unused_for)
    account_id = AccountId(account)
    with opened(config, actor=actor()) as running:
        if account_id == running.cloud.sessions.own_account_id():
            raise StateError(
                f"account {account_id} is the one of these credentials, whose root user cannot be entered from outside",
                hint=_BY_HAND.format(account_id=account_id),
            )
        access = RootAccess(running.cloud.sessions, operator_role_arn=operator_role_arn)
        access.refuse_rekeyd(account_id, enter=running.cloud.sts.caller_identity)
        try:
            keys = access.keys(account_id)
        except NotEnteredError as error:
            by_hand = _BY_HAND.format(account_id=account_id)
            raise NotEnteredError(
                error.message,
                hint=f"{error.hint}; the management account's root user cannot be entered at all: {by_hand}",
            ) from None
        if not keys:
            return _deleted(session, account_id, ())
        _show_keys(account_id, keys, running.clock.now())
        _refuse_used(keys, running.clock.now(), silence, forced=force_used)
        output.say("There is no undo: a deleted key cannot be brought back, and it cannot be deactivated first.")
        _ask(account_id, confirm)
        _delete(running, access, account_id, keys, by=actor())
        left = access.keys(account_id)
    if left:
        raise Error(
            f"{len(left)} access keys of the root user of {account_id} are still listed; look again in a minute"
        )
    return _deleted(session, account_id, keys)


_BY_HAND = (
    "sign in as its root user (https://signin.aws.amazon.com, root user), then account name > Security credentials > "
    "Access keys: Actions > Deactivate, wait until nobody misses it, Actions > Delete. Account {account_id}"
)


def _enabled(access: "RootAccess") -> bool:
    try:
        return access.enabled()
    except AccessDeniedError as error:
        output.say(f"{error.message}; member accounts are entered with their role")
        return False


def _looked(cloud: "AwsCloud", access: "RootAccess | None", account_id: "AccountId", now: "datetime") -> dict[str, Any]:
    member = access is not None and account_id != cloud.sessions.own_account_id()
    via = "root session" if member else "role"
    from rekeyd.adapters.aws_root import NotEnteredError

    try:
        if access is not None and member:
            try:
                return _entry(access.look(account_id), account_id, via, None, now)
            except NotEnteredError as error:
                # From a delegated administrator's account no root session reaches the management account.
                output.say(f"{error.message}; account {account_id} is entered with its role")
                via = "role"
        user, problem = _by_role(cloud, account_id)
    except Error as error:
        return _entry(None, account_id, via, error.message, now)
    return _entry(user, account_id, via, problem, now)


def _by_role(cloud: "AwsCloud", account_id: "AccountId") -> "tuple[RootUser, str | None]":
    """And what could not be read of it. The summary is live: a report that fails, or does not know the key yet, must
    not hide that there is one."""
    from rekeyd.adapters.aws_root import RootKey, RootUser

    iam = cloud.iam(account_id)
    summary = iam.account_summary()
    keys: tuple[RootKey, ...] = ()
    certificates = summary.root_certificates_present
    problem = None
    if summary.root_access_keys_present:
        row = None
        try:
            row = iam.credential_report(max_wait=timedelta(seconds=30)).root
        except StoppingError:
            raise
        except Error as error:
            problem = error.message
        if row is not None:
            keys = tuple(
                RootKey(
                    id=None,
                    active=key.active,
                    created_at=key.created_at,
                    last_used_at=key.last_used_at,
                    last_service=key.last_service,
                )
                for key in row.keys
            )
            certificates = row.certificates_active if certificates is None else certificates
        keys = keys or (RootKey(id=None),)
    user = RootUser(
        account_id=account_id,
        keys=keys,
        password=summary.root_password_present,
        mfa=summary.root_mfa_enabled,
        certificates=certificates,
    )
    return user, problem


def _refuse_used(keys: "tuple[RootKey, ...]", now: "datetime", silence: timedelta, *, forced: bool) -> None:
    """A key without a use on record counts from when it was made: its first use may not show yet."""
    since = {key: key.last_used_at or key.created_at for key in keys}
    recent = [key for key, at in since.items() if at is None or now - at < silence]
    if recent and not forced:
        named = ", ".join(str(key.id) for key in recent)
        raise StateError(
            f"{named}: used, or made, within the last {output.span(silence)}; somebody may depend on it",
            hint="find out who (CloudTrail, User name = root); then --force-used",
        )


def _ask(account_id: "AccountId", confirm: str | None) -> None:
    if confirm is None:
        if not sys.stdin.isatty():
            raise UsageError("there is no terminal to type the account id at", hint=f"--confirm {account_id}")
        confirm = typer.prompt("Type the account id to delete these keys", err=True)
    if confirm.strip() != account_id:
        raise UsageError(f'"{confirm.strip()}" is not the account id {account_id}; nothing was deleted')


def _delete(
    running: "App", access: "RootAccess", account_id: "AccountId", keys: "tuple[RootKey, ...]", *, by: str
) -> None:
    """The intent is audited before, the outcome after: a key that is gone must have a name in the audit trail."""
    from rekeyd.core.events import Event
    from rekeyd.logs import get_logger

    for key in keys:
        if key.id is None or key.created_at is None:
            raise Error("a root access key without an id cannot be deleted")
        detail = {"status": "Active" if key.active else "Inactive", "made_at": key.created_at.isoformat()}
        for event, step in (("root_key.delete_intended", None), ("root_key.deleted", key.id)):
            if step is not None:
                _delete_one(access, account_id, step)
                get_logger().warning(Event.ROOT_KEY_DELETED, account_id=account_id, access_key_id=key.id, by=by)
            running.journal.append(
                event, at=running.clock.now(), actor=by, account_id=account_id, access_key_id=key.id, detail=detail
            )


def _delete_one(access: "RootAccess", account_id: "AccountId", key_id: "AccessKeyId") -> None:
    try:
        access.delete_key(account_id, key_id)
    except OutcomeUnknownError:
        # Its answer was lost: that it is gone can be seen.
        if any(key.id == key_id for key in access.keys(account_id)):
            raise


def _deleted(session: Session, account_id: "AccountId", keys: "tuple[RootKey, ...]") -> ExitCode:
    if session.json:
        ids = [key.id for key in keys]
        output.document({"schema_version": SCHEMA_VERSION, "account_id": account_id, "deleted": ids})
    elif keys:
        count = "1 access key" if len(keys) == 1 else f"{len(keys)} access keys"
        output.line(f"deleted: {count} of the root user of account {account_id}")
    else:
        output.line(f"the root user of account {account_id} has no access key")
    return ExitCode.DONE


def _show_keys(account_id: "AccountId", keys: "tuple[RootKey, ...]", now: "datetime") -> None:
    output.say(f"the root user of account {account_id} has:")
    for key in keys:
        output.say(f"  {_key_line(_key_entry(key, now))}")


def _entry(
    user: "RootUser | None", account_id: "AccountId", via: str, error: str | None, now: "datetime"
) -> dict[str, Any]:
    return {
        "account_id": account_id,
        "via": via,
        "keys": [] if user is None else [_key_entry(key, now) for key in user.keys],
        "password": None if user is None else user.password,
        "mfa": None if user is None else user.mfa,
        "certificates": None if user is None else user.certificates,
        "error": error,
    }


def _key_entry(key: "RootKey", now: "datetime") -> dict[str, Any]:
    from rekeyd.fleet.documents import time_text

    return {
        "access_key_id": key.id,
        "status": None if key.active is None else ("Active" if key.active else "Inactive"),
        "created_at": time_text(key.created_at),
        "age_days": None if key.created_at is None else (now - key.created_at).days,
        "last_used_at": time_text(key.last_used_at),
        "last_used_service": key.last_service,
    }


def _key_line(key: dict[str, Any]) -> str:
    name = key["access_key_id"] or "key"
    if key["created_at"] is None:
        return f"{name}: status, age and last use unknown"
    used = f"last used {key['last_used_at']}" if key["last_used_at"] else "no use on record"
    service = f" ({key['last_used_service']})" if key["last_used_service"] else ""
    return f"{name} {key['status']}, {key['age_days']}d old, {used}{service}"


def _show(entries: list[dict[str, Any]]) -> None:
    output.table(
        ("account", "via", "keys", "password", "MFA", "certificates", "message"),
        [
            (
                each["account_id"],
                each["via"],
                "; ".join(map(_key_line, each["keys"])) or ("?" if each["error"] else "none"),
                _yes(each["password"]),
                _yes(each["mfa"]),
                _yes(each["certificates"]),
                each["error"],
            )
            for each in entries
        ],
    )


def _yes(value: bool | None) -> str:  # noqa: FBT001 - a cell of a table
    return "?" if value is None else ("yes" if value else "no")
