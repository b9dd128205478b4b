"""A Vault token that rekeyd logs in for: looked at, renewed, replaced, revoked at the end.

A reload makes a new `LoggedIn` beside the old one. Both work with the same token, refused logins and opened secret_id
where the settings of the login are the same; the last that is closed revokes the token.
"""

import contextlib
import random
import threading
from copy import copy
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from hvac.api.auth_methods import Token

from rekeyd.adapters.vault_client import answered, sealed_hint
from rekeyd.adapters.vault_logins import WORD, LineFor, Login, WrappedAppRoleLogin, login_of
from rekeyd.adapters.vault_read import seconds
from rekeyd.adapters.vault_settings import LoginAuth, VaultSettings
from rekeyd.adapters.vault_tries import Credential, Tries
from rekeyd.adapters.vault_wire import Answer
from rekeyd.core.events import Event
from rekeyd.core.secret import Secret
from rekeyd.errors import Error, OutcomeUnknownError, RefusedError, TemporaryError
from rekeyd.logs import get_logger
from rekeyd.ports import Clock

log = get_logger()

RETRY = timedelta(seconds=5)
LOOK_AGAIN = timedelta(minutes=5)

# The share of its time to live after which a token is renewed. Measured against 3 s tokens with 9 s max TTL, an
# operator's revocation and a seal: no call ever saw a dead token.
_RENEW_FROM, _RENEW_TO = 0.55, 0.70
# A renewal that grants less than this share of the first grant is capped by the max TTL: time for a new login.
_SHRUNK = 0.5
# A 403 may be a missing grant; it shall not become one login per call.
_LOGIN_SPACING = timedelta(seconds=10)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Grant:
    token: Secret
    first_lease: timedelta | None
    """None: it does not end."""
    ends_at: datetime | None
    renewable: bool
    counted: bool
    """Its uses are, so that a look at it would cost one."""
    next_at: datetime


@dataclass(slots=True, kw_only=True)
class Held:
    """What a reload does not lose."""

    server: tuple[str, str]
    """Its address, and the namespace of the login."""
    auth: LoginAuth
    login: Login
    tries: Tries
    lock: threading.RLock = field(default_factory=threading.RLock)
    users: int = 0
    grant: _Grant | None = None
    may_look: bool = True
    """Whether tokens of this login may look themselves up; without Vault's policy `default` they need a grant."""
    again_at: datetime | None = None
    """Of the last login that a refused call caused."""

    def under(self, server: tuple[str, str], auth: LoginAuth) -> "Held":
        """As much of it as is good under these settings."""
        if (server, auth) == (self.server, self.auth):
            return self
        held = held_by_nobody(server, auth)
        if server != self.server:
            return held
        # Vault counts by method and mount; a login at another one is no repetition.
        if (type(auth), auth.mount) == (type(self.auth), self.auth.mount):
            held.tries = copy(self.tries)
        if isinstance(held.login, WrappedAppRoleLogin) and isinstance(self.login, WrappedAppRoleLogin):
            held.login.unwrapping = self.login.unwrapping
        return held


def held_by_nobody(server: tuple[str, str], auth: LoginAuth) -> Held:
    login = login_of(auth)
    return Held(server=server, auth=auth, login=login, tries=Tries(lockout=login.lockout))


