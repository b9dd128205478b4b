"""Bringing announcements to people: each channel is told everything, in order, until it has taken it.

* What a channel is to be told stands in the journal, so a restart loses nothing, and says nothing twice: a message that
  was on its way when the process died is sent again with the same id.
* Channels do not wait for each other: each has a thread while it sends.
* Everything announced since the last message goes into one message, so that a storm is one message.
* A channel that fails is tried again after 10 s, 20 s, … up to five minutes, for ever. Three failures in a row are
  an alarm on the others.
* A channel that refuses a message for what it is (400, 413, 422) is offered a brief one with the same id at once. What
  it refuses for a day even so is given up, for the sake of what waits behind it; alarms that are open repeat anyway.
* Owners of users are told the same way, each by a channel of its own; what one could not be told for two weeks is
  given up. One way to owners (a mail server, a webhook) is used by one thread.
* Nothing of this changes anything that is managed: an error here ends here.
"""

import secrets
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from rekeyd.core.events import Event
from rekeyd.core.findings import Finding, FindingReason, found
from rekeyd.core.model import AccountId
from rekeyd.errors import Error, JournalError, MessageRefusedError, RefusedError
from rekeyd.fleet.messages import message_of, trial_message
from rekeyd.logs import get_logger
from rekeyd.ports import Announcement, Batch, Channel, ChannelState, Clock, Journal, Message, OwnerChannels

log = get_logger()

GATHER = timedelta(seconds=1)
"""So long the first announcement waits for those of the same pass."""
FIRST_RETRY = timedelta(seconds=10)
LAST_RETRY = timedelta(minutes=5)
FAILURES_BEFORE_ALARM = 3
OWNER_LIFE = timedelta(days=14)
"""A rotation that an owner should have heard of is over by then."""
REFUSED_LIFE = timedelta(days=1)
"""A wrong key or address looks the same to some services, so a person has a day to put that right."""
_CLOSE_LIMIT = timedelta(seconds=15)


