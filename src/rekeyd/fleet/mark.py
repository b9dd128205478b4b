"""The journal's high-water mark in Vault: proof that this journal is neither lost, nor old, nor somebody else's.

The mark names an event of the journal. A journal that contains it has forgotten
nothing that matters. One that does not was lost or restored from an old copy: every
clock restarts, and the mark is written anew. A mark by another incarnation, although
this journal wrote one before, means that a second deployment uses the same instance
name: nothing is done until a person gives one of them another name.
"""

import threading
from dataclasses import dataclass, field

from rekeyd.core.events import Event
from rekeyd.core.reasons import Reason
from rekeyd.errors import ConflictError, Error, PostponedError, StateError, StoppingError
from rekeyd.logs import get_logger
from rekeyd.ports import Clock, Journal, Mark, Vault

log = get_logger()


@dataclass(slots=True, kw_only=True)
class MarkKeeper:
    vault: Vault
    journal: Journal
    clock: Clock
    enabled: bool = True
    """False in observe mode: nothing is written outside, and nothing is retired that would need it."""
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def problem(self) -> Reason | None:
        """At the start of a pass. MARK_OF_ANOTHER_INSTANCE binds everything; an unreadable mark only retirements."""
        if not self.enabled:
            return None
        try:
            with self._lock:
                self._confirm()
        except StateError:
            return Reason.MARK_OF_ANOTHER_INSTANCE
        except StoppingError:
            raise
        except Error as error:
            log.error(Event.MARK_FAILED, error=error.message)
        return None

    def confirm(self) -> None:
        """Before a retirement goes on.

        StateError: another deployment's mark. PostponedError: the clocks were restarted, so the retirement was decided
        on what counts no more. Other errors: it cannot be told now.
        """
        with self._lock:
            restarted = self._confirm()
        if restarted:
            raise PostponedError(Reason.JOURNAL_RESTORED, self.clock.now())

    def raise_(self) -> None:
        """After a clock was started or voided. A failure is only logged: `confirm` comes before the clock is used.

        It restarts nothing: the wish that is being served might be one that a restart refuses.
        """
        if not self.enabled:
            return
        try:
            with self._lock:
                if self.journal.clock_event_since_mark():
                    mark = self.vault.read_mark()
                    if self._why_restart(mark) is None:
                        self._write(mark.version)
        except StoppingError:
            return
        except Error as error:
            log.error(Event.MARK_FAILED, error=error.message)

    def refresh(self) -> None:
        """From time to time: bring the mark up to the journal's head, so that events cut off its end are missed.

        Raises like `confirm`.
        """
        if not self.enabled:
            return
        with self._lock:
            self._confirm()
            mark = self.journal.last_mark()
            if mark is not None and mark.seq < self.journal.head().seq:
                self._write(self.vault.read_mark().version)

    def _confirm(self) -> bool:
        """Whether the clocks were restarted."""
        restarted = False
        for _ in range(2):  # a second look after somebody else wrote it in between
            mark = self.vault.read_mark()
            if why := self._why_restart(mark):
                self._restart(mark, why)
                restarted = True
            elif mark.version > 0 and not self.journal.clock_event_since_mark():
                return restarted
            try:
                self._write(mark.version)
            except ConflictError:
                continue
            return restarted
        raise ConflictError("the high-water mark was written by somebody else twice in a row")

    def _why_restart(self, mark: Mark) -> str | None:
        """None: the mark proves this journal, or neither has seen the other yet."""
        if mark.version == 0:
            return None if self.journal.last_mark() is None else "the high-water mark is gone from Vault"
        if mark.instance != self.journal.instance or mark.incarnation != self.journal.head().incarnation:
            if mark.instance != self.journal.instance or self.journal.last_mark() is not None:
                raise StateError(
                    f'the high-water mark of instance "{self.journal.instance}" was written by another journal',
                    hint="give each deployment its own journal.instance; if an older journal was restored over a "
                    "newer one, delete the secret at vault.state_path with its metadata",
                )
            return "the journal is new and Vault has a mark of an earlier one"
        if not self.journal.contains(mark.seq, mark.event_hash):
            return "the journal does not contain the event that its mark names: an old copy was restored"
        return None

    def _restart(self, mark: Mark, why: str) -> None:
        if mark.version == 0 or mark.incarnation == self.journal.head().incarnation:
            # It may be an old copy, and its requests may have been served: an emergency that is served twice ends
            # the quarantine of the key that the first one replaced. A new journal has only requests of its own.
            self.journal.refuse_requests(reason=Reason.JOURNAL_RESTORED, at=self.clock.now())
        self.journal.restart_all_clocks(reason=why, at=self.clock.now())
        log.critical(Event.JOURNAL_RESTORED, reason=why)

    def _write(self, version: int) -> None:
        head = self.journal.head()
        mark = Mark(
            version=version,
            instance=self.journal.instance,
            incarnation=head.incarnation,
            seq=head.seq,
            event_hash=head.event_hash,
        )
        self.vault.write_mark(mark)
        self.journal.marked(mark)
        log.debug(Event.MARK_RAISED, seq=head.seq)
