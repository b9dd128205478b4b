"""Keys of an issue that did not end well, and keys that nothing explains.

1. A key of ours that may never have reached Vault is first made unpublishable
   (the version is moved, so that a late write must fail), then every version
   since its intent is read: none names it = its secret is lost and nobody can
   ever use it. Anything less certain = it retires as slowly as a published key.
2. A key that appeared while the answer to our CreateAccessKey was lost is only
   ours if CloudTrail's event carries our operation id, or if a person allowed
   the presumption (`orphans.attribution = "window"`).
3. Everything else is a stranger's and is never touched (P5).
"""

from datetime import datetime, timedelta

from rekeyd.core.actions import Action, Burn, Claim, Close, Deactivate, Delete, ProveHeld, Refuse, StartRetirement, Wait
from rekeyd.core.model import (
    AccessKey,
    CreateIntent,
    IssueState,
    KeyFacts,
    KeyStatus,
    NeverUsed,
    Observed,
    Origin,
    RetireWhy,
    Rotation,
    RotationId,
    UseUnknown,
    VaultHistory,
)
from rekeyd.core.policy import Attribution, Orphans
from rekeyd.core.reasons import Reason

# The client that creates keys waits this long at most for a connection and for an answer (5 s each),
# so AWS has acted by then or will not act on that request as far as its answer goes.
CREATE_TIME_OUT = timedelta(seconds=10)

# IAM's dates are whole seconds and its clock is not ours.
_CLOCK_SLACK = timedelta(seconds=2)

# A request that lay in a network that long carries a signature that AWS no longer accepts ("within 15 minutes";
# the exact limit is unverified, hence a margin).
_LATEST_ARRIVAL = timedelta(minutes=20)

# CloudTrail delivers "typically within an average of about 5 minutes".
_ASK_CLOUDTRAIL_EVERY = timedelta(minutes=5)


def finish_issue(seen: Observed, rotation: Rotation) -> Action | None:
    """What becomes of an open rotation whose key was, or may have been, created and not recorded as published."""
    match rotation.state:
        case IssueState.OPENED | IssueState.PUBLISHED:
            return None
        case IssueState.CREATING:
            if unexplained(seen):
                return None  # explained or refused with the other keys
            return Close(rotation_id=rotation.id, reason=Reason.NOT_CREATED, completed=False)
        case IssueState.CREATED | IssueState.PUBLISHING:
            new_key = seen.find(rotation.new_key_id)
            if seen.held_id is not None and seen.held_id == rotation.new_key_id:
                return ProveHeld(reason=Reason.PUBLISHED_BUT_UNRECORDED, publishes=rotation.id)
            if new_key is None:
                return Close(rotation_id=rotation.id, reason=Reason.NEW_KEY_GONE, completed=False)
            return None  # removed with the other keys


def remove_unpublished(seen: Observed, key: AccessKey, made_by: RotationId, facts: KeyFacts) -> Action:
    """`key` is ours, is not what Vault holds, and is not known to have been published."""
    version = seen.vault_version
    cas = facts.cas
    if version is None:
        return Refuse(reason=Reason.VAULT_UNREADABLE, key_id=key.id)
    if cas is not None and version <= cas:
        return Burn(rotation_id=made_by, reason=Reason.SECRET_LOST)
    if seen.history is None or seen.history.current_version < version:
        # None, or from a server that lags: the version that would name the key may be the one that is not shown.
        return Refuse(reason=Reason.VAULT_UNREADABLE, key_id=key.id)
    if not _never_published(seen.history, key, facts):
        return StartRetirement(key_id=key.id, why=RetireWhy.SUPERSEDED, reason=Reason.PUBLICATION_UNCLEAR)
    if key.status is KeyStatus.ACTIVE:
        return Deactivate(key_id=key.id, reason=Reason.SECRET_LOST)
    return Delete(key_id=key.id, reason=Reason.SECRET_LOST)


def _never_published(history: VaultHistory, key: AccessKey, facts: KeyFacts) -> bool:
    if facts.cas is None or facts.made_at is None:
        return False
    if facts.cas > 0 and history.created_at > facts.made_at:
        return False  # the secret was deleted with its metadata and made anew: the numbers say nothing
    return history.all_readable_since(facts.cas) and history.latest_naming(key.id) is None


