"""`rekeyd rotate-now`: rotate users at once, whether or not the daemon runs."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rekeyd.cli import output
from rekeyd.cli.exits import SCHEMA_VERSION, ExitCode, worst
from rekeyd.cli.options import Session, command
from rekeyd.cli.program import app
from rekeyd.cli.revoking import OperatorOption, Revoking, revoking
from rekeyd.cli.revoking import show as show_sessions
from rekeyd.errors import StateError, UsageError

if TYPE_CHECKING:
    from datetime import timedelta

    from rekeyd.app import App
    from rekeyd.cli.asking import Asking, Rotated
    from rekeyd.cli.targets import Target
    from rekeyd.core.model import Asked

AccountOption = Annotated[
    str | None, typer.Option("--account", metavar="ID", help="The account of the users.", show_default=False)
]
YesOption = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.", show_default=False)]
LockTimeoutOption = Annotated[
    str,
    typer.Option(
        "--lock-timeout",
        metavar="DURATION",
        help="How long to wait for another process that works on the account.",
    ),
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """What the command line asks for."""

    users: tuple[str, ...]
    account: str | None
    policy: str | None
    all_due: bool
    emergency: bool
    replace: str | None
    revoke_sessions: bool = False
    operator_role_arn: str | None = None

    def check(self) -> None:
        """UsageError for what cannot go together."""
        if not self.users and not self.all_due and self.policy is None:
            raise UsageError("nobody is named", hint="name users, or give --all-due or --policy NAME")
        if self.users and self.all_due:
            raise UsageError("users are named beside --all-due", hint="name users, or give --all-due; not both")
        if self.replace is not None and len(self.users) != 1:
            raise UsageError("--replace is about one key of one user", hint="name exactly one user")
        if self.replace is not None and self.emergency:
            raise UsageError(
                "--replace and --emergency contradict each other",
                hint="--replace lets the named key retire in its own time; --emergency waits for nothing",
            )
        if self.revoke_sessions and not self.emergency:
            raise UsageError(
                "--revoke-sessions goes with --emergency only",
                hint="while the old key stays Active, whoever has it makes new sessions",
            )
        if self.operator_role_arn is not None and not self.revoke_sessions:
            raise UsageError("--operator-role-arn is for --revoke-sessions", hint="give both, or none")


@command(app, "rotate-now")
def rotate_now(
    session: Session,
    users: Annotated[
        list[str] | None, typer.Argument(metavar="[USER]...", help="Names of IAM users.", show_default=False)
    ] = None,
    *,
    account: AccountOption = None,
    policy: Annotated[
        str | None,
        typer.Option("--policy", metavar="NAME", help="Only users of this policy.", show_default=False),
    ] = None,
    all_due: Annotated[
        bool, typer.Option("--all-due", help="Every user whose rotation is due now.", show_default=False)
    ] = False,
    emergency: Annotated[
        bool,
        typer.Option(
            "--emergency",
            help="The key has leaked: no overlap, no windows, no freeze, no brake. The old key is deactivated as soon "
            "as the new one is proven.",
            show_default=False,
        ),
    ] = False,
    revoke_sessions: Annotated[
        bool,
        typer.Option(
            "--revoke-sessions",
            help="With --emergency: also deny sessions that the old key asked for, and list roles assumed with it.",
            show_default=False,
        ),
    ] = False,
    operator_role_arn: OperatorOption = None,
    replace: Annotated[
        str | None,
        typer.Option(
            "--replace",
            metavar="KEY_ID",
            help="Retire this other key of the user first; the rotation follows when it is gone.",
            show_default=False,
        ),
    ] = None,
    wait: Annotated[
        bool, typer.Option("--wait", help="Return only when the old key is deleted.", show_default=False)
    ] = False,
    lock_timeout: LockTimeoutOption = "1m",
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what would happen; change nothing.", show_default=False)
    ] = False,
    yes: YesOption = False,
) -> ExitCode:
    """Rotate users now.

    Even if their keys are young and no window is open. Returns when the new key is in Vault and proven. The
    daemon, or a later rotate-now, retires the old key.
    """
    wish = Wish(
        users=tuple(users or ()),
        account=account,
        policy=policy,
        all_due=all_due,
        emergency=emergency,
        replace=replace,
        revoke_sessions=revoke_sessions,
        operator_role_arn=operator_role_arn,
    )
    wish.check()
    config = session.load()
    timeout = duration("--lock-timeout", lock_timeout)
    from rekeyd.adapters.hardening import forbid_core_dumps
    from rekeyd.app import observing, opened
    from rekeyd.cli.asking import Asking
    from rekeyd.cli.person import actor, refuse_other_user
    from rekeyd.cli.stopping import stopped_by_signals

    if dry_run:
        with observing(config, actor=actor()) as seen:
            return report(session, [_foreseen(seen, target, wish) for target in _targets(seen, wish)], dry_run=True)
    refuse_other_user(config)
    forbid_core_dumps()
    if config.fleet.mode.value == "observe":
        raise StateError(
            'fleet.mode is "observe", so nothing is changed', hint='set fleet.mode = "enforce", or use --dry-run'
        )
    with opened(config, actor=actor()) as opened_app, stopped_by_signals(opened_app.clock):
        opened_app.refuse_root()
        targets = _targets(opened_app, wish)
        cutting = revoking(opened_app, actor(), wish.operator_role_arn) if wish.revoke_sessions else None
        if cutting is not None:
            cutting.check(targets)
        _confirm(wish, targets, yes=yes)
        asking = Asking(app=opened_app, actor=actor(), lock_timeout=timeout)
        rotations, cut = _rotated(asking, targets, wish, wait=wait, cutting=cutting)
        return report(session, rotations, dry_run=False, sessions=cut)


def _rotated(
    asking: "Asking", targets: "Sequence[Target]", wish: Wish, *, wait: bool, cutting: Revoking | None
) -> "tuple[list[Rotated], list[dict[str, Any]] | None]":
    """One user after the other, and what became of their sessions. Asked to stop, the rest is left unchanged."""
    from rekeyd.cli.asking import ended
    from rekeyd.errors import StoppingError

    done: list[Rotated] = []
    cut: list[dict[str, Any]] | None = None if cutting is None else []
    with output.progress("rotating", len(targets)) as progress:
        for target in targets:
            try:
                # With --wait the sessions must not live on for as long as the quarantine lasts.
                done.append(
                    asking.rotate(target, _asked(asking.app, asking.actor, wish), wait=wait and cutting is None)
                )
                if cutting is not None and cut is not None and _is_to_be_cut(target, done[-1]):
                    cut.append(cutting.revoke(target, done[-1].old_key_id))
                if wait and cutting is not None and done[-1].outcome == "published":
                    done[-1] = asking.retired(target, done[-1])
            except StoppingError:
                done.append(asking.stopped(target))
                rest = targets[len(done) :]
                done += [ended(t, "unchanged", "stopping", "not begun: asked to stop", ExitCode.FAILED) for t in rest]
                break
            progress.step()
    return done, cut


def _is_to_be_cut(target: "Target", rotated: "Rotated") -> bool:
    """Also after a rotation that failed: its old key can make new sessions, and those that it made are cut at least."""
    return target.refusal is None and rotated.outcome != "unchanged"


def _asked(app_: "App", by: str, wish: Wish) -> "Asked":
    from rekeyd.core.model import AccessKeyId, Asked

    return Asked(
        by=by,
        at=app_.clock.now(),
        emergency=wish.emergency,
        replace=None if wish.replace is None else AccessKeyId(wish.replace),
    )


def _targets(app_: "App", wish: Wish) -> "list[Target]":
    from rekeyd.cli import targets

    if not wish.users:
        return targets.of_policy(app_.fleet, wish.policy, wish.account, due_only=wish.all_due)
    found = targets.named(app_.fleet, wish.users, wish.account)
    if wish.policy is not None:
        targets.check_policy(app_.fleet, wish.policy)
        for target in found:
            name = None if target.policy is None else target.policy.name
            if name != wish.policy:
                raise UsageError(
                    f'{target.principal.label} is not of policy "{wish.policy}"',
                    hint=f'its policy is "{name}"' if name else "no policy manages it",
                )
    if wish.replace is not None:
        _check_replaced(app_, found[0], wish.replace)
    return found


def _check_replaced(app_: "App", target: "Target", key_id: str) -> None:
    """UsageError: not a key of this user. StateError: it is the held key. Errors: it could not be looked at."""
    from rekeyd.core.model import VaultHeld, VaultUnreadable
    from rekeyd.core.reasons import Reason
    from rekeyd.errors import TemporaryError

    keys = app_.cloud.iam(target.account_id).list_access_keys(target.user_name)
    if key_id not in [key.id for key in keys]:
        listed = ", ".join(f"{key.id} ({key.status.value})" for key in keys) or "none"
        raise UsageError(f"{key_id} is not a key of {target.principal.label}", hint=f"its keys: {listed}")
    match app_.vault.current(app_.rules.place_of(target.principal)):
        case VaultHeld(access_key_id=held) if held == key_id:
            raise StateError(
                Reason.REPLACE_HELD_KEY.sentence, hint=f"without --replace, rotate-now replaces {key_id} in due form"
            )
        case VaultUnreadable(detail=detail):
            raise TemporaryError(f"{Reason.VAULT_UNREADABLE.sentence}: {detail}")
        case _:
            return


def _foreseen(app_: "App", target: "Target", wish: Wish) -> "Rotated":
    """What would become of it; always code 0, since nothing is tried."""
    from rekeyd.cli.asking import ended
    from rekeyd.cli.person import actor
    from rekeyd.core.actions import Rest
    from rekeyd.core.reasons import Reason
    from rekeyd.fleet.preview import Preview

    if target.refusal is not None:
        reason, message = target.refusal
        return ended(target, "refused", reason.value, message, ExitCode.DONE)
    seen = Preview(fleet=app_.fleet).look_at(target.principal, asked=_asked(app_, actor(), wish))
    if seen.error is not None or seen.action is None:
        return ended(target, "failed", Reason.STEP_FAILED.value, seen.message, ExitCode.DONE)
    outcome = "refused" if isinstance(seen.action, Rest) else "planned"
    return ended(target, outcome, seen.action.reason.value, seen.message, ExitCode.DONE)


def _confirm(wish: Wish, targets: "Sequence[Target]", *, yes: bool) -> None:
    """Several users, an emergency and --replace are asked about. UsageError without a terminal."""
    if yes or not targets or not (len(targets) > 1 or wish.emergency or wish.replace is not None):
        return
    what = "rotate" if not wish.emergency else "rotate without any overlap"
    who = ", ".join(target.principal.label for target in targets)
    if wish.replace is not None:
        what = f"remove the key {wish.replace} of, and then rotate,"
    confirm(f"{what} {who}?")


def confirm(question: str) -> None:
    """Goes on after a yes. UsageError: there is no terminal to ask at. typer.Abort: the answer was no."""
    if not sys.stdin.isatty():
        raise UsageError(f"{question} There is no terminal to ask at", hint="give --yes")
    if not typer.confirm(output.printable(question), err=True):
        raise typer.Abort


def duration(option: str, text: str) -> "timedelta":
    """Raises UsageError."""
    from rekeyd.config import parse_duration

    try:
        return parse_duration(text)
    except ValueError as error:
        raise UsageError(f'{option} "{text}" {error}') from None


def report(
    session: Session,
    rotations: "list[Rotated]",
    *,
    dry_run: bool,
    sessions: "list[dict[str, Any]] | None" = None,
) -> ExitCode:
    """Show them, and the exit code they come to. `sessions`: what became of theirs; None: nobody asked."""
    codes = [rotated.code for rotated in rotations]
    codes += [ExitCode.FAILED for each in sessions or () if each["outcome"] == "failed"]
    if session.json:
        asked = {} if sessions is None else {"sessions": sessions}
        output.document({"schema_version": SCHEMA_VERSION, "rotations": [r.entry() for r in rotations], **asked})
    elif not rotations:
        output.line("nothing is due")
    else:
        for rotated in rotations:
            show(rotated, dry_run=dry_run)
        for each in sessions or ():
            show_sessions(each)
    return worst(codes)


def show(rotated: "Rotated", *, dry_run: bool = False) -> None:
    """A user in a few lines."""
    would = "would be " if dry_run and rotated.outcome != "failed" else ""
    output.line(f"{rotated.account_id}/{rotated.user_name}: {would}{rotated.outcome}: {rotated.message}")
    if rotated.new_access_key_id is not None:
        old = f" (before: {rotated.old_access_key_id})" if rotated.old_access_key_id else ""
        output.line(f"  key      {rotated.new_access_key_id}{old}")
    if rotated.vault_path is not None:
        output.line(f"  vault    {rotated.vault_path}, version {rotated.vault_version}")
    if rotated.rotation_id is not None:
        output.line(f"  rotation {rotated.rotation_id}")