class LoggedIn:
    def __init__(
        self, settings: VaultSettings, auth: LoginAuth, lines: LineFor, clock: Clock, *, before: object = None
    ) -> None:
        """`before`: what kept the token until now, under the configuration before a reload."""
        self.problem: Error | None = None
        self._lines = lines
        self._clock = clock
        self._closed = False
        server = (settings.address.rstrip("/"), settings.namespace)
        self.held: Held = (
            before.held.under(server, auth) if isinstance(before, LoggedIn) else held_by_nobody(server, auth)
        )
        with self.held.lock:
            self.held.users += 1

    def token(self) -> Secret:
        with self.held.lock:
            grant = self.held.grant
            if grant is None or (grant.ends_at is not None and grant.ends_at <= self._clock.now()):
                grant = self._log_in()
            return grant.token

    def renewed_after_refusal(self, refused: Secret | None) -> bool:
        held = self.held
        with held.lock:
            if held.grant is not None and held.grant.token is not refused:
                return True
            now = self._clock.now()
            if held.again_at is not None and now - held.again_at < _LOGIN_SPACING:
                return False
            if refused is not None and self._alive(refused):
                return False
            held.again_at = now
            try:
                self._log_in()
            except (TemporaryError, RefusedError) as error:
                self.problem = error
                return False
            return True

    def maintain(self) -> datetime:
        """Looks each time: nobody else may ask anything of Vault for days."""
        now, grant = self._clock.now(), self.held.grant
        try:
            # Not under the lock: a Vault that is slow to answer this would hold up every call.
            if grant is None or now >= grant.next_at or not self._is_good(grant):
                grant = self._renewed_or_replaced(grant, now)
        except (TemporaryError, OutcomeUnknownError, RefusedError) as error:
            self.problem = error
            with self.held.lock:
                return max(now + RETRY, self.held.tries.allowed_at(now))
        self.problem = None
        return grant.next_at

    def _is_good(self, grant: _Grant) -> bool:
        """Whether the token is alive, as far as it can be told. Raises when Vault does not answer, or is sealed."""
        answer = Token(self._lines(None if grant.counted else grant.token)).lookup_self()
        if answer.ok:
            self.held.may_look = True
            return True
        if answer.status in {400, 403}:
            # Vault answers, and is not sealed: more cannot be learnt with a token that may not look.
            return grant.counted or not self.held.may_look
        raise TemporaryError(f"the Vault token cannot be looked up ({answered(answer)})", hint=sealed_hint(answer))

    def _renewed_or_replaced(self, seen: _Grant | None, now: datetime) -> _Grant:
        held = self.held
        with held.lock:
            if held.grant is not None and held.grant is not seen:
                return held.grant
            if seen is not None and now >= seen.next_at:
                held.grant = (self._renewed(seen, now) if seen.renewable else None) or self._log_in()
                return held.grant
            fresh = self._log_in()
            if seen is not None and held.may_look:
                # The one before seemed dead. If this one does, too, then tokens of this role may not look.
                held.may_look = self._is_good(fresh)
            return fresh

    def ends_at(self) -> datetime | None:
        with self.held.lock, contextlib.suppress(TemporaryError, RefusedError):
            self.token()
        grant = self.held.grant
        return None if grant is None else grant.ends_at

    def ends_before(self, needed_until: datetime) -> datetime | None:
        with self.held.lock:
            ends_at = self.ends_at()
            grant, now = self.held.grant, self._clock.now()
            if grant is None or ends_at is None or ends_at >= needed_until:
                return None
            # One that never lives that long, not even when new, is renewed on the way, or a refused call logs in.
            if grant.first_lease is not None and now + grant.first_lease < needed_until:
                return None
            try:
                grant = (self._renewed(grant, now) if grant.renewable else None) or self._log_in()
                self.held.grant = grant
                if grant.ends_at is not None and grant.ends_at < needed_until:
                    grant = self._log_in()
            except (TemporaryError, OutcomeUnknownError, RefusedError) as error:
                self.problem = error
            ends_at = grant.ends_at
            return ends_at if ends_at is not None and ends_at < needed_until else None

    def close(self) -> None:
        held = self.held
        with held.lock:
            if self._closed:
                return
            self._closed = True
            held.users -= 1
            if held.users:
                return
            grant, held.grant = held.grant, None
        if grant is not None:
            with contextlib.suppress(Error):
                Token(self._lines(grant.token)).revoke_self()

    def _renewed(self, grant: _Grant, now: datetime) -> _Grant | None:
        """None: a new login is needed. Raises TemporaryError when Vault cannot be asked; the token stays good."""
        answer: Answer = Token(self._lines(grant.token)).renew_self()
        if answer.status in {429, 472, 473, 502, 503, 504}:
            raise TemporaryError(f"the Vault token could not be renewed ({answered(answer)})", hint=sealed_hint(answer))
        granted = answer.part("auth") or {}
        # Any other refusal means a new login: a deleted role is a 500, a token past its max TTL a 403.
        if not answer.ok or "lease_duration" not in granted:
            return None
        try:
            lease = seconds(granted["lease_duration"])
        except ValueError:
            return None
        if grant.first_lease is not None and timedelta(seconds=lease) < _SHRUNK * grant.first_lease:
            return None
        log.debug(Event.VAULT_RENEWED, lease_seconds=lease)
        return _granted(answer, grant.token, now, before=grant)

    def _log_in(self) -> _Grant:
        """Sent once: a login uses up a secret_id and counts for the lockout."""
        login, tries, now = self.held.login, self.held.tries, self._clock.now()
        credential = login.credential()
        if not tries.allows(credential, now):
            why = ", as Vault locks a role after a few refusals" if login.lockout else ""
            at_once = "; a new one is tried at once" if credential and tries.has_room(now) else ""
            raise RefusedError(
                f"the login to Vault by {login.method} was refused: {login.suspect}; it is tried again at "
                f"{tries.allowed_at(now):%H:%M:%S} UTC{why}",
                hint=login.remedy + at_once,
            )
        try:
            answer = login.log_in(self._lines, credential)
        except OutcomeUnknownError as error:
            # A login that happened without us only leaves a token behind that ends by itself.
            raise TemporaryError(error.message, hint=error.hint) from error
        auth = answer.part("auth")
        token = (auth or {}).get("client_token")
        if not answer.ok or not isinstance(token, str) or not WORD.fullmatch(token):
            raise self._refusal(answer, credential, now)
        try:
            grant = _granted(answer, Secret(token), now, before=None)
        except ValueError:
            raise TemporaryError(f"the login to Vault by {login.method} was answered without a valid time") from None
        tries.succeeded()
        self.problem = None
        self.held.grant = grant
        log.info(Event.VAULT_LOGIN, method=login.method)
        return self.held.grant

    def _refusal(self, answer: Answer, credential: Credential, now: datetime) -> Error:
        login = self.held.login
        said = f"the login to Vault by {login.method}"
        if answer.status not in {400, 403, 404}:
            return TemporaryError(f"{said} was answered with {answered(answer)}", hint=sealed_hint(answer))
        self.held.tries.refused(credential, now)
        return RefusedError(
            f"{said} was refused ({answer.status}): {login.suspect}",
            hint=f"check vault.auth (mount, role, files); {login.remedy}",
        )

    def _alive(self, token: Secret) -> bool:
        with contextlib.suppress(TemporaryError, OutcomeUnknownError, RefusedError):
            return bool(Token(self._lines(token)).lookup_self().ok)
        return False


def _granted(answer: Answer, token: Secret, now: datetime, *, before: _Grant | None) -> _Grant:
    """`before`: what is renewed; None: it is the answer to a login. Raises ValueError without a valid time."""
    auth = answer.part("auth") or {}
    lease = timedelta(seconds=seconds(auth.get("lease_duration")))
    counted = bool(auth.get("num_uses")) if before is None else before.counted
    if not lease:
        return _Grant(
            token=token, first_lease=None, ends_at=None, renewable=False, counted=counted, next_at=now + LOOK_AGAIN
        )
    share = random.uniform(_RENEW_FROM, _RENEW_TO)  # noqa: S311 - spreads the renewals of a fleet, nothing more
    return _Grant(
        token=token,
        first_lease=lease if before is None else before.first_lease,
        ends_at=now + lease,
        renewable=bool(auth.get("renewable")),
        counted=counted,
        next_at=now + share * lease,
    )
