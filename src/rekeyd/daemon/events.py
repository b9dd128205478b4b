"""The event queue: whom its messages name is looked at within seconds.

* A message only says where to look. It is deleted as soon as it was read: should the process end before the look, the
  next one looks at every root user when it starts.
* Looks are limited (`fleet.looks`), whatever comes and however often, so that nobody can make rekeyd use up an
  account's calls by filling the queue.
* A queue that cannot be read is an alarm and nothing else: everything is still seen at the next scan.
"""

import threading
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from enum import StrEnum
from typing import Protocol

from rekeyd.adapters.aws_accounts import AwsCloud
from rekeyd.adapters.aws_events import QueueMessage
from rekeyd.app import event_queue
from rekeyd.config import Config
from rekeyd.core.cloudtrail import NotAnEventError, Pointer, is_known, pointed_at
from rekeyd.core.events import Event
from rekeyd.core.model import AccountId, Principal
from rekeyd.daemon.accounts import AccountWork
from rekeyd.daemon.parts import Parts
from rekeyd.daemon.schedule import Pool, Schedule
from rekeyd.errors import AccessDeniedError, Error, StoppingError, TemporaryError
from rekeyd.fleet.looks import Looks
from rekeyd.logs import get_logger
from rekeyd.ports import PrincipalStatus

log = get_logger()

_READ, _LOOK = "events", "event-looks"
_LOOK_EVERY = timedelta(seconds=1)
# The accounts are listed in the first seconds; before, every message would be about nobody.
_AGAIN = timedelta(seconds=1)
_LONGEST_BACKOFF = timedelta(minutes=1)
# One lost answer is no news; a denial does not pass by itself.
_FAILURES_BEFORE_ALARM = 3
# Until they come again (a visibility timeout), an empty poll is no sign that messages can be deleted by now.
_UNDELETED_FOR = timedelta(minutes=5)
_DISCARDED_EVERY = timedelta(minutes=1)


class Meaning(StrEnum):
    """What became of a message; the same words as in the metric."""

    LOOK = "look"
    KNOWN = "known"
    UNCONCERNED = "unconcerned"
    MALFORMED = "malformed"


class Queue(Protocol):
    """Both raise `rekeyd.errors` only."""

    def receive(self) -> tuple[QueueMessage, ...]:
        """As soon as there are any; none after a while."""

    def delete(self, messages: Sequence[QueueMessage]) -> int:
        """Returns how many could not be deleted; those come again."""