@dataclass(slots=True, kw_only=True)
class Postman:
    """One for the process. `deliver` may be called by any thread, as often as somebody likes."""

    journal: Journal
    clock: Clock
    channels: tuple[Channel, ...] = ()
    owners: OwnerChannels | None = None
    """None: owners are not told."""
    link: str | None = None
    """As in `message_of`."""
    instance: str = "default"
    names: Callable[[], Mapping[AccountId, str]] = dict
    """Of accounts."""
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _threads: dict[str, threading.Thread] = field(default_factory=dict)
    _untold: dict[str, Callable[[], None]] = field(default_factory=dict)
    """Outcomes that the journal did not take yet: until it has, the channel is told nothing else."""
    _refused: dict[str, datetime] = field(default_factory=dict)
    """Messages that were refused for what they are, and since when; a restart counts anew."""
    _closed: bool = False

    def deliver(self, *, wait: bool = False) -> None:
        """Tell each channel what it is to be told now, each in a thread of its own; `wait` for them to end."""
        for channel in self.channels:
            if self._has_work(channel.name):
                self._start(channel.name, (channel,))
        for way, channels in self._owners_to_tell().items():
            self._start(way, channels)
        if wait:
            for thread in tuple(self._threads.values()):
                thread.join()

    def drop_strangers(self) -> None:
        """What is for channels that are not configured any more, or for owners whom nothing reaches. JournalError."""
        now = self.clock.now()
        ways = self.owners.names if self.owners is not None else ()
        if self.owners is None or self.owners.problem is None:
            # Else it is not known which ways are still wanted.
            self.journal.drop_channels([*names_of(self.channels), *ways], at=now)
        self.journal.drop_owner_mail(ways, before=now - OWNER_LIFE, at=now)

    def findings(self) -> tuple[Finding, ...]:
        """Channels that people must hear of on the others. Raises JournalError."""
        failing = [
            found(
                FindingReason.CHANNEL_FAILING,
                principal=state.name,
                detail=f"{state.name}, {state.failures} failures in a row, the last: {state.error}",
            )
            for state in self.states()
            if state.failures >= FAILURES_BEFORE_ALARM
        ]
        return (*failing, *self._owner_findings())

    def _owner_findings(self) -> Iterator[Finding]:
        """One a way, however many owners it does not reach."""
        if self.owners is None:
            return
        if self.owners.problem is not None:
            yield found(
                FindingReason.CHANNEL_FAILING, principal="owners", detail=f"no owner is told: {self.owners.problem}"
            )
        bad = [state for state in self.journal.channel_states() if state.failures >= FAILURES_BEFORE_ALARM]
        for way in self.owners.names:
            mine = [state for state in bad if state.name.startswith(f"{way}:")]
            if mine:
                owner = mine[0].name.partition(":")[2]
                count = "1 owner is" if len(mine) == 1 else f"{len(mine)} owners are"
                yield found(
                    FindingReason.CHANNEL_FAILING,
                    principal=way,
                    detail=f"{way}, {count} not told, the first: {owner}, {mine[0].failures} failures in a row, "
                    f"the last: {mine[0].error}",
                )

    def states(self) -> tuple[ChannelState, ...]:
        """Of the configured channels that were ever used."""
        mine = {channel.name for channel in self.channels}
        return tuple(state for state in self.journal.channel_states() if state.name in mine)

    def send_unwritten(self, announcements: tuple[Announcement, ...]) -> None:
        """The journal cannot be written: each channel is told at once, and only once, whether or not it takes it."""
        for channel in self.channels:
            batch = Batch(id=secrets.token_hex(8), channel=channel.name, announcements=announcements)
            threading.Thread(
                target=self._send, args=(channel, batch), name=f"rekeyd-channel-{channel.name}-direct", daemon=True
            ).start()

    def test(self, *, owner: str | None = None) -> dict[str, Error | None]:
        """Send a test message through every channel, past the outbox; by name, why it was not taken.

        `owner`: instead, by every way that reaches this owner; empty: none does.
        """
        channels = self.channels
        if owner is not None:
            names = () if self.owners is None else self.owners.names_for(owner)
            channels = tuple(each for name in names if (each := self.owners and self.owners.channel(name)))
        at = self.clock.now()
        return {channel.name: tried(channel, instance=self.instance, at=at, owner=owner) for channel in channels}

    def close(self) -> None:
        """Begin no message any more, and let those on their way arrive."""
        with self._lock:
            self._closed = True
            threads = tuple(self._threads.values())
        until = self.clock.monotonic() + _CLOSE_LIMIT.total_seconds()
        for thread in threads:
            thread.join(max(until - self.clock.monotonic(), 0))

    def _has_work(self, name: str) -> bool:
        """Cheap; a thread is only made for something to send."""
        if name in self._untold:
            return True
        try:
            now = self.clock.now()
            return self.journal.has_mail(name, at=now, ready_before=now - GATHER)
        except JournalError:
            return False  # whoever writes to the journal reports it

    def _owners_to_tell(self) -> Mapping[str, Sequence[Channel]]:
        """By way."""
        if self.owners is None or not self.owners.names:
            return {}
        try:
            now = self.clock.now()
            ready = self.journal.ready_channels(at=now, ready_before=now - GATHER)
        except JournalError:
            return {}
        found_: dict[str, list[Channel]] = {}
        for name in dict.fromkeys((*self._untold, *ready)):
            channel = self.owners.channel(name)
            if channel is not None:
                found_.setdefault(name.partition(":")[0], []).append(channel)
        return found_

    def _start(self, name: str, channels: Sequence[Channel]) -> None:
        """One thread for these, unless one is still at it."""
        with self._lock:
            running = self._threads.get(name)
            if self._closed or (running is not None and running.is_alive()):
                return
            thread = threading.Thread(target=self._run, args=(channels,), name=f"rekeyd-channel-{name}", daemon=True)
            self._threads[name] = thread
            thread.start()

    # below: in the channel's thread

    def _run(self, channels: Sequence[Channel]) -> None:
        for channel in channels:
            try:
                while self._deliver_one(channel) and not self._closed:
                    pass
            except JournalError as error:
                log.error(Event.JOURNAL_FAILED, error=error.message)
            except Exception:
                log.exception(Event.NOTIFICATION_FAILED, channel=channel.name)
            if self._closed:
                return

    def _deliver_one(self, channel: Channel) -> bool:
        """Whether a message was taken, so that there may be another one to send."""
        if (told := self._untold.get(channel.name)) is not None:
            told()
            del self._untold[channel.name]
        now = self.clock.now()
        batch = self.journal.take_batch(channel.name, at=now, ready_before=now - GATHER)
        if batch is None:
            return False
        error = self._send(channel, batch)
        outcome = self._outcome(batch, error)
        self._untold[channel.name] = outcome
        outcome()
        del self._untold[channel.name]
        return error is None

    def _outcome(self, batch: Batch, error: Error | None) -> Callable[[], None]:
        now = self.clock.now()
        if error is None:
            self._refused.pop(batch.id, None)
            return lambda: self.journal.batch_sent(batch, at=now)
        failures = next((s.failures for s in self.journal.channel_states() if s.name == batch.channel), 0)
        retry_at = now + min(FIRST_RETRY * 2 ** min(failures, 10), LAST_RETRY)
        message, given_up = error.message, self._given_up(batch, error, now)
        return lambda: self.journal.batch_failed(batch, error=message, retry_at=retry_at, at=now, given_up=given_up)

    def _given_up(self, batch: Batch, error: Error, now: datetime) -> bool:
        if not isinstance(error, MessageRefusedError):
            self._refused.pop(batch.id, None)
            return False
        if now - self._refused.setdefault(batch.id, now) < REFUSED_LIFE:
            return False
        del self._refused[batch.id]
        log.error(
            Event.NOTIFICATION_FAILED,
            channel=batch.channel,
            message=batch.id,
            error="given up: the channel refuses this message",
        )
        return True

    def _send(self, channel: Channel, batch: Batch) -> Error | None:
        try:
            message = self._message(batch)
            try:
                channel.send(message)
            except MessageRefusedError as error:
                log.warning(Event.NOTIFICATION_FAILED, channel=channel.name, message=batch.id, error=error.message)
                channel.send(self._message(batch, brief=True))
        except Error as error:
            log.error(Event.NOTIFICATION_FAILED, channel=channel.name, message=batch.id, error=error.message)
            return error
        except Exception as error:  # noqa: BLE001 - a channel is a foreign library
            # A library's message may hold the address, and that may be a secret: its type is all that is kept.
            log.error(Event.NOTIFICATION_FAILED, channel=channel.name, message=batch.id, error=type(error).__name__)
            return RefusedError(f"the channel failed in an unforeseen way ({type(error).__name__})")
        log.info(
            Event.NOTIFICATION_SENT,
            channel=channel.name,
            message=batch.id,
            announcements=len(batch.announcements),
            severity=message.severity,
        )
        return None

    def _message(self, batch: Batch, *, brief: bool = False) -> Message:
        return message_of(
            batch, instance=self.instance, names=self.names(), at=self.clock.now(), link=self.link, brief=brief
        )


def tried(channel: Channel, *, instance: str, at: datetime, owner: str | None = None) -> Error | None:
    """Send a test message, of which the journal knows nothing. Why the channel did not take it; None: it did."""
    try:
        channel.send(trial_message(message_id=secrets.token_hex(8), instance=instance, at=at, owner=owner))
    except Error as error:
        return error
    except Exception as error:  # noqa: BLE001 - a channel is a foreign library
        return RefusedError(f"the channel failed in an unforeseen way ({type(error).__name__})")
    return None


def names_of(channels: Iterable[Channel]) -> tuple[str, ...]:
    return tuple(channel.name for channel in channels)
