"""`rekeyd move`: after a place in the configuration changed on purpose, bring the pairs there."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rekeyd.cli import output
from rekeyd.cli.exits import SCHEMA_VERSION, ExitCode, code_of, worst
from rekeyd.cli.options import Session, command
from rekeyd.cli.program import app
from rekeyd.cli.rotate import AccountOption, YesOption, confirm
from rekeyd.errors import Error, StateError, StoppingError, UsageError

if TYPE_CHECKING:
    from rekeyd.app import App
    from rekeyd.cli.targets import Target
    from rekeyd.core.model import AccountId, Place


@dataclass(frozen=True, slots=True, kw_only=True)
class MoveEntry:
    """One entry of `moves[]`."""

    account_id: str
    user_name: str
    outcome: str
    """moved | unchanged | emptied | refused | failed"""
    reason: str
    message: str
    code: ExitCode
    access_key_id: str | None = None
    before: str | None = None
    vault_path: str | None = None
    vault_version: int | None = None

    def entry(self) -> dict[str, Any]:
        return {
            "account_id": self.account_id,
            "user_name": self.user_name,
            "outcome": self.outcome,
            "reason": self.reason,
            "message": self.message,
            "access_key_id": self.access_key_id,
            "before": self.before,
            "vault_path": self.vault_path,
            "vault_version": self.vault_version,
        }


@command(app, "move")
def move(
    session: Session,
    users: Annotated[
        list[str] | None, typer.Argument(metavar="[USER]...", help="Names of IAM users.", show_default=False)
    ] = None,
    *,
    account: AccountOption = None,
    all_users: Annotated[
        bool, typer.Option("--all", help="Every user whose place changed.", show_default=False)
    ] = False,
    emptied: Annotated[
        bool,
        typer.Option(
            "--emptied",
            help="Move nothing: say that the places they left, into which rekeyd cannot look, are empty.",
            show_default=False,
        ),
    ] = False,
    yes: YesOption = False,
) -> ExitCode:
    """Copy held pairs to the places that the configuration names now, and prove them there.

    The old places stay as they are, and are reported until somebody empties them. Into one at another address rekeyd
    cannot look; --emptied ends its report.
    """
    if bool(users) == all_users:
        raise UsageError("name users, or give --all", hint="not both, and not neither")
    config = session.load()
    from rekeyd.adapters.hardening import forbid_core_dumps
    from rekeyd.app import opened
    from rekeyd.cli import targets
    from rekeyd.cli.person import actor, refuse_other_user
    from rekeyd.cli.stopping import stopped_by_signals

    refuse_other_user(config)
    forbid_core_dumps()
    if config.fleet.mode.value == "observe":
        raise StateError('fleet.mode is "observe", so nothing is changed', hint='set fleet.mode = "enforce"')
    with opened(config, actor=actor()) as opened_app, stopped_by_signals(opened_app.clock):
        opened_app.refuse_root()
        if emptied:
            watched = targets.watched_accounts(opened_app.fleet, account)
            return _report(session, _emptied(opened_app, watched, {name.casefold() for name in users or ()}))
        if users:
            chosen = targets.named(opened_app.fleet, users, account)
        else:
            chosen = _displaced(opened_app, targets.of_policy(opened_app.fleet, None, account, due_only=False))
        if len(chosen) > 1 and not yes:
            confirm(f"move the pairs of {', '.join(target.principal.label for target in chosen)}?")
        return _report(session, [_moved(opened_app, target) for target in chosen])


def _displaced(app_: "App", found: "list[Target]") -> "list[Target]":
    """Those whose pair was published elsewhere."""
    from rekeyd.errors import RefusedError

    published = app_.journal.publications()
    displaced = []
    for target in found:
        before = published.get((target.account_id, target.principal.user_id))
        try:
            if before is not None and app_.rules.place_of(target.principal) != before:
                displaced.append(target)
        except RefusedError:
            displaced.append(target)  # moving it will say why it has no place
    return displaced


def _moved(app_: "App", target: "Target") -> MoveEntry:
    def ended(outcome: str, reason: str, message: str, code: ExitCode) -> MoveEntry:
        return MoveEntry(
            account_id=target.account_id,
            user_name=target.user_name,
            outcome=outcome,
            reason=reason,
            message=message,
            code=code,
        )

    try:
        moved = app_.fleet.move(target.principal)
    except StoppingError:
        return ended("failed", "stopping", "asked to stop; move again", ExitCode.FAILED)
    except Error as error:
        said = error.message if error.hint is None else f"{error.message} ({error.hint})"
        code = code_of(error)
        return ended("refused" if code is ExitCode.REFUSED else "failed", error.code, said, code)
    message = "the pair is there and proven" if moved.changed else "it is there already"
    return MoveEntry(
        account_id=target.account_id,
        user_name=target.user_name,
        outcome="moved" if moved.changed else "unchanged",
        reason="asked",
        message=message,
        code=ExitCode.DONE,
        access_key_id=moved.key_id,
        before=_label(moved.before),
        vault_path=_label(moved.after),
        vault_version=moved.version,
    )


def _emptied(app_: "App", account_ids: "Iterable[AccountId]", names: set[str]) -> list[MoveEntry]:
    """Those of these users, or of all; also of users that are gone. One that rekeyd can look into ends by itself."""
    from rekeyd.cli.person import actor
    from rekeyd.core.model import VaultUnreadable

    said = []
    for left in [left for account_id in account_ids for left in app_.journal.left_places(account_id)]:
        if names and left.user_name.casefold() not in names:
            continue
        blind = isinstance(app_.vault.current(left.place), VaultUnreadable)
        if blind:
            app_.journal.left_place_emptied(left, actor=actor(), at=app_.clock.now())
        where = f"{_label(left.place)} at {left.place.address}"
        said.append(
            MoveEntry(
                account_id=left.account_id,
                user_name=left.user_name,
                outcome="emptied" if blind else "refused",
                reason="asked" if blind else "readable",
                message=f"{where}: {'it is not reported any more' if blind else 'rekeyd looks into it itself'}",
                code=ExitCode.DONE if blind else ExitCode.REFUSED,
                before=_label(left.place),
            )
        )
    return said


def _label(place: "Place") -> str:
    where = f"{place.mount}/{place.path}"
    return f"{place.namespace}/{where}" if place.namespace else where


def _report(session: Session, moves: list[MoveEntry]) -> ExitCode:
    if session.json:
        output.document({"schema_version": SCHEMA_VERSION, "moves": [made.entry() for made in moves]})
    elif not moves:
        output.line("there is nothing to do")
    else:
        for made in moves:
            output.line(f"{made.account_id}/{made.user_name}: {made.outcome}: {made.message}")
            if made.outcome == "moved":
                output.line(f"  from     {made.before}, which stays until you empty it")
                output.line(f"  to       {made.vault_path}, version {made.vault_version}")
    return worst([made.code for made in moves])