class EventWatch:
    """One poll at a time; `readable` and `meanings` may be asked by any thread."""

    def __init__(
        self,
        parts: Parts,
        schedule: Schedule,
        accounts: AccountWork,
        *,
        queue_of: Callable[[Config, AwsCloud], Queue | None] = event_queue,
    ) -> None:
        self._parts = parts
        self._queue_of = queue_of
        self._schedule = schedule
        self._accounts = accounts
        self._clock = parts.newest.clock
        self._journal = parts.newest.journal
        self._looks = Looks()
        self._reading = threading.Lock()
        self._queue: tuple[Config, Queue] | None = None
        self._failures = 0
        self._undeleted_at = float("-inf")
        """When what was read could not be deleted, and so comes again."""
        self._told: bool | None = None
        """What the alarms were told last: whether it can be read; None: nothing yet."""
        self._discarded = 0
        self._discards_told_at = float("-inf")
        self.meanings: Counter[str] = Counter()
        """Messages read so far; replaced by a new one, never changed."""
        self.readable: bool | None = None
        """None: there is no queue, or no poll of it has ended yet."""

    def plan(self) -> None:
        """Begin, or follow a changed configuration: a poll that is under way ends first."""
        self._schedule.once(_READ, self._clock.now(), self.read, pool=Pool.QUEUE)
        self._schedule.every(_LOOK, _LOOK_EVERY, self.look)

    def read(self) -> None:
        """Everything that is in the queue, then its own next run; without a queue, until the next `plan`."""
        if not self._reading.acquire(blocking=False):
            return
        # Whatever goes wrong below in an unforeseen way, it does so once a second and no more often.
        again: timedelta | None = _AGAIN
        try:
            queue = self._newest()
            if queue is None:
                again = None
                self._without_queue()
            elif not self._accounts.watched:
                again = _AGAIN
            else:
                self._drain(queue)
                again = timedelta(0)
        except StoppingError:
            again = None
            raise
        except Error as error:
            again = self._failed(error)
        finally:
            self._reading.release()
            if again is not None:
                self._schedule.once(_READ, self._clock.now() + again, self.read, pool=Pool.QUEUE)

    def look(self) -> None:
        """Take the looks whose time has come."""
        for due in self._looks.take(self._clock.monotonic()):
            log.info(Event.LOOK_ASKED, account_id=due.account_id, root=due.root, principals=list(due.user_names))
            if due.root:
                self._accounts.look_at_root(due.account_id, anew=due.anew)
            if due.user_names:
                self._accounts.look_at_users(due.account_id, due.user_names)

    # --- messages ----------------------------------------------------------------------------------------------------

    def _drain(self, queue: Queue) -> None:
        """Until a long poll brings nothing, or the configuration is another one."""
        while not self._clock.stopping.is_set() and queue is self._newest():
            messages = queue.receive()
            if messages:
                self._heard([each.body for each in messages])
                self._delete(queue, messages)
            if self._clock.monotonic() - self._undeleted_at > _UNDELETED_FOR.total_seconds():
                self._well()
            if not messages:
                return

    def _delete(self, queue: Queue, messages: Sequence[QueueMessage]) -> None:
        """Raises also for a part of them."""
        self._undeleted_at = self._clock.monotonic()
        left = queue.delete(messages)
        if left:
            raise TemporaryError(f"{left} of {len(messages)} messages of the event queue could not be deleted")
        self._undeleted_at = float("-inf")

    def _heard(self, bodies: Sequence[str]) -> None:
        watched = frozenset(self._accounts.watched)
        statuses: dict[AccountId, Mapping[str, PrincipalStatus]] = {}
        meanings = Counter(str(self._meaning(body, watched, statuses)) for body in bodies)
        self.meanings = self.meanings + meanings
        self._tell_discarded(meanings[Meaning.MALFORMED])
        self.look()

    def _meaning(
        self,
        body: str,
        watched: frozenset[AccountId],
        statuses: dict[AccountId, Mapping[str, PrincipalStatus]],
    ) -> Meaning:
        try:
            pointer = pointed_at(body)
        except NotAnEventError:
            return Meaning.MALFORMED
        if pointer is None or pointer.account_id not in watched:
            return Meaning.UNCONCERNED
        of_user = self._meaning_of_user(pointer, statuses) if pointer.user_name is not None else Meaning.UNCONCERNED
        if pointer.root_used:
            self._looks.want_trail(pointer.account_id, self._clock.monotonic())
        if pointer.exposed:
            self._looks.want_exposure(pointer.account_id, self._clock.monotonic())
            return Meaning.LOOK
        if pointer.root:
            self._looks.want_root(pointer.account_id)
            return Meaning.LOOK
        return of_user

    def _meaning_of_user(self, pointer: Pointer, statuses: dict[AccountId, Mapping[str, PrincipalStatus]]) -> Meaning:
        """Users without a status are not managed, or new: those are the scan's."""
        account_id = pointer.account_id
        if account_id not in statuses:
            statuses[account_id] = {each.user_name.casefold(): each for each in self._journal.statuses(account_id)}
        status = statuses[account_id].get((pointer.user_name or "").casefold())
        if status is None:
            return Meaning.UNCONCERNED
        if is_known(pointer, self._journal.known(_principal(status)).facts):
            return Meaning.KNOWN
        self._looks.want_user(account_id, status.user_name)
        return Meaning.LOOK

    def _tell_discarded(self, count: int) -> None:
        self._discarded += count
        now = self._clock.monotonic()
        if self._discarded and now - self._discards_told_at >= _DISCARDED_EVERY.total_seconds():
            log.warning(Event.MESSAGES_DISCARDED, count=self._discarded)
            self._discarded, self._discards_told_at = 0, now

    # --- the queue itself --------------------------------------------------------------------------------------------

    def _newest(self) -> Queue | None:
        """The same one as long as the configuration is the same."""
        app = self._parts.newest
        if self._queue is None or self._queue[0] is not app.config:
            queue = self._queue_of(app.config, app.cloud)
            self._queue = None if queue is None else (app.config, queue)
        return None if self._queue is None else self._queue[1]

    def _without_queue(self) -> None:
        self.readable, self._failures, self._undeleted_at = None, 0, float("-inf")
        # An alarm of an earlier configuration, or of the process before.
        self._tell(readable=True)

    def _well(self) -> None:
        self.readable, failures, self._failures = True, self._failures, 0
        if failures:
            log.info(Event.QUEUE_RECOVERED, failures=failures)
        self._tell(readable=True)

    def _failed(self, error: Error) -> timedelta:
        """Returns when to try again."""
        self.readable = False
        self._failures += 1
        if self._failures == 1:
            log.error(Event.QUEUE_LOST, error=error.message, hint=error.hint)
        if self._failures >= _FAILURES_BEFORE_ALARM or isinstance(error, AccessDeniedError):
            self._tell(readable=False, problem=error)
        return min(timedelta(seconds=2 ** min(self._failures - 1, 10)), _LONGEST_BACKOFF)

    def _tell(self, *, readable: bool, problem: Error | None = None) -> None:
        if self._told is readable:
            return
        with self._parts.in_use() as app:
            app.fleet.watch.events_looked_at(problem)
        self._told = readable


def _principal(status: PrincipalStatus) -> Principal:
    """As far as the journal needs it to find the user's facts."""
    return Principal(account_id=status.account_id, user_name=status.user_name, user_id=status.user_id, path="/", arn="")
