"""Tokens and logins against a real OpenBao: what expires, shrinks, is revoked or refused on the way."""

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, cast

import pytest
from joserfc import jwt
from joserfc.jwk import RSAKey

from rekeyd.adapters.vault_settings import AppRoleAuth, JwtAuth, KubernetesAuth
from rekeyd.core.model import VaultAbsent, VaultUnreadable
from rekeyd.demo.emulator.faults import Drop
from rekeyd.demo.emulator.vault_proxy import VaultError
from rekeyd.errors import RefusedError, TemporaryError
from tests.conftest import LogLines
from tests.contract.vault_approle import LOGIN, LOOK, RENEW, Json, Logins
from tests.contract.vault_stand import OpenBaoStand
from tests.contract.vault_tls import Authority, TlsServer
from tests.secret_registry import write_secret

pytestmark = pytest.mark.slow


def test_an_approle_logs_in_once_and_reports_its_end(logins: Logins) -> None:
    assert logins.works()
    assert logins.works()
    assert logins.count == 1
    assert logins.vault.token_ends_at() == logins.clock.now() + timedelta(hours=1)


def test_a_login_and_a_renewal_are_logged_without_the_token(logins: Logins, log_lines: LogLines) -> None:
    logins.clock.advance_to(logins.vault.maintain())
    logins.vault.maintain()
    told = [(line["event"], line["level"]) for line in log_lines()]
    assert told == [("vault.logged_in", "info"), ("vault.renewed", "debug")]


def test_a_token_is_renewed_between_55_and_70_percent_of_its_time(logins: Logins) -> None:
    began = logins.clock.now()
    next_at = logins.vault.maintain()
    assert timedelta(minutes=33) <= next_at - began <= timedelta(minutes=42)
    assert logins.vault.maintain() == next_at, "called early, nothing happens"
    assert logins.proxy.calls(RENEW) == []
    logins.clock.advance_to(next_at)
    assert logins.vault.maintain() > next_at
    assert (len(logins.proxy.calls(RENEW)), logins.count) == (1, 1)
    assert logins.vault.token_ends_at() == next_at + timedelta(hours=1)
    assert logins.vault.token_problem is None


@pytest.mark.parametrize(
    ("look", "says"),
    [
        (VaultError(503, ("Vault is sealed",)), "sealed"),
        (VaultError(500, ("internal error",)), "500"),
        (Drop(), "gave no answer"),
    ],
    ids=["sealed", "broken", "silent"],
)
def test_a_vault_in_trouble_is_seen_long_before_the_token_is_renewed(logins: Logins, look: Any, says: str) -> None:
    logins.vault.maintain()
    assert logins.vault.token_problem is None
    logins.proxy.fault(LOOK, do=look)
    assert logins.vault.maintain() == logins.clock.now() + timedelta(seconds=5)
    assert says in str(logins.vault.token_problem)
    logins.vault.maintain()
    assert (logins.vault.token_problem, logins.count) == (None, 1), "the token is kept"


def test_a_token_revoked_while_nobody_uses_it_is_replaced_by_the_look(logins: Logins) -> None:
    logins.vault.maintain()
    logins.revoke_all()
    logins.vault.maintain()
    assert (logins.vault.token_problem, logins.count) == (None, 2)


def test_a_revoked_token_that_cannot_be_replaced_is_a_problem(logins: Logins) -> None:
    logins.vault.maintain()
    write_secret(logins.secret_id_file, "00000000-1111-2222-3333-wrongsecretid")
    logins.revoke_all()
    for _ in range(2):
        logins.vault.maintain()
        assert "the login to Vault by approle was refused" in str(logins.vault.token_problem)
    assert logins.count == 2


def test_a_token_that_may_not_look_itself_up_is_not_taken_for_dead_each_time(logins: Logins) -> None:
    logins.approle(lambda a: a.create_or_update_approle(logins.name, token_no_default_policy=True))
    for _ in range(5):
        logins.vault.maintain()
        assert logins.vault.token_problem is None
    assert logins.count == 2, "the second tells that it is the role's way"
    logins.proxy.fault(LOOK, do=VaultError(503, ("Vault is sealed",)))
    logins.vault.maintain()
    assert "sealed" in str(logins.vault.token_problem), "and a sealed Vault is seen all the same"
    assert logins.works()