def unexplained(seen: Observed) -> tuple[AccessKey, ...]:
    """Keys that Vault does not hold and of which the journal knows nothing."""
    return tuple(
        key
        for key in seen.others
        if (facts := seen.journal.key(key.id)).made_by is None and facts.retirement is None and not _expected(seen, key)
    )


def _expected(seen: Observed, key: AccessKey) -> bool:
    """The open rotation's old key is, and what no request of ours could have made; whatever was there before an
    intent was not made by that one, but perhaps by an earlier one whose rotation was closed."""
    rotation = seen.journal.rotation
    if rotation is not None and key.id == rotation.old_key_id:
        return True
    return not any(_may_have_made(intent, key) for intent in seen.journal.unresolved)


def _may_have_made(intent: CreateIntent, key: AccessKey) -> bool:
    in_time = intent.sent_at - _CLOCK_SLACK <= key.created_at <= intent.sent_at + _LATEST_ARRIVAL
    return key.id not in intent.keys_before and in_time


def explain(seen: Observed, orphans: Orphans, key: AccessKey, now: datetime) -> Action:
    """`key` is unexplained, and at least one CreateAccessKey of ours could have made it."""
    intents = [intent for intent in seen.journal.unresolved if _may_have_made(intent, key)]
    match orphans.attribution:
        case Attribution.CLOUDTRAIL:
            return _ask_cloudtrail(seen, orphans, key, intents, now)
        case Attribution.WINDOW:
            return _presume(seen, orphans, key, intents, now)
        case Attribution.NEVER:
            return Refuse(reason=Reason.STRAY_KEY, key_id=key.id)


def _ask_cloudtrail(
    seen: Observed, orphans: Orphans, key: AccessKey, intents: list[CreateIntent], now: datetime
) -> Action:
    match seen.origins.get(key.id, Origin.UNAVAILABLE):
        case Origin.OURS:
            proven = seen.claims.get(key.id)
            intent = next((i for i in intents if i.operation_id == proven), None)
            if intent is None:
                return Refuse(reason=Reason.STRAY_KEY, key_id=key.id)
            return Claim(rotation_id=intent.rotation_id, key_id=key.id, reason=Reason.ORPHAN_PROVEN)
        case Origin.NO_EVENT:
            gives_up_at = max(intent.sent_at for intent in intents) + orphans.wait
            if now >= gives_up_at:
                return Refuse(reason=Reason.STRAY_KEY, key_id=key.id, until=now + _ASK_CLOUDTRAIL_EVERY)
            again_at = min(now + min(_ASK_CLOUDTRAIL_EVERY, orphans.wait / 10), gives_up_at)
            return Wait(until=again_at, reason=Reason.AWAITING_CLOUDTRAIL, key_id=key.id)
        case Origin.FOREIGN | Origin.UNAVAILABLE:
            return Refuse(reason=Reason.STRAY_KEY, key_id=key.id)


def _presume(seen: Observed, orphans: Orphans, key: AccessKey, intents: list[CreateIntent], now: datetime) -> Action:
    in_window = [
        i for i in intents if i.sent_at - _CLOCK_SLACK <= key.created_at <= i.sent_at + CREATE_TIME_OUT + _CLOCK_SLACK
    ]
    if not in_window or len(unexplained(seen)) != 1:
        return Refuse(reason=Reason.STRAY_KEY, key_id=key.id)
    if key.last_use is None or isinstance(key.last_use, UseUnknown):
        return Refuse(reason=Reason.LAST_USE_UNKNOWN, key_id=key.id)
    if not isinstance(key.last_use, NeverUsed):
        return Refuse(reason=Reason.STRAY_KEY, key_id=key.id)
    watched_until = key.created_at + orphans.wait
    if now < watched_until:
        return Wait(until=watched_until, reason=Reason.ORPHAN_WATCHED, key_id=key.id)
    return StartRetirement(key_id=key.id, why=RetireWhy.ORPHAN, reason=Reason.ORPHAN_PRESUMED)
