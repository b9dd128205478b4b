"""Do exactly one action. No decision is taken here: what comes next is found by looking again."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import assert_never

from rekeyd.core.actions import (
    Burn,
    Claim,
    Close,
    Deactivate,
    Delete,
    IssueKey,
    OpenRotation,
    ProveHeld,
    Reactivate,
    Republish,
    StartQuarantine,
    StartRetirement,
    Step,
)
from rekeyd.core.events import Event
from rekeyd.core.model import (
    AccessKeyId,
    AccountId,
    Asked,
    HeldProof,
    KeyStatus,
    Proof,
    Rotation,
    RotationKind,
    VaultHeld,
)
from rekeyd.core.policy import Policy
from rekeyd.core.reasons import Reason
from rekeyd.errors import (
    ConflictError,
    Error,
    JournalError,
    LeaseLostError,
    NotFoundError,
    OutcomeUnknownError,
    PostponedError,
    StateError,
    StoppingError,
    TemporaryError,
)
from rekeyd.logs import get_logger
from rekeyd.ports import AccountJournal, Clock, Cloud, Iam, Vault
from rekeyd.reconcile.issue import Issuer, record_published
from rekeyd.reconcile.observe import Look
from rekeyd.reconcile.prove import Prover
from rekeyd.reconcile.rules import Rules
from rekeyd.reconcile.trust import anchor_of

log = get_logger()

# Removing a key that never reached Vault needs no clock, so it does not need the mark either.
_WITHOUT_CLOCK = frozenset({Reason.SECRET_LOST})

# Times `aws.settle`: five minutes by default.
_MARK_AGAIN = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Executor:
    cloud: Cloud
    vault: Vault
    clock: Clock
    rules: Rules
    confirm_mark: Callable[[], None]
    """Before a retirement goes on: StateError unless the high-water mark in Vault proves this journal."""
    raise_mark: Callable[[], None]
    """After a clock was started or voided."""
    before_open: Callable[[OpenRotation, Asked | None, AccountId], None]
    """PostponedError when no rotation may be opened after all (rate limit, brake)."""

    def execute(self, step: Step, iam: Iam, journal: AccountJournal, look: Look, policy: Policy) -> HeldProof | None:
        """Returns a proof when one was made. Raises `Error` when the step failed or its outcome is not known."""
        match step:
            case OpenRotation():
                self._open(step, journal, look)
            case IssueKey():
                self._issuer().issue(iam, journal, look, _open_rotation(look), policy)
            case Republish():
                self._republish(step, iam, journal, look, policy)
            case ProveHeld():
                return self._prove_held(step, journal, look, policy)
            case StartRetirement():
                self._start_retirement(step, journal, look)
            case StartQuarantine():
                at = max(look.at, self.clock.now())
                journal.seen_inactive(look.seen.principal, step.key_id, reason=step.reason, at=at)
                self.raise_mark()
            case Claim():
                journal.created(
                    look.seen.principal, step.rotation_id, step.key_id, at=self.clock.now(), reason=step.reason
                )
                log.warning(Event.ORPHAN_CLAIMED, access_key_id=step.key_id)
            case Deactivate():
                self._deactivate(step, iam, journal, look)
            case Reactivate():
                self._reactivate(step, iam, journal, look)
            case Delete():
                self._delete(step, iam, journal, look)
            case Burn():
                self._burn(step, journal, look)
            case Close():
                self._close(step, journal, look)
            case _:
                assert_never(step)
        return None

    def _issuer(self) -> Issuer:
        return Issuer(
            cloud=self.cloud,
            vault=self.vault,
            clock=self.clock,
            rules=self.rules,
            on_clock_started=self.raise_mark,
        )

    def _open(self, step: OpenRotation, journal: AccountJournal, look: Look) -> None:
        asked = look.seen.asked
        self.before_open(step, asked, look.seen.principal.account_id)
        old = None if step.old_key_id is None else look.seen.find(step.old_key_id)
        rotation = journal.open_rotation(
            look.seen.principal,
            kind=step.kind,
            reason=step.reason,
            asked_by=None if asked is None else asked.by,
            old_key_id=step.old_key_id,
            target=step.target,
            at=self.clock.now(),
            old_key_created_at=None if old is None else old.created_at,
        )
        event = Event.ROLLBACK_OPENED if step.kind is RotationKind.ROLLBACK else Event.ROTATION_OPENED
        log.info(
            event,
            rotation_id=rotation.id,
            kind=step.kind,
            reason=step.reason,
            old_access_key_id=step.old_key_id,
            asked_by=rotation.asked_by,
        )

    def _prove_held(self, step: ProveHeld, journal: AccountJournal, look: Look, policy: Policy) -> HeldProof | None:
        seen = look.seen
        held = seen.vault
        if not isinstance(held, VaultHeld):
            return None
        pair = self.vault.read_pair(seen.place, held.version)
        if pair is None or pair.access_key_id != held.access_key_id:
            raise TemporaryError(f"version {held.version} of {seen.place.path} changed while it was read")
        prover = Prover(sts=self.cloud.sts, clock=self.clock, region=self.rules.region)
        proof = prover.once(pair, seen.principal, policy, version=held.version)
        if proof.result is Proof.ACCEPTED:
            anchor = anchor_of(held, seen.place)
            assert anchor is not None  # noqa: S101 - for the type checker; held is VaultHeld
            if step.publishes is not None:
                record_published(
                    self.vault,
                    self.cloud,
                    self.clock,
                    journal,
                    look,
                    _open_rotation(look),
                    on_clock_started=self.raise_mark,
                )
            journal.proven(seen.principal, anchor=anchor, at=self.clock.now())
        return proof

    def _republish(self, step: Republish, iam: Iam, journal: AccountJournal, look: Look, policy: Policy) -> None:
        """Rollback: the pair of an older version becomes the current one, proven before and after."""
        seen, rotation = look.seen, _open_rotation(look)
        pair = self.vault.read_pair(seen.place, step.version)
        if pair is None or pair.access_key_id != step.key_id:
            raise TemporaryError(f"version {step.version} of {seen.place.path} no longer holds {step.key_id}")
        prover = Prover(sts=self.cloud.sts, clock=self.clock, region=self.rules.region)
        regions = prover.regions(policy, iam, seen.held_id)
        result = prover.until_accepted(pair, seen.principal, policy, regions)
        if result is not Proof.ACCEPTED:
            raise TemporaryError(f"AWS does not honour {step.key_id} of {seen.principal.label} ({result})")
        cas = seen.vault_version
        if cas is None:
            raise TemporaryError(f"the Vault version of {seen.place.path} is not known")
        journal.publish_intended(seen.principal, rotation.id, cas=cas, at=self.clock.now(), proven_in=regions)
        self.vault.publish(
            seen.place,
            pair,
            cas=cas,
            extra=self.rules.extra_of(policy),
            guard=journal.guard,
            give_up_at=self.clock.now() + policy.publish_timeout,
        )
        record_published(self.vault, self.cloud, self.clock, journal, look, rotation, on_clock_started=self.raise_mark)

    def _start_retirement(self, step: StartRetirement, journal: AccountJournal, look: Look) -> None:
        anchor = anchor_of(look.seen.vault, look.seen.place)
        if anchor is None:
            raise StateError(f"Vault shows no version of {look.seen.place.path} to start a clock at")
        journal.start_retirement(
            look.seen.principal,
            step.key_id,
            why=step.why,
            reason=step.reason,
            anchor=anchor,
            at=max(look.at, self.clock.now()),
        )
        log.info(Event.RETIREMENT_STARTED, access_key_id=step.key_id, why=step.why, reason=step.reason)
        self.raise_mark()

    def _deactivate(self, step: Deactivate, iam: Iam, journal: AccountJournal, look: Look) -> None:
        principal = look.seen.principal
        if step.reason not in _WITHOUT_CLOCK:
            self._confirm()
        self._change(
            journal,
            look,
            step.key_id,
            "deactivate",
            step.reason,
            lambda: iam.update_access_key(principal.user_name, step.key_id, KeyStatus.INACTIVE, guard=journal.guard),
        )
        log.info(Event.KEY_DEACTIVATED, access_key_id=step.key_id, reason=step.reason)
        self.raise_mark()

    def _confirm(self) -> None:
        """No retirement on the word of a journal that cannot be shown to be neither lost nor old."""
        try:
            self.confirm_mark()
        except (StoppingError, JournalError, PostponedError):
            raise
        except StateError as error:
            raise PostponedError(Reason.MARK_OF_ANOTHER_INSTANCE, None) from error
        except Error as error:
            log.error(Event.MARK_FAILED, error=error.message)
            raise PostponedError(
                Reason.MARK_NOT_WRITABLE, self.clock.now() + _MARK_AGAIN * self.rules.settle
            ) from error

    def _reactivate(self, step: Reactivate, iam: Iam, journal: AccountJournal, look: Look) -> None:
        principal = look.seen.principal
        self._change(
            journal,
            look,
            step.key_id,
            "reactivate",
            step.reason,
            lambda: iam.update_access_key(principal.user_name, step.key_id, KeyStatus.ACTIVE, guard=journal.guard),
        )
        log.warning(Event.KEY_REACTIVATED, access_key_id=step.key_id, reason=step.reason)
        self.raise_mark()

    def _delete(self, step: Delete, iam: Iam, journal: AccountJournal, look: Look) -> None:
        principal = look.seen.principal
        if step.reason not in _WITHOUT_CLOCK:
            self._confirm()
        self._change(
            journal,
            look,
            step.key_id,
            "delete",
            step.reason,
            lambda: iam.delete_access_key(principal.user_name, step.key_id, guard=journal.guard),
        )
        log.info(Event.KEY_DELETED, access_key_id=step.key_id, reason=step.reason)
        self._destroy_versions(look, step.key_id)

    def _change(
        self,
        journal: AccountJournal,
        look: Look,
        key_id: AccessKeyId,
        verb: str,
        reason: Reason,
        call: Callable[[], None],
    ) -> None:
        """Intent, call, outcome. Without an outcome the intent stays and a later look settles it.

        A clock that is set back meanwhile must not make the quarantine begin before it did.
        """
        principal = look.seen.principal
        journal.change_intended(principal, key_id, verb=verb, reason=reason, at=self.clock.now())
        try:
            call()
        except (OutcomeUnknownError, LeaseLostError):
            raise
        except Error as error:
            journal.change_failed(principal, key_id, verb=verb, detail=error.message, at=self.clock.now())
            if isinstance(error, NotFoundError):
                return  # gone meanwhile: the next look sees it
            raise
        journal.change_done(principal, key_id, verb=verb, at=max(look.at, self.clock.now()))

    def _destroy_versions(self, look: Look, key_id: AccessKeyId) -> None:
        """The secret of a deleted key has no use left. Failing here costs nothing: closing tries again."""
        place, held = look.seen.place, look.seen.vault
        if not isinstance(held, VaultHeld) or held.access_key_id == key_id:
            return
        try:
            history = self.vault.history(place)
            if history is None:
                return
            versions = [v.version for v in history.versions if v.access_key_id == key_id and v.version < held.version]
            if versions:
                self.vault.destroy(place, versions)
                log.info(Event.VERSION_DESTROYED, access_key_id=key_id, versions=versions)
        except StoppingError:
            raise
        except Error as error:
            log.warning(Event.NOTE_FAILED, access_key_id=key_id, error=error.message)

    def _burn(self, step: Burn, journal: AccountJournal, look: Look) -> None:
        cas = look.seen.vault_version
        if cas is None:
            raise TemporaryError(f"the Vault version of {look.seen.place.path} is not known")
        try:
            version = self.vault.burn(look.seen.place, cas=cas, guard=journal.guard)
        except ConflictError:
            return  # somebody else moved the version: that burns as well, and the next look reads what is there
        journal.burned(look.seen.principal, step.rotation_id, version=version, at=self.clock.now())
        log.info(Event.VERSION_BURNED, vault_path=look.seen.place.path, vault_version=version)

    def _close(self, step: Close, journal: AccountJournal, look: Look) -> None:
        rotation = look.seen.journal.rotation
        if step.completed and rotation is not None and rotation.old_key_id is not None:
            self._destroy_versions(look, rotation.old_key_id)
        journal.close_rotation(
            look.seen.principal,
            step.rotation_id,
            reason=step.reason,
            completed=step.completed,
            at=self.clock.now(),
        )
        event = Event.ROTATION_CLOSED
        if rotation is not None and rotation.kind is RotationKind.ROLLBACK:
            event = Event.ROLLBACK_CLOSED
        log.info(event, rotation_id=step.rotation_id, reason=step.reason, completed=step.completed)


def _open_rotation(look: Look) -> Rotation:
    rotation = look.seen.journal.rotation
    if rotation is None:
        raise StateError(f"no rotation of {look.seen.principal.label} is open")
    return rotation
