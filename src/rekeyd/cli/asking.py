"""A person's wish for one user, from the request in the journal to what came of it.

Whoever gets the account's lease serves it: this process, or a daemon. Here it is served between rests that pass by
themselves; what nobody began is withdrawn when this process gives up. Two such commands for one user go one after the
other, so that the second sees what the first did.
"""

import fcntl
import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path

from rekeyd.app import App
from rekeyd.cli import output
from rekeyd.cli.exits import ExitCode
from rekeyd.cli.targets import Target
from rekeyd.core.events import Event
from rekeyd.core.model import AccessKeyId, Asked
from rekeyd.core.reasons import Reason
from rekeyd.errors import (
    BusyError,
    Error,
    JournalError,
    JournalLockedError,
    LeaseLostError,
    NotFoundError,
    StoppingError,
)
from rekeyd.fleet.passes import PassResult
from rekeyd.logs import get_logger
from rekeyd.ports import JournalEvent, PrincipalStatus, Request

log = get_logger()

# Between two looks at what another process is doing.
_POLL = timedelta(milliseconds=200)

# A refusal that may pass is waited for this long: a new key's propagation, a throttled proof.
_PATIENCE = timedelta(minutes=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rotated:
    """One entry of `rotations[]`."""

    account_id: str
    user_name: str
    outcome: str
    """published | retired | failed | refused | unchanged | planned"""
    reason: str
    message: str
    code: ExitCode
    rotation_id: str | None = None
    old_access_key_id: str | None = None
    new_access_key_id: str | None = None
    vault_path: str | None = None
    vault_version: int | None = None

    @property
    def old_key_id(self) -> AccessKeyId | None:
        return None if self.old_access_key_id is None else AccessKeyId(self.old_access_key_id)

    def entry(self) -> dict[str, str | int | None]:
        return {
            "account_id": self.account_id,
            "user_name": self.user_name,
            "outcome": self.outcome,
            "reason": self.reason,
            "message": self.message,
            "rotation_id": self.rotation_id,
            "old_access_key_id": self.old_access_key_id,
            "new_access_key_id": self.new_access_key_id,
            "vault_path": self.vault_path,
            "vault_version": self.vault_version,
        }


def ended(target: Target, outcome: str, reason: str, message: str, code: ExitCode) -> Rotated:
    return Rotated(
        account_id=target.account_id,
        user_name=target.user_name,
        outcome=outcome,
        reason=reason,
        message=message,
        code=code,
    )


def refused(target: Target, reason: Reason, message: str | None = None) -> Rotated:
    return ended(target, "refused", reason.value, message or reason.sentence, ExitCode.REFUSED)


@dataclass(slots=True, kw_only=True)
class Asking:
    app: App
    actor: str
    lock_timeout: timedelta

    def rotate(self, target: Target, asked: Asked, *, wait: bool) -> Rotated:
        """Until published; then until the old key is inactive (emergency) or gone (`wait`)."""
        if target.refusal is not None:
            return refused(target, *target.refusal)
        try:
            with self._only_one(target):
                rotated = self._asked(target, asked)
        except BusyError as error:
            return ended(target, "unchanged", error.code, error.message, ExitCode.BUSY)
        except StoppingError:
            raise
        except JournalLockedError as error:
            # Whether the wish could be taken back, nobody can tell: the same lock was in the way of that.
            message = f"{_with_hint(error)}; what was asked by then may stay asked"
            return ended(target, "failed", error.code, message, ExitCode.BUSY)
        except Error as error:
            return ended(target, "failed", error.code, _with_hint(error), ExitCode.FAILED)
        if rotated.outcome == "published" and (wait or asked.emergency):
            output.say(f"{target.principal.label}: the new key is published; now the old one")
            return self._retired(target, rotated, to_the_end=wait)
        if rotated.outcome == "planned" and wait:
            return self._after_replaced(target, asked, rotated)
        return rotated

    def retired(self, target: Target, rotated: Rotated) -> Rotated:
        """Until the old key of a published rotation is gone."""
        return self._retired(target, rotated, to_the_end=True)

    def stopped(self, target: Target) -> Rotated:
        """What to say of a user in whose middle the process was asked to stop."""
        mine = [
            request
            for request in self.app.journal.requests(target.account_id)
            if request.user_name == target.user_name and request.asked.by == self.actor
        ]
        status = self._status(target)
        if not mine:
            message = "stopped: nothing is left half done"
            if status is not None and status.state in ("overlap", "quarantine", "rotating"):
                message = f"stopped: {status.message}; the daemon or the next rotate-now goes on"
            return ended(target, "failed", "stopping", message, ExitCode.FAILED)
        message = "stopped in the middle of the rotation; it stays asked, and the daemon or the next rotate-now ends it"
        return ended(target, "failed", "stopping", message, ExitCode.FAILED)

    # -- the request

    def _asked(self, target: Target, asked: Asked) -> Rotated:
        journal, clock = self.app.journal, self.app.clock
        before = journal.head().seq
        request_id = journal.ask(target.account_id, target.user_name, replace(asked, at=clock.now()))
        try:
            return self._served(target, request_id, before)
        finally:
            # Nothing stays asked that nobody began; what was begun must not be forgotten.
            with suppress(JournalError):
                self._withdraw_unless_begun(request_id)

    def _withdraw_unless_begun(self, request_id: int) -> None:
        request = self.app.journal.request(request_id)
        if request.answer is None and not request.begun:
            self.app.journal.withdraw(request_id, at=self.app.clock.now())

    def _served(self, target: Target, request_id: int, before: int) -> Rotated:
        clock, journal = self.app.clock, self.app.journal
        gives_up_at = clock.monotonic() + self.lock_timeout.total_seconds()
        patient_until = clock.monotonic() + _PATIENCE.total_seconds()
        while True:
            request = journal.request(request_id)
            if request.answer is not None:
                return self._answered(target, request, before)
            try:
                result = self.app.fleet.serve(request)
            except (BusyError, LeaseLostError) as error:
                if clock.monotonic() >= gives_up_at:
                    return self._gave_up(target, request_id, error, before)
                clock.sleep(_POLL)
                continue
            request = journal.request(request_id)
            if request.answer is not None:
                return self._answered(target, request, before)
            status = self._status(target)
            rest = self._resting(target, request, result, status, before)
            if rest is not None and not (_may_pass(status) and clock.monotonic() < patient_until):
                return rest
            self._sleep_until_next(status)

    def _answered(self, target: Target, request: Request, before: int) -> Rotated:
        if request.answer == "published":
            return self._published(target, before)
        if request.answer == "withdrawn":
            return ended(target, "unchanged", "withdrawn", "the request was withdrawn", ExitCode.FAILED)
        reason = request.reason or Reason.STEP_FAILED
        if reason in _NOT_A_PERSONS:
            return self._failed(target, request, before)
        return refused(target, reason, self._why(target, reason))

    def _why(self, target: Target, reason: Reason) -> str:
        status = self._status(target)
        if reason is Reason.ROTATION_OPEN and status is not None:
            return _open_until(status, target)
        return status.message if status is not None and status.reason is reason else reason.sentence

    def _resting(
        self, target: Target, request: Request, result: PassResult, status: PrincipalStatus | None, before: int
    ) -> Rotated | None:
        """What to say if this is the end; None: it is only a matter of seconds."""
        if result.failed or result.looked == 0 or status is None:
            return self._failed(target, request, before)
        if request.asked.replace is not None:
            return self._planned(target, request, status)
        if status.reason is Reason.SETTLING:
            return None
        if request.begun or status.reason in _NOT_A_PERSONS:
            return self._failed(target, request, before)
        return refused(target, status.reason, status.message)

    def _gave_up(self, target: Target, request_id: int, error: Error, before: int) -> Rotated:
        if self.app.journal.withdraw(request_id, at=self.app.clock.now()):
            return ended(target, "unchanged", "busy", f"{error.message}; nothing was begun", ExitCode.BUSY)
        request = self.app.journal.request(request_id)
        if request.answer is not None:
            return self._answered(target, request, before)
        message = f"{error.message}; it has begun this rotation and goes on with it"
        return ended(target, "unchanged", "busy", message, ExitCode.BUSY)

    # -- what came of it

    def _failed(self, target: Target, request: Request, before: int) -> Rotated:
        status = self._status(target)
        message = "it could not be looked at; the log on stderr says why" if status is None else status.message
        if request.begun:
            message += "; the rotation stays asked, and the daemon or the next rotate-now goes on with it"
        reason = Reason.STEP_FAILED if status is None else status.reason
        failed = ended(target, "failed", reason.value, message, ExitCode.FAILED)
        return _with_trace(failed, self._trace(target, before))

    def _published(self, target: Target, before: int) -> Rotated:
        message = "the new key is in Vault and proven"
        return _with_trace(ended(target, "published", "asked", message, ExitCode.DONE), self._trace(target, before))

    def _planned(self, target: Target, request: Request, status: PrincipalStatus) -> Rotated:
        message = (
            f"{request.asked.replace} is deactivated, quarantined and deleted first; then the rotation follows. Now: "
            f"{status.message}"
        )
        planned = ended(target, "planned", Reason.REPLACE_ASKED.value, message, ExitCode.DONE)
        return replace(planned, old_access_key_id=request.asked.replace)

    def _trace(self, target: Target, after: int) -> tuple[JournalEvent, ...]:
        """What the journal recorded of this user since."""
        events = self.app.journal.history(account_id=target.account_id, user_name=target.user_name, limit=200)
        return tuple(event for event in events if event.seq > after)

    # -- after the publication

    def _retired(self, target: Target, rotated: Rotated, *, to_the_end: bool) -> Rotated:
        """Go on until the old key is inactive or gone; whoever else works on the account may do it."""
        old_id = rotated.old_access_key_id
        if old_id is None:
            return rotated
        iam = self.app.cloud.iam(target.account_id)
        while True:
            key = next((k for k in iam.list_access_keys(target.user_name) if k.id == old_id), None)
            if key is None:
                return replace(rotated, outcome="retired", message=f"{rotated.message}; the old key is deleted")
            if not to_the_end and key.status.value == "Inactive":
                return replace(rotated, message=f"{rotated.message}; the old key is inactive")
            status = self._status(target)
            if status is not None and status.state in ("on_hold", "refused") and not _may_pass(status):
                code = ExitCode.FAILED if status.reason is Reason.STEP_FAILED else ExitCode.REFUSED
                message = f"{rotated.message}; the old key stays: {status.message}"
                return replace(rotated, reason=status.reason.value, message=message, code=code)
            self._sleep_until_next(status)
            self._go_on(target)

    def _after_replaced(self, target: Target, asked: Asked, planned: Rotated) -> Rotated:
        journal = self.app.journal
        before = journal.head().seq
        request = next(
            (
                r
                for r in journal.requests(target.account_id)
                if r.asked.replace == asked.replace and r.user_name == target.user_name
            ),
            None,
        )
        if request is None:
            return planned
        while True:
            answered = journal.request(request.id)
            if answered.answer is not None:
                rotated = self._answered(target, answered, before)
                if rotated.outcome != "published":
                    return rotated
                return self._retired(target, rotated, to_the_end=True)
            self._sleep_until_next(self._status(target))
            with suppress(BusyError, LeaseLostError):
                self.app.fleet.serve(answered)

    def _go_on(self, target: Target) -> None:
        try:
            self.app.fleet.go_on(target.account_id, target.user_name)
        except (BusyError, LeaseLostError):
            return  # whoever holds the account does it
        except NotFoundError:
            raise
        except StoppingError:
            raise
        except Error as error:
            log.error(Event.PRINCIPAL_FAILED, principal=target.user_name, error=error.message)

    # -- small things

    def _status(self, target: Target) -> PrincipalStatus | None:
        statuses = self.app.journal.statuses(target.account_id)
        return next((s for s in statuses if s.user_id == target.principal.user_id), None)

    def _sleep_until_next(self, status: PrincipalStatus | None) -> None:
        """Until the user can go on by itself, but never long: another process may go on with it."""
        clock = self.app.clock
        next_at = None if status is None else status.next_at
        until = timedelta(seconds=1) if next_at is None else next_at - clock.now()
        clock.sleep(min(max(until, timedelta(milliseconds=20)), timedelta(seconds=1)))

    @contextmanager
    def _only_one(self, target: Target) -> Iterator[None]:
        """One such command a user at a time, on this machine. BusyError after `lock_timeout`.

        One byte of a file for each user: the kernel frees it when the process ends, however it ends.
        """
        path = self.app.journal.path
        if path is None:
            yield
            return
        clock = self.app.clock
        descriptor = _asks_file(path)
        at = int.from_bytes(hashlib.sha256(f"{target.principal.user_id}".encode()).digest()[:7], "big")
        gives_up_at = clock.monotonic() + self.lock_timeout.total_seconds()
        try:
            while True:
                try:
                    fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, at)
                    break
                except OSError as error:
                    if clock.monotonic() >= gives_up_at:
                        message = f"another rekeyd command works on {target.principal.label}"
                        raise BusyError(message) from error
                clock.sleep(_POLL)
            yield
        finally:
            os.close(descriptor)


