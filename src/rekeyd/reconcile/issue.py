"""Issue one key: the irreversible part of a rotation, in numbered steps.

1. Preconditions, before the call that cannot be repeated.
2. The intent is committed durably.
3. CreateAccessKey, sent exactly once.
4. The new pair is proven until AWS honours it.
5. It is written to Vault with check-and-set.
6. It is read back as a consumer would, proven, and recorded as published.

Each line is journalled, so that a pass after a crash knows where it stands. Up to
step 5 this process is the only one that knows the secret, so it may remove the key
that it made; from the first write on, only what Vault shows decides (core/unfinished).
"""

import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta

from rekeyd.core.events import Event
from rekeyd.core.model import (
    AccessKeyId,
    Proof,
    PublishNote,
    Rotation,
    VaultHeld,
)
from rekeyd.core.policy import Policy, step_time
from rekeyd.core.reasons import Reason
from rekeyd.errors import (
    ConflictError,
    Error,
    JournalError,
    LeaseLostError,
    LimitExceededError,
    OutcomeUnknownError,
    PreconditionError,
    RefusedError,
    StoppingError,
    TemporaryError,
)
from rekeyd.logs import get_logger
from rekeyd.ports import AccountJournal, Clock, Cloud, CreatedKey, Iam, Pair, Vault
from rekeyd.reconcile.observe import Look
from rekeyd.reconcile.prove import Prover
from rekeyd.reconcile.rules import Rules

log = get_logger()

# A read-back right after an acknowledged write may come from a server that lags.
_READ_BACK_TRIES = 5
_READ_BACK_SPACING = timedelta(milliseconds=200)


@dataclass(slots=True, kw_only=True)
class Issuer:
    cloud: Cloud
    vault: Vault
    clock: Clock
    rules: Rules
    on_clock_started: Callable[[], None]
    """Raises the high-water mark, since a clock was started."""

    def issue(self, iam: Iam, journal: AccountJournal, look: Look, rotation: Rotation, policy: Policy) -> None:
        """Raises `Error` when the new key was not published; the next look finds out what is to be done about it."""
        seen, principal = look.seen, look.seen.principal
        cas = self._check_preconditions(look, policy)
        operation_id = secrets.token_hex(8)
        journal.create_intended(
            principal,
            rotation.id,
            operation_id=operation_id,
            keys_before=frozenset(key.id for key in seen.keys),
            cas=cas,
            place=seen.place,
            at=self.clock.now(),
        )
        log.debug(Event.KEY_REQUESTED, operation_id=operation_id)
        created = self._create(iam, journal, look, rotation, operation_id)
        rotation = replace(rotation, new_key_id=created.pair.access_key_id, cas=cas)
        try:
            regions = self._prove(iam, look, rotation, policy, created.pair)
            journal.publish_intended(principal, rotation.id, cas=cas, at=self.clock.now(), proven_in=regions)
        except (JournalError, LeaseLostError):
            self._discard(iam, look, created.pair.access_key_id)
            raise
        except Error:
            self._remove(iam, journal, look, created.pair.access_key_id)
            raise
        self._publish(iam, journal, look, rotation, policy, created.pair)

    def _check_preconditions(self, look: Look, policy: Policy) -> int:
        seen, principal = look.seen, look.seen.principal
        cas = seen.vault_version
        if cas is None:
            raise PreconditionError(f"the Vault version of {seen.place.path} is not known")
        identity = self.cloud.sts.caller_identity(principal.account_id)
        if identity.is_root:
            raise PreconditionError(f"rekeyd acts as the root user of account {principal.account_id}")
        if identity.account_id != principal.account_id:
            raise PreconditionError(
                f"the credentials for account {principal.account_id} belong to account {identity.account_id}",
                hint="check role_arn in [[aws.accounts]]",
            )
        self.vault.check_writable(seen.place)
        longest = step_time(
            verify_first=policy.verify_first,
            verify_timeout=policy.verify_timeout,
            publish_timeout=policy.publish_timeout,
        )
        done_by = self.clock.now() + longest
        for name, ends_at in (
            ("the AWS credentials", self.cloud.sts.credentials_expire_at(principal.account_id)),
            ("the Vault token", self.vault.token_ends_before(done_by)),
        ):
            if ends_at is not None and ends_at < done_by:
                raise PreconditionError(
                    f"{name} end at {ends_at:%Y-%m-%dT%H:%M:%SZ}, before a key could be issued safely ({longest})",
                    hint="use credentials that live longer, or shorten verify_timeout and publish_timeout",
                )
        return cas

    def _create(
        self, iam: Iam, journal: AccountJournal, look: Look, rotation: Rotation, operation_id: str
    ) -> CreatedKey:
        principal = look.seen.principal
        try:
            created = iam.create_access_key(principal.user_name, operation_id=operation_id, guard=journal.guard)
        except OutcomeUnknownError as error:
            log.warning(Event.KEY_UNKNOWN, operation_id=operation_id, error=error.message)
            journal.create_unknown(principal, rotation.id, detail=error.message, at=self.clock.now())
            raise
        except LeaseLostError:
            raise  # not sent, and this process may not write either: the next holder looks
        except Error as error:
            journal.not_created(principal, rotation.id, reason=_why_not_created(error), at=self.clock.now())
            raise
        key_id = created.pair.access_key_id
        try:
            journal.created(principal, rotation.id, key_id, at=self.clock.now())
        except (JournalError, LeaseLostError):
            self._discard(iam, look, key_id)
            raise
        log.info(Event.KEY_CREATED, access_key_id=key_id, operation_id=operation_id)
        return created

    def _prove(self, iam: Iam, look: Look, rotation: Rotation, policy: Policy, pair: Pair) -> Sequence[str]:
        """In which Regions. TemporaryError: not in all of them."""
        prover = Prover(sts=self.cloud.sts, clock=self.clock, region=self.rules.region)
        regions = prover.regions(policy, iam, rotation.old_key_id)
        result = prover.until_accepted(pair, look.seen.principal, policy, regions)
        if result is not Proof.ACCEPTED:
            raise TemporaryError(
                f"AWS did not honour the new key {pair.access_key_id} of {look.seen.principal.label} within "
                f"{policy.verify_timeout} ({result}); it was removed and Vault was not touched"
            )
        log.info(Event.KEY_PROVEN, access_key_id=pair.access_key_id, regions=list(regions))
        return regions

    def _publish(
        self, iam: Iam, journal: AccountJournal, look: Look, rotation: Rotation, policy: Policy, pair: Pair
    ) -> None:
        seen, cas = look.seen, rotation.cas
        assert cas is not None  # noqa: S101 - for the type checker; set by `issue`
        try:
            self.vault.publish(
                seen.place,
                pair,
                cas=cas,
                extra=self.rules.extra_of(policy),
                guard=journal.guard,
                give_up_at=self.clock.now() + policy.publish_timeout,
            )
        except (OutcomeUnknownError, StoppingError, LeaseLostError) as error:
            log.warning(Event.KEY_PUBLISH_UNKNOWN, access_key_id=pair.access_key_id, error=error.message)
            raise
        except (ConflictError, RefusedError, TemporaryError):
            # Version cas + 1 is somebody else's, or nothing was ever accepted: ours did not land and cannot any more.
            self._remove(iam, journal, look, pair.access_key_id)
            raise
        record_published(
            self.vault, self.cloud, self.clock, journal, look, rotation, on_clock_started=self.on_clock_started
        )

    def _remove(self, iam: Iam, journal: AccountJournal, look: Look, key_id: AccessKeyId) -> None:
        """Delete our own key that no Vault write was sent for, or whose write was refused; journalled."""
        principal = look.seen.principal
        try:
            journal.change_intended(principal, key_id, verb="delete", reason=Reason.SECRET_LOST, at=self.clock.now())
            iam.delete_access_key(principal.user_name, key_id, guard=journal.guard)
            journal.change_done(principal, key_id, verb="delete", at=self.clock.now())
        except Error as error:
            # Still there; the journal knows it, so the next look removes it the long way.
            log.warning(Event.PRINCIPAL_FAILED, access_key_id=key_id, error=error.message)
            return
        log.info(Event.KEY_DELETED, access_key_id=key_id, reason=Reason.SECRET_LOST)

    def _discard(self, iam: Iam, look: Look, key_id: AccessKeyId) -> None:
        """The journal or the lease is gone. The process that made the key may still delete that one key, since no
        Vault write was sent and none will be."""
        try:
            iam.delete_access_key(look.seen.principal.user_name, key_id, guard=_unguarded)
        except Error as error:
            log.warning(Event.PRINCIPAL_FAILED, access_key_id=key_id, error=error.message)