def test_a_look_costs_no_use_of_a_token_whose_uses_are_counted(logins: Logins) -> None:
    logins.approle(lambda a: a.create_or_update_approle(logins.name, token_num_uses=9))
    for _ in range(12):
        logins.vault.maintain()
        assert logins.vault.token_problem is None
    assert logins.works()
    assert logins.count == 1


@pytest.mark.parametrize(
    "renewal",
    [
        Json('{"auth": {"client_token": "x", "lease_duration": 1700, "renewable": true}, "warnings": ["max_ttl"]}'),
        VaultError(400, ("lease is not renewable",)),
        VaultError(403, ("permission denied",)),
        VaultError(500, ("internal error",)),
    ],
    ids=["the lease shrinks", "not renewable", "the token is dead", "the role was deleted"],
)
def test_a_renewal_that_gives_too_little_is_followed_by_a_login(logins: Logins, renewal: Any) -> None:
    next_at = logins.vault.maintain()
    logins.proxy.fault(RENEW, do=renewal)
    logins.clock.advance_to(next_at)
    logins.vault.maintain()
    assert logins.count == 2
    assert logins.vault.token_ends_at() == next_at + timedelta(hours=1)


STEP = timedelta(minutes=12)
"""What issuing one key may take."""


def test_a_token_that_would_end_inside_a_rotation_is_renewed_before_it_begins(logins: Logins) -> None:
    assert logins.works()
    assert logins.vault.token_ends_before(logins.clock.now() + STEP) is None
    assert logins.proxy.calls(RENEW) == [], "an hour is enough"
    logins.clock.advance(timedelta(minutes=50))
    assert logins.vault.token_ends_before(logins.clock.now() + STEP) is None
    assert (len(logins.proxy.calls(RENEW)), logins.count) == (1, 1)
    assert logins.vault.token_ends_at() == logins.clock.now() + timedelta(hours=1)


@pytest.mark.parametrize(
    "renewal",
    [
        Json('{"auth": {"client_token": "x", "lease_duration": 600, "renewable": true}, "warnings": ["max_ttl"]}'),
        VaultError(403, ("permission denied",)),
    ],
    ids=["it ends by its max TTL", "the token is dead"],
)
def test_a_token_that_cannot_last_for_a_rotation_is_replaced_before_it_begins(logins: Logins, renewal: Any) -> None:
    assert logins.works()
    logins.clock.advance(timedelta(minutes=50))
    logins.proxy.fault(RENEW, do=renewal)
    assert logins.vault.token_ends_before(logins.clock.now() + STEP) is None
    assert logins.count == 2
    assert logins.works()


def test_a_token_that_ends_too_early_is_told_when_vault_gives_no_other(logins: Logins) -> None:
    assert logins.works()
    ends_at = logins.vault.token_ends_at()
    logins.clock.advance(timedelta(minutes=50))
    logins.proxy.fault(RENEW, do=VaultError(503, ("Vault is sealed",)))
    assert logins.vault.token_ends_before(logins.clock.now() + STEP) == ends_at
    logins.vault.maintain()
    assert logins.vault.token_problem is None, "tried again at once, and not at its time"
    assert logins.vault.token_ends_before(logins.clock.now() + STEP) is None


def test_tokens_that_never_last_for_a_rotation_are_kept_alive_on_the_way(logins: Logins) -> None:
    assert logins.works()
    assert logins.vault.token_ends_before(logins.clock.now() + timedelta(hours=2)) is None
    assert (len(logins.proxy.calls(RENEW)), logins.count) == (0, 1)


def test_a_renewal_that_cannot_be_asked_for_keeps_the_token(logins: Logins) -> None:
    next_at = logins.vault.maintain()
    logins.proxy.fault(RENEW, do=VaultError(503, ("Vault is sealed",)))
    logins.proxy.fault(RENEW, do=Drop(), nth=2)
    logins.clock.advance_to(next_at)
    for _ in range(2):
        again = logins.vault.maintain()
        assert again == logins.clock.now() + timedelta(seconds=5)
        assert logins.vault.token_problem is not None
        logins.clock.advance_to(again)
    logins.vault.maintain()
    assert (logins.vault.token_problem, logins.count) == (None, 1)


