"""The ways to log in to Vault. A new one is one more `Login` class and one more line in `login_of`.

Each reads its files anew at each login, since kubelets, agents and people replace them.
"""

import re
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, assert_never
from urllib.parse import quote

from hvac.api.auth_methods import JWT, AppRole, Kubernetes

from rekeyd.adapters.vault_client import Line
from rekeyd.adapters.vault_settings import (
    AppRoleAuth,
    AwsAuth,
    CertAuth,
    JwtAuth,
    KubernetesAuth,
    LoginAuth,
)
from rekeyd.adapters.vault_tries import Credential
from rekeyd.adapters.vault_wire import Answer
from rekeyd.core.secret import Secret
from rekeyd.errors import InterceptedError, OutcomeUnknownError, RefusedError, TemporaryError

# Anything else could end a header, and the library's own complaint would show it.
WORD = re.compile(r"[\x21-\x7e]+")


LineFor = Callable[[Secret | None], Line]
"""A line to Vault with this token, or without one."""


def login_of(auth: LoginAuth) -> "Login":
    match auth:
        case AppRoleAuth(wrapped=True):
            return WrappedAppRoleLogin(auth)
        case AppRoleAuth():
            return AppRoleLogin(auth)
        case KubernetesAuth():
            return KubernetesLogin(auth)
        case JwtAuth():
            return JwtLogin(auth)
        case CertAuth():
            return CertLogin(auth)
        case AwsAuth():
            from rekeyd.adapters.vault_aws_login import AwsLogin

            return AwsLogin(auth)
        case _:
            assert_never(auth)


class Login(Protocol):
    """One way to log in. It reads its files anew each time."""

    method: str
    lockout: bool
    """Whether Vault locks the identity after a few refused tries."""
    suspect: str
    """What may no longer be good when a login is refused; Vault does not tell."""
    remedy: str
    """What a person does about it."""

    def credential(self) -> Credential:
        """What `log_in` shows to Vault, as it stands in the files now. Raises TemporaryError or RefusedError."""

    def log_in(self, lines: LineFor, credential: Credential) -> Answer:
        """One login, sent once. Raises RefusedError or TemporaryError when it does not come to that."""


class AppRoleLogin:
    method = "approle"
    lockout = True
    suspect = "the role is gone or locked, or its role_id or secret_id is not good"
    remedy = (
        "see that the role exists (Vault locks it for 15 minutes after bad tries), and put a new secret_id in its file"
    )

    def __init__(self, auth: AppRoleAuth) -> None:
        self._auth = auth

    def credential(self) -> Credential:
        return self._role_id(), read_secret_file(self._auth.secret_id_file, "the secret_id")

    def log_in(self, lines: LineFor, credential: Credential) -> Answer:
        role_id, secret_id = (part.reveal() for part in credential)
        return AppRole(lines(None)).login(role_id, secret_id, use_token=False, mount_point=self._auth.mount)  # type: ignore[no-any-return]

    def _role_id(self) -> Secret:
        if self._auth.role_id is not None:
            return Secret(self._auth.role_id)
        if self._auth.role_id_file is None:
            raise RefusedError("vault.auth: approle without a role_id", hint="set role_id or role_id_file")
        return read_secret_file(self._auth.role_id_file, "the role_id")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Opened:
    wrapping_token: Secret
    secret_id: Secret
    made_at: str
    """The path at which it was wrapped."""


