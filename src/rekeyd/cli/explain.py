"""`rekeyd explain`: one user's story: what is seen, what follows from it, and what a person can do."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from rekeyd.cli import output
from rekeyd.cli.exits import SCHEMA_VERSION, ExitCode
from rekeyd.cli.options import Session, command
from rekeyd.cli.plan import action_at, action_name
from rekeyd.cli.program import app
from rekeyd.cli.rotate import AccountOption

if TYPE_CHECKING:
    from datetime import datetime

    from rekeyd.cli.targets import Target
    from rekeyd.core.model import AccessKey, JournalFacts, Observed, VaultSeen
    from rekeyd.core.policy import Policy
    from rekeyd.fleet.preview import Foreseen

_DID = {
    "open_rotation": "a rotation is opened: a new key is created, proven, and published",
    "issue_key": "the open rotation goes on: its key is created, proven, and published",
    "republish": "the older pair is published again",
    "prove_held_key": "the pair that Vault serves is proven",
    "start_retirement": "the other key begins to retire",
    "start_quarantine": "the other key's quarantine begins",
    "claim": "the other key is recognised as made by rekeyd",
    "deactivate": "the other key is deactivated",
    "reactivate": "the key is activated again",
    "delete": "the other key is deleted",
    "burn": "the version in Vault is moved on, so that a late write must fail",
    "close": "the rotation is closed",
    "wait": "it waits",
    "idle": "there is nothing to do",
    "refuse": "nothing is done: it needs a person, or something must pass",
    "look_failed": "it could not be looked at",
}


@command(app, "explain")
def explain(
    session: Session,
    user: Annotated[str, typer.Argument(metavar="USER", help="Name of an IAM user.", show_default=False)],
    *,
    account: AccountOption = None,
) -> ExitCode:
    """Tell one user's story, and what comes next. Looks live; changes nothing."""
    config = session.load()
    from rekeyd.app import observing
    from rekeyd.cli import targets
    from rekeyd.cli.person import actor
    from rekeyd.fleet.preview import Preview

    with observing(config, actor=actor()) as seen:
        (target,) = targets.named(seen.fleet, [user], account)
        foreseen = Preview(fleet=seen.fleet).look_at(target.principal)
        now = seen.clock.now()
    if session.json:
        output.document(_document(target, foreseen, now))
    else:
        for text in _story(target, foreseen, now):
            output.line(text)
    return ExitCode.FAILED if foreseen.error is not None else ExitCode.DONE


def _story(target: "Target", foreseen: "Foreseen", now: "datetime") -> list[str]:
    principal, seen = foreseen.principal, None if foreseen.look is None else foreseen.look.seen
    lines = [f"{principal.label}  ({principal.user_id}, path {principal.path})", "", "policy"]
    lines += [f"  {text}" for text in _policy_lines(target, foreseen.policy)]
    if seen is not None:
        lines += ["", "IAM", *(f"  {text}" for text in _key_lines(seen, now))]
        lines += ["", "Vault", *(f"  {text}" for text in _vault_lines(seen))]
        lines += ["", "journal", *(f"  {text}" for text in _journal_lines(seen.journal, now))]
    lines += ["", "next"]
    lines.append(f"  {_DID[action_name(foreseen)]}, because {foreseen.message}")
    at = action_at(foreseen, now)
    if at is not None and at > now:
        lines.append(f"  it is looked at again at {output.when(at, now)}")
    if (remedy := _remedy(foreseen)) is not None:
        lines.append(f"  what a person can do: {remedy}")
    return lines


def _policy_lines(target: "Target", policy: "Policy | None") -> list[str]:
    if policy is None:
        refusal = target.refusal
        return [refusal[1] if refusal is not None else "none"]
    from rekeyd.config import format_duration as text

    return [
        f'"{policy.name}" is the first that matches',
        f"no key gets older than {text(policy.max_age)}; overlap {text(policy.overlap)}",
        f"quarantine {text(policy.quarantine)}; an old key must have been silent for {text(policy.unused_for)}",
    ]


def _key_lines(seen: "Observed", now: "datetime") -> list[str]:
    if not seen.keys:
        return ["no access key"]
    return [_key_line(key, seen, now) for key in sorted(seen.keys, key=lambda key: key.created_at)]


