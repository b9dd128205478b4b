"""Where the Vault token comes from, and keeping it alive.

`token()` and `renewed_after_refusal()` serve every call; `maintain()` is called by the daemon's scheduler and says
when to call it next. The ways to log in stand in vault_logins.
"""

import contextlib
import random
import threading
from collections import deque
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Protocol

from hvac.api.auth_methods import Token

from rekeyd.adapters.vault_client import Line
from rekeyd.adapters.vault_logins import WORD, Login, login_of, read_secret_file, unreadable
from rekeyd.adapters.vault_read import timestamp
from rekeyd.adapters.vault_settings import TokenFileAuth, VaultSettings
from rekeyd.adapters.vault_wire import Answer, Wire
from rekeyd.core.secret import Secret
from rekeyd.errors import Error, OutcomeUnknownError, RefusedError, TemporaryError
from rekeyd.ports import Clock

# The share of its time to live after which a token is renewed. Measured against 3 s tokens with 9 s max TTL, an
# operator's revocation and a seal: no call ever saw a dead token.
_RENEW_FROM, _RENEW_TO = 0.55, 0.70
# A renewal that grants less than this share of the first grant is capped by the max TTL: time for a new login.
_SHRUNK = 0.5
_RETRY = timedelta(seconds=5)
_LOOK_AGAIN = timedelta(minutes=5)
# A 403 may be a missing grant; it shall not become one login per call.
_LOGIN_SPACING = timedelta(seconds=10)

# Vault's user lockout (AppRole too): from the sixth refused login within 15 minutes on, valid ones are refused as well.
# https://developer.hashicorp.com/vault/docs/concepts/user-lockout
_LOCKOUT_WINDOW = timedelta(minutes=15)
_MOST_REFUSED = 4
_AFTER_REFUSAL = timedelta(minutes=4)


class TokenKeeper(Protocol):
    problem: Error | None

    def token(self) -> Secret | None: ...

    def renewed_after_refusal(self, refused: Secret | None) -> bool: ...

    def maintain(self) -> datetime: ...

    def ends_at(self) -> datetime | None: ...

    def ends_before(self, needed_until: datetime) -> datetime | None: ...

    def close(self) -> None: ...


def token_keeper(settings: VaultSettings, wire: Wire, clock: Clock) -> TokenKeeper:
    if isinstance(settings.auth, TokenFileAuth):
        return TokenFile(settings, settings.auth.token_file, wire, clock)
    return LoggedIn(settings, login_of(settings.auth), wire, clock)


class _Reach:
    """Calls about the token itself, in the namespace of the login."""

    def __init__(self, settings: VaultSettings, wire: Wire) -> None:
        self._settings = settings
        self._wire = wire

    def line(self, token: Secret | None) -> Line:
        limit = self._settings.timeout.total_seconds()
        return Line(self._wire, namespace=self._settings.namespace, token=token, limit=limit)


class TokenFile:
    """The token that stands in a file. Whoever writes the file owns it; it is never revoked here, and renewed only
    when less than a third of its time is left, which an agent that is alive never lets happen."""

    def __init__(self, settings: VaultSettings, path: Path, wire: Wire, clock: Clock) -> None:
        self.problem: Error | None = None
        self._reach = _Reach(settings, wire)
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
            found = Token(self._reach.line(token)).lookup_self()
            if found.status == 403 and self.renewed_after_refusal(token):
                token = self.token()
                found = Token(self._reach.line(token)).lookup_self()
        except (TemporaryError, OutcomeUnknownError, RefusedError) as error:
            self.problem = error
            return now + _RETRY
        seen = found.part("data")
        if not found.ok or seen is None:
            # Without the default policy a token may not look itself up and is good all the same.
            why = ": Vault is sealed" if found.says("Vault is sealed") else ""
            self.problem = TemporaryError(
                f"the Vault token in {self._path} cannot be looked up ({found.status}){why}",
                hint="check the agent that writes the file, or grant the token auth/token/lookup-self",
            )
            return now + (_LOOK_AGAIN if found.status == 403 else _RETRY)
        self.problem = None
        ttl, creation_ttl = int(seen.get("ttl") or 0), int(seen.get("creation_ttl") or 0)
        expires = seen.get("expire_time")
        with self._lock:
            self._looked_up = token
            self._ends_at = timestamp(expires) if expires else None
        if not expires:
            return now + _LOOK_AGAIN
        if seen.get("renewable") and ttl < creation_ttl / 3:
            self._renew(token, now)
        return now + min(_LOOK_AGAIN, max(timedelta(seconds=ttl / 4), timedelta(seconds=1)))

    def _renew(self, token: Secret, now: datetime) -> None:
        with contextlib.suppress(TemporaryError, OutcomeUnknownError, RefusedError):
            answer = Token(self._reach.line(token)).renew_self()
            lease = (answer.part("auth") or {}).get("lease_duration")
            if answer.ok and isinstance(lease, int) and lease > 0:
                with self._lock:
                    self._ends_at = now + timedelta(seconds=lease)

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