def test_a_token_revoked_by_an_operator_is_replaced_within_the_call(logins: Logins) -> None:
    assert logins.works()
    logins.revoke_all()
    logins.clock.advance(timedelta(minutes=1))
    assert logins.works()
    assert logins.count == 2


def test_a_missing_permission_does_not_become_one_login_per_call(logins: Logins) -> None:
    assert logins.works()
    logins.clock.advance(timedelta(minutes=1))
    for _ in range(5):
        seen = logins.vault.current(logins.stand.place_at("other/ci", address=logins.proxy.address))
        assert isinstance(seen, VaultUnreadable)
    assert logins.count == 1


def test_a_token_whose_time_is_over_is_not_sent_again(logins: Logins) -> None:
    assert logins.works()
    logins.clock.advance(timedelta(hours=2))
    assert logins.works()
    assert logins.count == 2


def test_refused_logins_are_repeated_once_and_then_rest_longer_than_vault_counts(logins: Logins) -> None:
    write_secret(logins.secret_id_file, "00000000-1111-2222-3333-wrongsecretid")
    began = logins.clock.now()
    while logins.clock.now() - began < timedelta(minutes=20):
        next_at = logins.vault.maintain()
        assert isinstance(logins.vault.current(logins.place), VaultUnreadable)
        assert logins.vault.token_problem is not None
        assert logins.count <= 2
        logins.clock.advance_to(next_at)
    assert logins.clock.now() - began == timedelta(minutes=20), "16 minutes after the second one"
    write_secret(logins.secret_id_file, logins.role.secret_id)
    assert logins.works(), "a new secret_id is tried, and the role is not locked"
    assert logins.count == 3


def test_a_replaced_role_id_is_tried_at_once(logins: Logins, tmp_path: Path) -> None:
    file = write_secret(tmp_path / "role_id", "00000000-1111-2222-3333-wrongroleid")
    vault = logins.adapter(AppRoleAuth(role_id_file=file, secret_id_file=logins.secret_id_file))
    assert isinstance(vault.current(logins.place), VaultUnreadable)
    assert isinstance(vault.current(logins.place), VaultUnreadable)
    assert logins.count == 1
    write_secret(file, logins.role.role_id)
    assert vault.current(logins.place) == VaultAbsent(0)
    vault.close()


def test_a_replaced_secret_id_is_tried_at_once(logins: Logins) -> None:
    write_secret(logins.secret_id_file, "00000000-1111-2222-3333-wrongsecretid")
    assert not logins.works()
    assert not logins.works()
    assert logins.count == 1
    write_secret(logins.secret_id_file, logins.role.secret_id)
    assert logins.works()


def test_a_refused_login_says_what_to_check_and_not_what_was_sent(logins: Logins) -> None:
    write_secret(logins.secret_id_file, "00000000-1111-2222-3333-wrongsecretid")
    with pytest.raises(RefusedError, match=r"the login to Vault by approle was refused \(400\)") as caught:
        logins.vault.read_mark()
    assert caught.value.hint is not None
    assert "secretid" not in caught.value.message + caught.value.hint


def test_a_lost_login_is_not_repeated_blindly(logins: Logins) -> None:
    logins.proxy.fault(LOGIN, when="after", do=Drop())
    next_at = logins.vault.maintain()
    assert logins.count == 1
    assert next_at == logins.clock.now() + timedelta(seconds=5)
    logins.clock.advance_to(next_at)
    logins.vault.maintain()
    assert (logins.count, logins.vault.token_problem) == (2, None)


def test_closing_revokes_the_token_that_rekeyd_logged_in_for(logins: Logins) -> None:
    assert logins.works()
    logins.vault.close()
    assert [seen.status for seen in logins.proxy.calls("POST auth/token/revoke-self")] == [204]
    logins.vault.close()


def test_the_role_id_may_stand_in_a_file(logins: Logins, tmp_path: Path) -> None:
    write_secret(tmp_path / "role_id", logins.role.role_id)
    auth = AppRoleAuth(role_id_file=tmp_path / "role_id", secret_id_file=logins.secret_id_file)
    vault = logins.adapter(auth)
    assert vault.current(logins.place) == VaultAbsent(0)
    vault.close()


# --- jwt ---


