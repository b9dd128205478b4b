"""What the daemon does beside its accounts: knowing them, the Vault token, alarms, the mark.

Each chore is one method, run by the schedule in a thread of the chores' own; each sets its own next time where that
depends on what it found.
"""

import threading
from collections.abc import Callable
from datetime import datetime, timedelta

from rekeyd.core.events import Event
from rekeyd.daemon.accounts import POLL_EVERY, AccountWork
from rekeyd.daemon.parts import Parts
from rekeyd.daemon.schedule import Schedule
from rekeyd.errors import Error, InterceptedError, StateError, StoppingError
from rekeyd.logs import get_logger

log = get_logger()

_MARK_EVERY = timedelta(hours=1)
_OUTBOX_EVERY = timedelta(seconds=1)
_CHANNELS_EVERY = timedelta(seconds=10)
# The token is looked at again every few seconds while it is bad; a Vault that changes its leader is no news.
_LOOKS_BEFORE_ALARM = 3
_ALARMS_EVERY = timedelta(minutes=1)
_TOKEN_SOONEST, _TOKEN_AGAIN = timedelta(seconds=1), timedelta(seconds=5)
# A token that was revoked must not look good for as long as it would have lived.
_TOKEN_LATEST = timedelta(seconds=30)
_LIST_FIRST, _LIST_LAST = timedelta(seconds=2), timedelta(minutes=1)
# The poll is two short reads; SQLite gives up on a lock long before.
_POLL_LIMIT = timedelta(minutes=2)
_NO_LOOK_YET = "the Vault token was not looked at yet"


class Chores:
    """May be asked about by any thread."""

    def __init__(
        self, parts: Parts, schedule: Schedule, accounts: AccountWork, *, on_forbidden: Callable[[StateError], None]
    ) -> None:
        """`on_forbidden`: rekeyd's own credentials are the root user's; it must not go on."""
        self._parts = parts
        self._schedule = schedule
        self._accounts = accounts
        self._on_forbidden = on_forbidden
        self._clock = parts.newest.clock
        self._lock = threading.Lock()
        self._identity_checked = False
        self._list_failures = 0
        self._list_problem: str | None = "which accounts to watch is not known yet"
        self._token_problem: str | None = _NO_LOOK_YET
        self._token_known = False
        self._token_ends_at: datetime | None = None
        self._vault_failures = 0
        self._poll_began: float | None = None

    @property
    def listed(self) -> bool:
        """Whether the accounts were asked for, with or without success."""
        return self._list_failures > 0 or self._list_problem is None

    @property
    def token(self) -> tuple[bool, bool, datetime | None]:
        """(it is good, its end is known, its end: None if it does not end)."""
        with self._lock:
            return self._token_problem is None, self._token_known, self._token_ends_at

    @property
    def hanging(self) -> bool:
        began = self._poll_began
        return began is not None and self._clock.monotonic() - began > _POLL_LIMIT.total_seconds()

    def not_ready(self) -> list[str]:
        with self._lock:
            return [problem for problem in (self._list_problem, self._token_problem) if problem is not None]

    def plan(self) -> None:
        """Put all chores on the schedule, each to begin now."""
        config = self._parts.newest.config
        with self._lock:
            # Credentials and accounts may be others.
            self._identity_checked = False
        self._schedule.every("accounts", config.scan.every, self.list_accounts)
        self._schedule.once("vault-token", self._clock.now(), self.keep_token)
        self._schedule.every("alarms", min(_ALARMS_EVERY, config.alarms.repeat_every), self.repeat_alarms)
        self._schedule.every("mark", _MARK_EVERY, self.refresh_mark, first_in=_MARK_EVERY)
        self._schedule.every("requests", POLL_EVERY, self.poll)
        self._schedule.every("outbox", _OUTBOX_EVERY, self.tell)
        self._schedule.every("channels", _CHANNELS_EVERY, self.look_at_channels)

    def poll(self) -> None:
        self._poll_began = self._clock.monotonic()
        try:
            self._accounts.poll()
        finally:
            self._poll_began = None

    def list_accounts(self) -> None:
        """Those known before are watched on when it fails: a look that failed takes nobody out of sight."""
        try:
            with self._parts.in_use() as app:
                if not self._identity_checked:
                    app.refuse_root()
                watched = app.fleet.accounts().watched
        except StoppingError:
            raise
        except StateError as error:
            self._on_forbidden(error)
            return
        except Error as error:
            log.error(Event.ACCOUNTS_UNLISTED, error=error.message, hint=error.hint)
            with self._lock:
                self._list_problem = f"which accounts to watch cannot be told: {error.message}"
                delay = min(_LIST_FIRST * 2 ** min(self._list_failures, 10), _LIST_LAST)
                self._list_failures += 1
            self._schedule.once("accounts-again", self._clock.now() + delay, self.list_accounts)
            return
        with self._lock:
            anew = not self._identity_checked
            self._identity_checked = True
            self._list_problem, self._list_failures = None, 0
        self._accounts.watch(watched, anew=anew)

    def keep_token(self) -> None:
        next_at = self._clock.now() + _TOKEN_AGAIN
        try:
            with self._parts.in_use() as app:
                latest = self._clock.now() + min(app.config.scan.every, _TOKEN_LATEST)
                next_at = min(app.vault.maintain(), latest)
                problem = app.vault.token_problem
                ends_at = app.vault.token_ends_at() if problem is None else None
                self._vault_failures = 0 if problem is None else self._vault_failures + 1
                weather = not isinstance(problem, InterceptedError) and self._vault_failures < _LOOKS_BEFORE_ALARM
                if problem is None or not weather:
                    app.fleet.watch.vault_looked_at(problem)
            self._note_token(problem, ends_at)
        finally:
            self._schedule.once("vault-token", max(next_at, self._clock.now() + _TOKEN_SOONEST), self.keep_token)

    def _note_token(self, problem: Error | None, ends_at: datetime | None) -> None:
        with self._lock:
            before, self._token_problem = self._token_problem, None if problem is None else problem.message
            if problem is None:
                was_lost = before is not None and self._token_known
                self._token_known, self._token_ends_at = True, ends_at
        if problem is not None and problem.message != before:
            log.error(Event.VAULT_LOST, error=problem.message, hint=problem.hint)
        elif problem is None and was_lost:
            log.info(Event.VAULT_RECOVERED)

    def repeat_alarms(self) -> None:
        with self._parts.in_use() as app:
            app.fleet.watch.repeat_alarms()

    def tell(self) -> None:
        with self._parts.in_use() as app:
            app.tell()

    def look_at_channels(self) -> None:
        """A channel that takes nothing is an alarm on the others. What was for channels that are gone is dropped."""
        with self._parts.in_use() as app:
            app.postman.drop_strangers()
            app.fleet.watch.channels_looked_at(app.postman.findings())

    def refresh_mark(self) -> None:
        with self._parts.in_use() as app:
            try:
                app.fleet.mark.refresh()
            except StoppingError:
                raise
            except Error as error:
                log.error(Event.MARK_FAILED, error=error.message)