@dataclass(frozen=True, slots=True, kw_only=True)
class _Grant:
    token: Secret
    granted_at: datetime
    first_lease: timedelta | None
    """None: it does not end."""
    ends_at: datetime | None
    renewable: bool
    next_at: datetime


class LoggedIn:
    """A token that rekeyd logs in for, renews, and revokes at the end."""

    def __init__(self, settings: VaultSettings, login: Login, wire: Wire, clock: Clock) -> None:
        self.problem: Error | None = None
        self._reach = _Reach(settings, wire)
        self._login = login
        self._clock = clock
        self._lock = threading.RLock()
        self._grant: _Grant | None = None
        self._again_at: datetime | None = None
        """Of the last login that a refused call caused."""
        self._refused_at: deque[datetime] = deque(maxlen=_MOST_REFUSED)
        self._refused_credential: Secret | None = None

    def token(self) -> Secret:
        with self._lock:
            grant = self._grant
            if grant is None or (grant.ends_at is not None and grant.ends_at <= self._clock.now()):
                grant = self._log_in()
            return grant.token

    def renewed_after_refusal(self, refused: Secret | None) -> bool:
        with self._lock:
            if self._grant is not None and self._grant.token is not refused:
                return True
            now = self._clock.now()
            if self._again_at is not None and now - self._again_at < _LOGIN_SPACING:
                return False
            if refused is not None and self._alive(refused):
                return False
            self._again_at = now
            try:
                self._log_in()
            except (TemporaryError, RefusedError) as error:
                self.problem = error
                return False
            return True

    def maintain(self) -> datetime:
        with self._lock:
            now = self._clock.now()
            grant = self._grant
            # After a refused login the token is known to be dead, or was: only another try can tell.
            if grant is not None and now < grant.next_at and self.problem is None:
                return grant.next_at
            try:
                grant = self._renewed(grant, now) if grant is not None and grant.renewable else None
                if grant is None:
                    grant = self._log_in()
            except (TemporaryError, OutcomeUnknownError, RefusedError) as error:
                self.problem = error
                return max(now + _RETRY, self._login_allowed_at(now))
            self.problem = None
            self._grant = grant
            return grant.next_at

    def ends_at(self) -> datetime | None:
        with self._lock, contextlib.suppress(TemporaryError, RefusedError):
            self.token()
        return None if self._grant is None else self._grant.ends_at

    def ends_before(self, needed_until: datetime) -> datetime | None:
        with self._lock:
            ends_at = self.ends_at()
            grant, now = self._grant, self._clock.now()
            if grant is None or ends_at is None or ends_at >= needed_until:
                return None
            # One that never lives that long, not even when new, is renewed on the way, or a refused call logs in.
            if grant.first_lease is not None and now + grant.first_lease < needed_until:
                return None
            try:
                grant = (self._renewed(grant, now) if grant.renewable else None) or self._log_in()
                self._grant = grant
                if grant.ends_at is not None and grant.ends_at < needed_until:
                    grant = self._log_in()
            except (TemporaryError, OutcomeUnknownError, RefusedError) as error:
                self.problem = error
            ends_at = grant.ends_at
            return ends_at if ends_at is not None and ends_at < needed_until else None

    def close(self) -> None:
        with self._lock:
            grant, self._grant = self._grant, None
        if grant is not None:
            with contextlib.suppress(Error):
                Token(self._reach.line(grant.token)).revoke_self()

    def _renewed(self, grant: _Grant, now: datetime) -> _Grant | None:
        """None: a new login is needed. Raises TemporaryError when Vault cannot be asked; the token stays good."""
        answer: Answer = Token(self._reach.line(grant.token)).renew_self()
        if answer.status in {429, 472, 473, 502, 503, 504}:
            raise TemporaryError(f"the Vault token could not be renewed ({answer.status})")
        lease = (answer.part("auth") or {}).get("lease_duration")
        # Any other refusal means a new login: a deleted role is a 500, a token past its max TTL a 403.
        if not answer.ok or not isinstance(lease, int):
            return None
        if grant.first_lease is not None and timedelta(seconds=lease) < _SHRUNK * grant.first_lease:
            return None
        return _granted(answer, grant.token, now, first_lease=grant.first_lease)

    def _log_in(self) -> _Grant:
        """Sent once: a login uses up a secret_id and counts for the lockout."""
        now = self._clock.now()
        credential = self._login.credential()
        if now < self._login_allowed_at(now) and not self._is_new(credential):
            why = ", as Vault locks a role after a few refusals" if self._login.lockout else ""
            raise RefusedError(
                f"the login to Vault by {self._login.method} was refused: {self._login.suspect}; it is tried again at "
                f"{self._login_allowed_at(now):%H:%M:%S} UTC{why}",
                hint=self._login.remedy + ("; a new one is tried at once" if credential is not None else ""),
            )
        try:
            answer = self._login.log_in(self._reach.line, credential)
        except OutcomeUnknownError as error:
            # A login that happened without us only leaves a token behind that ends by itself.
            raise TemporaryError(error.message, hint=error.hint) from error
        auth = answer.part("auth")
        token = (auth or {}).get("client_token")
        if not answer.ok or not isinstance(token, str) or not WORD.fullmatch(token):
            raise self._refusal(answer, credential, now)
        self._refused_at.clear()
        self._refused_credential = None
        self.problem = None
        self._grant = _granted(answer, Secret(token), now, first_lease=None)
        return self._grant

    def _refusal(self, answer: Answer, credential: Secret | None, now: datetime) -> Error:
        said = f"the login to Vault by {self._login.method}"
        if answer.status not in {400, 403, 404}:
            why = ": Vault is sealed" if answer.says("Vault is sealed") else ""
            return TemporaryError(f"{said} was answered with {answer.status}{why}")
        self._refused_at.append(now)
        self._refused_credential = credential
        return RefusedError(
            f"{said} was refused ({answer.status}): {self._login.suspect}",
            hint=f"check vault.auth (mount, role, files); {self._login.remedy}",
        )

    def _login_allowed_at(self, now: datetime) -> datetime:
        recent = [at for at in self._refused_at if now - at < _LOCKOUT_WINDOW]
        if not recent:
            return now
        if not self._login.lockout:
            return recent[-1] + _RETRY
        return recent[-1] + _AFTER_REFUSAL

    def _is_new(self, credential: Secret | None) -> bool:
        """Whether somebody replaced the refused credential, and there is room for another try before the lockout."""
        recent = [at for at in self._refused_at if self._clock.now() - at < _LOCKOUT_WINDOW]
        return credential != self._refused_credential and len(recent) < _MOST_REFUSED

    def _alive(self, token: Secret) -> bool:
        with contextlib.suppress(TemporaryError, OutcomeUnknownError, RefusedError):
            return bool(Token(self._reach.line(token)).lookup_self().ok)
        return False


def _granted(answer: Answer, token: Secret, now: datetime, *, first_lease: timedelta | None) -> _Grant:
    auth = answer.part("auth") or {}
    lease = timedelta(seconds=int(auth.get("lease_duration") or 0))
    if not lease:
        return _Grant(
            token=token, granted_at=now, first_lease=None, ends_at=None, renewable=False, next_at=now + _LOOK_AGAIN
        )
    share = random.uniform(_RENEW_FROM, _RENEW_TO)  # noqa: S311 - spreads the renewals of a fleet, nothing more
    return _Grant(
        token=token,
        granted_at=now,
        first_lease=lease if first_lease is None else first_lease,
        ends_at=now + lease,
        renewable=bool(auth.get("renewable")),
        next_at=now + share * lease,
    )


def _file_stamp(path: Path) -> tuple[int, int, int]:
    status = path.stat()
    return (status.st_mtime_ns, status.st_ino, status.st_size)