def _why_not_created(error: Error) -> Reason:
    return Reason.NO_FREE_SLOT if isinstance(error, LimitExceededError) else Reason.NOT_CREATED


def _unguarded() -> None:
    """For the one deletion that needs no lease."""


def record_published(
    vault: Vault,
    cloud: Cloud,
    clock: Clock,
    journal: AccountJournal,
    look: Look,
    rotation: Rotation,
    *,
    on_clock_started: Callable[[], None],
) -> None:
    """Step 6: read back as a consumer would, prove that pair, record it. TemporaryError: the next look repeats it."""
    seen, principal, key_id = look.seen, look.seen.principal, rotation.new_key_id
    # AWS accepts a signature after this, so the clock was right; one that is set back meanwhile ends no overlap early.
    began_at = clock.now()
    held = vault.current(seen.place)
    for _ in range(_READ_BACK_TRIES - 1):
        if isinstance(held, VaultHeld) and held.access_key_id == key_id:
            break
        clock.sleep(_READ_BACK_SPACING)
        held = vault.current(seen.place)
    if not isinstance(held, VaultHeld) or held.access_key_id != key_id or key_id is None:
        raise TemporaryError(f"Vault does not serve the new key of {principal.label} at {seen.place.path} yet")
    pair = vault.read_pair(seen.place, held.version)
    if pair is None or pair.access_key_id != key_id:
        raise TemporaryError(f"version {held.version} of {seen.place.path} could not be read back")
    result = cloud.sts.prove(pair, principal)
    if result is not Proof.ACCEPTED:
        raise TemporaryError(f"the pair read back from {seen.place.path} was not accepted ({result})")
    at = max(began_at, clock.now())
    journal.published(
        principal,
        rotation.id,
        key_id=key_id,
        place=seen.place,
        version=held.version,
        version_created_at=held.created_at,
        at=at,
    )
    log.info(
        Event.KEY_PUBLISHED,
        access_key_id=key_id,
        old_access_key_id=rotation.old_key_id,
        vault_path=seen.place.path,
        vault_version=held.version,
    )
    on_clock_started()
    note = PublishNote(
        version=held.version,
        user_id=principal.user_id,
        access_key_id=key_id,
        old_access_key_id=rotation.old_key_id,
        rotation_id=rotation.id,
        published_at=at,
    )
    try:
        vault.write_note(seen.place, note)
    except Error as error:
        # Only a help for a day without journal; the rotation does not depend on it.
        log.warning(Event.NOTE_FAILED, error=error.message)