def _asks_file(journal: Path) -> int:
    path = journal.with_name(f"{journal.name}.asks")
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise JournalError(f"{path} cannot be opened: {error.strerror}") from error


# The state needs no person: something outside could not be asked, or did not answer well.
_NOT_A_PERSONS = frozenset(
    {Reason.VAULT_UNREADABLE, Reason.PROOF_UNAVAILABLE, Reason.HELD_KEY_NOT_HONOURED, Reason.RATE_LIMITED}
)


def _may_pass(status: PrincipalStatus | None) -> bool:
    """Whether the refusal says itself when it could be over, soon."""
    return (
        status is not None
        and status.reason
        in (
            Reason.PROOF_UNAVAILABLE,
            Reason.HELD_KEY_NOT_HONOURED,
            Reason.HELD_KEY_DEAD,
        )
        and (status.next_at is not None)
    )


def _open_until(status: PrincipalStatus, target: Target) -> str:
    """When the open rotation ends, as far as it goes by the clock."""
    ends_at = status.next_at
    if ends_at is None or target.policy is None:
        return f"a rotation is open already: {status.message}"
    if status.reason is Reason.IN_OVERLAP:
        ends_at += target.policy.quarantine
    old = status.old_access_key_id or "the old key"
    return (
        f"a rotation is open already: {status.message}; it ends at {ends_at:%Y-%m-%dT%H:%M:%SZ}, when {old} is "
        "deleted (--emergency ends it early)"
    )


def _with_trace(rotated: Rotated, events: tuple[JournalEvent, ...]) -> Rotated:
    """The rotation that was opened last, and what it published."""
    opened = [e for e in events if e.event in ("rotation.opened", "rollback.opened")]
    published = [e for e in events if e.event == "key.published"]
    if published:
        last = published[-1]
        version = last.detail.get("version")
        old = last.detail.get("old_key_id")
        return replace(
            rotated,
            rotation_id=last.rotation_id,
            new_access_key_id=last.access_key_id,
            old_access_key_id=None if old is None else str(old),
            vault_path=f"{last.detail.get('mount')}/{last.detail.get('path')}",
            vault_version=None if version is None else int(version),
        )
    if opened:
        made = [e for e in events if e.event == "key.created"]
        new_id = made[-1].access_key_id if made else None
        return replace(rotated, rotation_id=opened[-1].rotation_id, new_access_key_id=new_id)
    return rotated


def _with_hint(error: Error) -> str:
    return error.message if error.hint is None else f"{error.message} ({error.hint})"