def test_a_jwt_is_read_anew_at_each_login(logins: Logins, tmp_path: Path) -> None:
    key = RSAKey.generate_key(2048)
    mount = f"jwt-{logins.stand.mount}"
    with logins.stand.server.client() as client:
        client.sys.enable_auth_method("jwt", path=mount)
        client.auth.jwt.configure(
            jwt_validation_pubkeys=[key.as_pem(private=False).decode()], bound_issuer="https://issuer", path=mount
        )
        client.auth.jwt.create_role(
            "rekeyd",
            user_claim="sub",
            allowed_redirect_uris=[],
            role_type="jwt",
            bound_audiences=["vault"],
            bound_subject="system:serviceaccount:ops:rekeyd",
            token_policies=[logins.name],
            token_ttl="20m",
            path=mount,
        )

    def signed(expires_in: int) -> str:
        now = int(datetime.now(UTC).timestamp())  # noqa: TID251 - the server judges it by the machine's clock
        claims = {
            "iss": "https://issuer",
            "aud": "vault",
            "sub": "system:serviceaccount:ops:rekeyd",
            "iat": now - 900,
            "exp": now + expires_in,
        }
        return jwt.encode({"alg": "RS256"}, claims, key)

    file = write_secret(tmp_path / "jwt", signed(-600))
    vault = logins.adapter(JwtAuth(role="rekeyd", jwt_file=file, mount=mount))
    assert isinstance(vault.current(logins.place), VaultUnreadable), "expired"
    write_secret(file, signed(600))
    assert vault.current(logins.place) == VaultAbsent(0)
    assert vault.token_ends_at() == logins.clock.now() + timedelta(minutes=20)
    vault.close()


# --- kubernetes ---


def test_a_service_account_logs_in_by_its_projected_token(logins: Logins, tmp_path: Path) -> None:
    key = RSAKey.generate_key(2048)
    mount = f"k8s-{logins.stand.mount}"
    account = {"name": "rekeyd", "uid": "u-1"}
    review = {
        "kind": "TokenReview",
        "apiVersion": "authentication.k8s.io/v1",
        "status": {
            "authenticated": True,
            "audiences": ["vault"],
            "user": {"username": "system:serviceaccount:ops:rekeyd", "uid": "u-1"},
        },
    }
    authority = Authority(tmp_path, "cluster-ca")
    now = int(datetime.now(UTC).timestamp())  # noqa: TID251 - the server judges it by the machine's clock
    claims = {
        "iss": "https://kubernetes.default.svc",
        "aud": ["vault"],
        "sub": "system:serviceaccount:ops:rekeyd",
        "iat": now,
        "exp": now + 600,
        "kubernetes.io": {"namespace": "ops", "serviceaccount": account},
    }
    first, second = (jwt.encode({"alg": "RS256"}, claims | {"jti": name}, key) for name in ("first", "second"))
    file = write_secret(tmp_path / "projected", first)
    with TlsServer(authority.issue("api-server", "127.0.0.1"), answer=review) as api_server:
        with logins.stand.server.client() as client:
            client.sys.enable_auth_method("kubernetes", path=mount)
            client.auth.kubernetes.configure(
                kubernetes_host=api_server.address,
                kubernetes_ca_cert=authority.file.read_text(),
                disable_local_ca_jwt=True,
                mount_point=mount,
            )
            client.auth.kubernetes.create_role(
                "rekeyd",
                bound_service_account_names=["rekeyd"],
                bound_service_account_namespaces=["ops"],
                audience="vault",
                policies=[logins.name],
                ttl="15m",
                mount_point=mount,
            )
        vault = logins.adapter(KubernetesAuth(role="rekeyd", jwt_file=file, mount=mount))
        assert vault.current(logins.place) == VaultAbsent(0)
        assert vault.token_ends_at() == logins.clock.now() + timedelta(minutes=15)
        # The kubelet puts another one in its place long before the first has expired.
        write_secret(file, second)
        vault.maintain()
        with logins.stand.server.client() as client:
            client.adapter.post(f"/v1/sys/leases/revoke-prefix/auth/{mount}/login")
        vault.maintain()
        assert vault.current(logins.place) == VaultAbsent(0)
        vault.close()
        reviews = cast("list[tuple[str, Any]]", api_server.bodies)
        shown = [review["spec"]["token"] for _, review in reviews]
        assert shown == [first, second]


# --- token_file ---