def _key_line(key: "AccessKey", seen: "Observed", now: "datetime") -> str:
    from rekeyd.core.model import NeverUsed, Used, UseUnknown

    match key.last_use:
        case Used(at=at, service=service, region=region):
            use = f", last used {at:%Y-%m-%dT%H:%M:%SZ} with {service} in {region}"
        case NeverUsed():
            use = ", never used"
        case UseUnknown(detail=detail):
            use = f", last use unknown: {detail}"
        case _:
            use = ""
    held = ", held: Vault serves it" if key.id == seen.held_id else ""
    return f"{key.id}  {key.status.value}, {output.span(now - key.created_at)} old{use}{held}"


def _vault_lines(seen: "Observed") -> list[str]:
    place = f"{seen.place.mount}/{seen.place.path}"
    if seen.place.namespace:
        place += f" in namespace {seen.place.namespace}"
    return [place, _vault_sentence(seen.vault)]


def _vault_sentence(vault: "VaultSeen") -> str:
    from rekeyd.core.model import (
        VaultAbsent,
        VaultDeleted,
        VaultDestroyed,
        VaultHeld,
        VaultUnreadable,
        VaultWithoutPair,
    )

    match vault:
        case VaultHeld(version=version, created_at=at, access_key_id=key_id):
            return f"version {version} of {at:%Y-%m-%dT%H:%M:%SZ} serves {key_id}"
        case VaultAbsent():
            return "nothing is there"
        case VaultDeleted(version=version):
            return f"version {version} was deleted and can be undeleted"
        case VaultDestroyed(version=version):
            return f"version {version} is destroyed"
        case VaultWithoutPair(version=version, fields=fields):
            return f"version {version} has no pair; its fields: {', '.join(fields) or 'none'}"
        case VaultUnreadable(detail=detail):
            return f"it could not be read: {detail}"


def _journal_lines(facts: "JournalFacts", now: "datetime") -> list[str]:
    lines = []
    if (rotation := facts.rotation) is not None:
        by = "the policy" if rotation.asked_by is None else rotation.asked_by
        lines.append(
            f"rotation {rotation.id} ({rotation.kind.value}, asked by {by}) is open since "
            f"{rotation.opened_at:%Y-%m-%dT%H:%M:%SZ} and stands at: {rotation.state.value}"
        )
    for key_id, key in facts.keys.items():
        if key.retirement is not None:
            began = output.span(now - key.retirement.started_at)
            lines.append(f"{key_id} retires ({key.retirement.why.value}) since {began}")
    if facts.unresolved:
        lines.append(f"{len(facts.unresolved)} CreateAccessKey sent whose outcome is not known")
    if facts.publication is not None:
        published = facts.publication
        lines.append(f"last published: {published.access_key_id} as version {published.version}")
    return lines or ["nothing is recorded of this user"]


def _remedy(foreseen: "Foreseen") -> str | None:
    from rekeyd.core.actions import Refuse
    from rekeyd.core.findings import refused

    if not isinstance(foreseen.action, Refuse):
        return None
    finding = refused(
        foreseen.action.reason,
        account_id=foreseen.principal.account_id,
        principal=foreseen.principal.user_name,
        access_key_id=foreseen.action.key_id,
    )
    return None if finding is None else finding.remedy


def _document(target: "Target", foreseen: "Foreseen", now: "datetime") -> dict[str, Any]:
    from rekeyd.core.reasons import Reason
    from rekeyd.fleet.documents import time_text

    principal, seen = foreseen.principal, None if foreseen.look is None else foreseen.look.seen
    keys = () if seen is None else seen.keys
    return {
        "schema_version": SCHEMA_VERSION,
        "as_of": time_text(now),
        "account_id": principal.account_id,
        "user_name": principal.user_name,
        "user_id": principal.user_id,
        "policy": None if foreseen.policy is None else foreseen.policy.name,
        "keys": [
            {"access_key_id": k.id, "status": k.status.value, "created_at": time_text(k.created_at)} for k in keys
        ],
        "held_access_key_id": None if seen is None else seen.held_id,
        "vault_path": None if seen is None else f"{seen.place.mount}/{seen.place.path}",
        "action": action_name(foreseen),
        "reason": (Reason.STEP_FAILED if foreseen.action is None else foreseen.action.reason).value,
        "message": foreseen.message,
        "at": time_text(action_at(foreseen, now)),
        "remedy": _remedy(foreseen),
        "story": _story(target, foreseen, now),
    }
