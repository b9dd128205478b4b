"""Where the Vault token comes from, and keeping it alive.

`token()` and `renewed_after_refusal()` serve every call; `maintain()` is called by the daemon's scheduler and says
when to call it next at the latest. A token that rekeyd logs in for is kept by vault_logged_in, and the ways to log in
stand in vault_logins.
"""

import contextlib
import threading
from datetime import datetime, timedelta
from pathlib import Path
from typing import Protocol

from hvac.api.auth_methods import Token

from rekeyd.adapters.vault_client import Line, answered, sealed_hint
from rekeyd.adapters.vault_logged_in import LOOK_AGAIN, RETRY, LoggedIn
from rekeyd.adapters.vault_logins import LineFor, read_secret_file, unreadable
from rekeyd.adapters.vault_read import seconds, timestamp
from rekeyd.adapters.vault_settings import TokenFileAuth, VaultSettings
from rekeyd.adapters.vault_wire import Wire
from rekeyd.core.events import Event
from rekeyd.core.secret import Secret
from rekeyd.errors import Error, OutcomeUnknownError, RefusedError, TemporaryError
from rekeyd.logs import get_logger
from rekeyd.ports import Clock

log = get_logger()


class TokenKeeper(Protocol):
    problem: Error | None

    def token(self) -> Secret | None: ...

    def renewed_after_refusal(self, refused: Secret | None) -> bool: ...

    def maintain(self) -> datetime: ...

    def ends_at(self) -> datetime | None: ...

    def ends_before(self, needed_until: datetime) -> datetime | None: ...

    def close(self) -> None: ...


def token_keeper(
    settings: VaultSettings, wire: Wire, clock: Clock, *, before: TokenKeeper | None = None
) -> TokenKeeper:
    """`before`: the one of the configuration before a reload; what it holds is not lost."""

    def line(token: Secret | None) -> Line:
        """About the token itself, in the namespace of the login."""
        limit = settings.timeout.total_seconds()
        return Line(wire, namespace=settings.namespace, token=token, limit=limit)

    if isinstance(settings.auth, TokenFileAuth):
        return TokenFile(settings.auth.token_file, line, clock)
    return LoggedIn(settings, settings.auth, line, clock, before=before)


class TokenFile:
    """The token that stands in a file. Whoever writes the file owns it; it is never revoked here, and renewed only
    when less than a third of its time is left, which an agent that is alive never lets happen."""

    def __init__(self, path: Path, lines: LineFor, clock: Clock) -> None:
        self.problem: Error | None = None
        self._lines = lines
        self._path = path
        self._clock = clock
        self._lock = threading.Lock()
        self._stamp: tuple[int, int, int] | None = None
        self._token: Secret | None = None
        self._looked_up: Secret | None = None
        self._ends_at: datetime | None = None

    def token(self) -> Secret:
        return self._read(anew=False)

    def renewed_after_refusal(self, refused: Secret | None) -> bool:
        try:
            return self._read(anew=True) != refused
        except TemporaryError:
            return False

    def maintain(self) -> datetime:
        now = self._clock.now()
        try:
            token = self.token()
            found = Token(self._lines(token)).lookup_self()
            if found.status == 403 and self.renewed_after_refusal(token):
                token = self.token()
                found = Token(self._lines(token)).lookup_self()
        except (TemporaryError, OutcomeUnknownError, RefusedError) as error:
            self.problem = error
            return now + RETRY
        seen = found.part("data")
        if not found.ok or seen is None:
            # Without the default policy a token may not look itself up and is good all the same.
            self.problem = TemporaryError(
                f"the Vault token in {self._path} cannot be looked up ({answered(found)})",
                hint=sealed_hint(found)
                or "check the agent that writes the file, or grant the token auth/token/lookup-self",
            )
            return now + (LOOK_AGAIN if found.status == 403 else RETRY)
        try:
            ttl, creation_ttl = seconds(seen.get("ttl")), seconds(seen.get("creation_ttl"))
            ends_at = timestamp(seen["expire_time"]) if seen.get("expire_time") else None
        except ValueError:
            self.problem = TemporaryError(f"what was answered about the Vault token in {self._path} has no valid time")
            return now + RETRY
        self.problem = None
        with self._lock:
            self._looked_up = token
            self._ends_at = ends_at
        if ends_at is None:
            return now + LOOK_AGAIN
        if seen.get("renewable") and ttl < creation_ttl / 3:
            self._renew(token, now)
        return now + min(LOOK_AGAIN, max(timedelta(seconds=ttl / 4), timedelta(seconds=1)))

    def _renew(self, token: Secret, now: datetime) -> None:
        with contextlib.suppress(TemporaryError, OutcomeUnknownError, RefusedError):
            answer = Token(self._lines(token)).renew_self()
            try:
                lease = seconds((answer.part("auth") or {}).get("lease_duration"))
            except ValueError:
                return
            if answer.ok and lease:
                with self._lock:
                    self._ends_at = now + timedelta(seconds=lease)
                log.debug(Event.VAULT_RENEWED, lease_seconds=lease)

    def ends_at(self) -> datetime | None:
        """None also for a token that may not look itself up."""
        with contextlib.suppress(TemporaryError):
            if self.token() is not self._looked_up:
                self.maintain()
        return self._ends_at

    def ends_before(self, needed_until: datetime) -> datetime | None:
        ends_at = self.ends_at()
        if ends_at is not None and ends_at < needed_until:
            with contextlib.suppress(TemporaryError):
                self._renew(self.token(), self._clock.now())
            ends_at = self._ends_at
        return ends_at if ends_at is not None and ends_at < needed_until else None

    def close(self) -> None:
        """Nothing: the token belongs to whoever wrote the file."""

    def _read(self, *, anew: bool) -> Secret:
        with self._lock:
            try:
                stamp = _file_stamp(self._path)
                if anew or self._token is None or stamp != self._stamp:
                    token = read_secret_file(self._path, "the Vault token")
                    self._stamp = stamp
                    if token != self._token:
                        self._token = token
            except OSError as error:
                # An agent replaces its file; a moment without one is no reason to forget a token that works.
                if self._token is None:
                    raise unreadable(self._path, "the Vault token", error) from error
            except TemporaryError:
                if self._token is None:
                    raise
            return self._token


def _file_stamp(path: Path) -> tuple[int, int, int]:
    status = path.stat()
    return (status.st_mtime_ns, status.st_ino, status.st_size)