@dataclass(slots=True)
class Unwrapping:
    """What was opened, and can be opened by nobody again: it must outlive a reload."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    opened: _Opened | None = None
    sent: Secret | None = None
    """The wrapping token whose unwrap was sent without an answer."""


class WrappedAppRoleLogin(AppRoleLogin):
    """The file holds a response-wrapping token: whoever delivers it never sees the secret_id, and a wrapping token
    that somebody else opened on the way shows. The secret_id is kept in memory for the logins to come."""

    def __init__(self, auth: AppRoleAuth) -> None:
        super().__init__(auth)
        self.unwrapping = Unwrapping()
        self._spoilt: tuple[Secret, RefusedError] | None = None

    def credential(self) -> Credential:
        return self._role_id(), read_secret_file(self._auth.secret_id_file, "the wrapping token of the secret_id")

    def log_in(self, lines: LineFor, credential: Credential) -> Answer:
        role_id, wrapping_token = credential
        if self._spoilt is not None and self._spoilt[0] == wrapping_token:
            raise self._spoilt[1]
        with self.unwrapping.lock:
            opened = self.unwrapping.opened
            try:
                if opened is None or opened.wrapping_token != wrapping_token:
                    opened = self.unwrapping.opened = self._unwrapped(lines, wrapping_token)
                elif not self._is_ours(opened.made_at):
                    raise self._intercepted(_made_elsewhere(opened.made_at))
            except RefusedError as error:
                self._spoilt = (wrapping_token, error)
                raise
        return super().log_in(lines, (role_id, opened.secret_id))

    def _unwrapped(self, lines: LineFor, wrapping_token: Secret) -> _Opened:
        body = {"token": wrapping_token.reveal()}
        # Looking costs nothing and opens nothing.
        found = lines(None).post("/v1/sys/wrapping/lookup", json=body)
        if found.status == 400 and self.unwrapping.sent == wrapping_token:
            raise RefusedError(
                f"the wrapping token in {self._auth.secret_id_file} was opened by rekeyd, and the answer was lost",
                hint="deliver a new wrapping token",
            )
        if found.status == 400:
            raise self._intercepted("was opened already, has expired, or never was one")
        made_at = (found.part("data") or {}).get("creation_path")
        if not found.ok or not isinstance(made_at, str):
            raise TemporaryError(f"the wrapping token of the secret_id could not be looked up ({found.status})")
        if not self._is_ours(made_at):
            # Somebody opened the real one and wrapped something else in its place.
            raise self._intercepted(_made_elsewhere(made_at))
        try:
            answer = lines(wrapping_token).post("/v1/sys/wrapping/unwrap")
        except OutcomeUnknownError as error:
            self.unwrapping.sent = wrapping_token
            raise TemporaryError(error.message, hint=error.hint) from error
        if answer.status == 400:
            raise self._intercepted("was opened by somebody else just now")
        secret_id = (answer.part("data") or {}).get("secret_id")
        if not answer.ok or not isinstance(secret_id, str) or not WORD.fullmatch(secret_id):
            raise TemporaryError(f"the wrapping token of the secret_id could not be opened ({answer.status})")
        return _Opened(wrapping_token=wrapping_token, secret_id=Secret(secret_id), made_at=made_at)

    def _is_ours(self, creation_path: str) -> bool:
        role = "[^/]+" if self._auth.role is None else re.escape(self._auth.role)
        expected = rf"auth/{re.escape(self._auth.mount)}/role/{role}/secret-id"
        return re.fullmatch(expected, creation_path) is not None

    def _intercepted(self, how: str) -> InterceptedError:
        return InterceptedError(
            f"the wrapping token in {self._auth.secret_id_file} {how}",
            hint="unless rekeyd itself opened it before a restart, somebody intercepted it: destroy its secret_id, "
            "look for the unwrap in Vault's audit log, and deliver a new wrapping token",
        )


def _made_elsewhere(path: str) -> str:
    return f"was made at {path}, not as a secret_id of vault.auth's role"


class KubernetesLogin:
    method = "kubernetes"
    lockout = False
    suspect = "the role is gone, or the API server does not accept the service account's token (TokenReview)"
    remedy = "see that the role binds this service account, and that Vault reaches the API server and may review tokens"

    def __init__(self, auth: KubernetesAuth) -> None:
        self._auth = auth

    def credential(self) -> Credential:
        # The projected token is rotated by the kubelet, so it is read at each login.
        return (read_secret_file(self._auth.jwt_file, "the service account's token"),)

    def log_in(self, lines: LineFor, credential: Credential) -> Answer:
        (jwt,) = (part.reveal() for part in credential)
        return Kubernetes(lines(None)).login(self._auth.role, jwt, use_token=False, mount_point=self._auth.mount)  # type: ignore[no-any-return]


class JwtLogin:
    method = "jwt"
    lockout = False
    suspect = "the role is gone, or the JWT has expired, has other claims, or is signed with a key that Vault lacks"
    remedy = (
        "see that the role binds the JWT's claims and the method has the issuer's keys, and put a new JWT in its file"
    )

    def __init__(self, auth: JwtAuth) -> None:
        self._auth = auth

    def credential(self) -> Credential:
        return (read_secret_file(self._auth.jwt_file, "the JWT"),)

    def log_in(self, lines: LineFor, credential: Credential) -> Answer:
        (jwt,) = (part.reveal() for part in credential)
        return JWT(lines(None)).jwt_login(self._auth.role, jwt, use_token=False, path=self._auth.mount)  # type: ignore[no-any-return]


class CertLogin:
    """The wire shows the client certificate, at the login and at each renewal."""

    method = "cert"
    lockout = False
    suspect = "the role is gone, or the client certificate has expired, was revoked, or is of another authority"
    remedy = "see that the role exists, and put a new certificate in vault.client_cert_file"

    def __init__(self, auth: CertAuth) -> None:
        self._auth = auth

    def credential(self) -> Credential:
        return ()

    def log_in(self, lines: LineFor, credential: Credential) -> Answer:  # noqa: ARG002
        body = {"name": self._auth.role} if self._auth.role else {}
        return lines(None).login(f"/v1/auth/{quote(self._auth.mount)}/login", json=body)


# --- files ---


def read_secret_file(path: Path, what: str) -> Secret:
    """The content without the white space around it. TemporaryError (without the content) when it is unusable."""
    try:
        text = path.read_text(encoding="ascii").strip()
    except (OSError, ValueError) as error:
        raise unreadable(path, what, error) from None
    if not WORD.fullmatch(text):
        raise TemporaryError(
            f"{what} in {path} is empty, longer than one word, or has odd characters",
            hint="the file holds nothing but the value itself",
        )
    return Secret(text)


def unreadable(path: Path, what: str, error: Exception) -> TemporaryError:
    why = error.strerror.lower() if isinstance(error, OSError) and error.strerror else "not plain text"
    return TemporaryError(
        f"{what} cannot be read from {path}: {why}", hint="check the path, its permissions and whoever writes it"
    )