def test_a_token_file_is_read_again_when_it_changes(logins: Logins, tmp_path: Path) -> None:
    stand = OpenBaoStand(logins.stand.server, logins.stand.mount, tmp_path)
    first = stand.server.create_token([logins.name], ttl="20m")
    write_secret(stand.token_file, first)
    assert stand.vault.current(stand.place) == VaultAbsent(0)
    stand.server.revoke_token(first)
    # As the agent does: a new file in its place, without a newline.
    fresh = write_secret(tmp_path / "new", stand.server.create_token([logins.name], ttl="20m"))
    fresh.write_text(fresh.read_text().strip())
    fresh.replace(stand.token_file)
    assert stand.vault.current(stand.place) == VaultAbsent(0)


def test_a_token_replaced_without_a_trace_is_read_again_after_a_403(logins: Logins, tmp_path: Path) -> None:
    stand = OpenBaoStand(logins.stand.server, logins.stand.mount, tmp_path)
    first, second = (stand.server.create_token([logins.name], ttl="20m") for _ in range(2))
    write_secret(stand.token_file, first)
    assert stand.vault.current(stand.place) == VaultAbsent(0)
    before = stand.token_file.stat()
    stand.server.revoke_token(first)
    write_secret(stand.token_file, second)
    os.utime(stand.token_file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert stand.vault.current(stand.place) == VaultAbsent(0)


def test_a_token_file_that_is_gone_for_a_moment_does_not_stop_the_work(logins: Logins, tmp_path: Path) -> None:
    stand = OpenBaoStand(logins.stand.server, logins.stand.mount, tmp_path)
    assert stand.vault.current(stand.place) == VaultAbsent(0)
    stand.token_file.unlink()
    assert stand.vault.current(stand.place) == VaultAbsent(0)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "no such file or directory"),
        (b"", "is empty, longer than one word, or has odd characters"),
        (b"s.token\r\nX-Injected: 1", "is empty, longer than one word, or has odd characters"),
        (b"\xff\xfe\x00", "not plain text"),
    ],
    ids=["missing", "empty", "two lines", "binary"],
)
def test_a_token_file_that_is_none_is_said_so_without_its_content(
    logins: Logins, tmp_path: Path, content: bytes | None, said: str
) -> None:
    stand = OpenBaoStand(logins.stand.server, logins.stand.mount, tmp_path)
    stand.token_file.unlink()
    if content is not None:
        stand.token_file.write_bytes(content)
    with pytest.raises(TemporaryError, match=said) as caught:
        stand.vault.read_mark()
    assert "Injected" not in caught.value.message
    assert str(stand.token_file) in caught.value.message


def test_no_token_of_the_surroundings_is_ever_used(
    logins: Logins, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "home"
    home.mkdir()
    write_secret(home / ".vault-token", logins.stand.server.root_token)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("VAULT_TOKEN", logins.stand.server.root_token)
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("NO_PROXY", "")
    (home / ".netrc").write_text("machine 127.0.0.1 login a password b\n")
    stand = OpenBaoStand(logins.stand.server, logins.stand.mount, tmp_path, token="s.notavalidtokenatall1234")
    seen = stand.vault.current(stand.place)
    assert isinstance(seen, VaultUnreadable)
    assert "not permitted" in seen.detail


def test_a_file_token_that_nobody_renews_is_renewed_when_little_is_left(logins: Logins, tmp_path: Path) -> None:
    stand = OpenBaoStand(logins.stand.server, logins.stand.mount, tmp_path, address=logins.proxy.address)
    write_secret(stand.token_file, stand.server.create_token([logins.name], ttl="30m"))
    stand.vault.maintain()
    assert logins.proxy.calls(RENEW) == []
    body = '{"data": {"ttl": 500, "creation_ttl": 1800, "renewable": true, "expire_time": "2026-01-01T00:00:00Z"}}'
    logins.proxy.fault("GET auth/token/lookup-self", do=Json(body))
    stand.vault.maintain()
    assert [seen.status for seen in logins.proxy.calls(RENEW)] == [200]
    assert stand.vault.token_ends_at() == stand.clock.now() + timedelta(minutes=30)


def test_a_root_token_does_not_end(logins: Logins) -> None:
    assert logins.stand.vault.token_ends_at() is None
    assert logins.stand.vault.maintain() == logins.stand.clock.now() + timedelta(minutes=5)
