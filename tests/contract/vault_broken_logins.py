"""Logins that a person broke, and what mends them: roles, secret_ids, signing keys, token reviews, certificates."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any

from joserfc.jwk import RSAKey

from tests.contract.vault_cluster import Logins
from tests.secret_registry import write_secret

Mend = Callable[[], object]


@dataclass(frozen=True, slots=True, kw_only=True)
class Break:
    name: str
    method: str
    broken: Callable[[Logins], AbstractContextManager[Mend]]
    """Breaks it, and gives what a person does; at the end all is as before, whatever happened."""
    says: tuple[str, ...]
    """In the alarm."""
    do: str
    """In the alarm's hint."""
    person: str


def _mended(break_: Callable[[Logins, Any], object], mend: Callable[[Logins, Any], object]) -> Any:
    """Both with a client of an operator at the leader."""

    @contextmanager
    def broken(logins: Logins) -> Iterator[Mend]:
        done = False

        def person() -> None:
            nonlocal done
            with logins.admin.client() as client:
                mend(logins, client)
            done = True

        with logins.admin.client() as client:
            break_(logins, client)
        try:
            yield person
        finally:
            if not done:
                person()

    return broken


def _destroy_secret_id(logins: Logins, client: Any) -> None:
    client.auth.approle.destroy_secret_id("rekeyd", (logins.folder / "secret_id").read_text().strip())


def _new_secret_id(logins: Logins, client: Any) -> None:
    write_secret(logins.folder / "secret_id", logins.new_secret_id())


def _change_jwt_key(logins: Logins, client: Any) -> None:
    logins.key = RSAKey.generate_key(2048)
    logins.configure_jwt(client)


def _review(*, authenticated: bool) -> Callable[[Logins, Any], None]:
    def answer(logins: Logins, client: Any) -> None:
        review: Any = logins.api_server.answer
        status = review["status"] | {"authenticated": authenticated}
        logins.api_server.answer = review | {"status": status}

    return answer


def _revoke_certificate(logins: Logins, client: Any) -> None:
    crl = logins.authority.revoked(logins.folder / "rekeyd.pem")
    client.adapter.post("/v1/auth/cert/crls/rekeyd", json={"crl": crl})


def _new_certificate(logins: Logins, client: Any) -> None:
    logins.authority.issue("rekeyd")


_ROLE = "role deleted"
_MAKE_ROLE = "make the role again"

BREAKS: tuple[Break, ...] = (
    Break(
        name=_ROLE,
        method="approle",
        broken=_mended(lambda _, c: c.auth.approle.delete_role("rekeyd"), Logins.set_up_approle),
        says=("the login to Vault by approle was refused", "the role is gone"),
        do="see that the role exists",
        person=_MAKE_ROLE,
    ),
    Break(
        name=_ROLE,
        method="kubernetes",
        broken=_mended(lambda _, c: c.auth.kubernetes.delete_role("rekeyd"), Logins.make_kubernetes_role),
        says=("the login to Vault by kubernetes was refused", "the role is gone"),
        do="see that the role binds this service account",
        person=_MAKE_ROLE,
    ),
    Break(
        name=_ROLE,
        method="jwt",
        broken=_mended(lambda _, c: c.auth.jwt.delete_role("rekeyd"), Logins.make_jwt_role),
        says=("the login to Vault by jwt was refused", "the role is gone"),
        do="see that the role binds the JWT's claims",
        person=_MAKE_ROLE,
    ),
    Break(
        name=_ROLE,
        method="cert",
        broken=_mended(lambda _, c: c.adapter.delete("/v1/auth/cert/certs/rekeyd"), Logins.make_cert_role),
        says=("the login to Vault by cert was refused", "the role is gone"),
        do="see that the role exists",
        person=_MAKE_ROLE,
    ),
    Break(
        name="secret_id destroyed",
        method="approle",
        broken=_mended(_destroy_secret_id, _new_secret_id),
        says=("the login to Vault by approle was refused", "secret_id is not good"),
        do="put a new secret_id in its file",
        person="put a new secret_id in its file",
    ),
    Break(
        name="TokenReview refusing",
        method="kubernetes",
        broken=_mended(_review(authenticated=False), _review(authenticated=True)),
        says=("the login to Vault by kubernetes was refused", "TokenReview"),
        do="Vault reaches the API server and may review tokens",
        person="mend the token review",
    ),
    Break(
        name="JWT key changed",
        method="jwt",
        broken=_mended(_change_jwt_key, lambda logins, _: logins.new_jwt()),
        says=("the login to Vault by jwt was refused", "signed with a key that Vault lacks"),
        do="put a new JWT in its file",
        person="put a new JWT in its file",
    ),
    Break(
        name="certificate revoked",
        method="cert",
        broken=_mended(_revoke_certificate, _new_certificate),
        says=("the login to Vault by cert was refused", "was revoked"),
        do="put a new certificate in vault.client_cert_file",
        person="put a new certificate in its file",
    ),
    Break(
        name="token revoked and not replaced",
        method="token_file",
        broken=_mended(lambda logins, _: logins.revoke_token_of_file(), lambda logins, _: logins.new_token()),
        says=("the Vault token in", "cannot be looked up (403)"),
        do="check the agent that writes the file",
        person="put a new token in its file",
    ),
)
