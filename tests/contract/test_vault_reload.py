"""What a reload of the configuration takes over: a new adapter beside the old one, which is closed when it is idle."""

from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from rekeyd.adapters.vault_kv import KvVault
from rekeyd.adapters.vault_settings import AppRoleAuth
from rekeyd.core.model import VaultAbsent, VaultUnreadable
from rekeyd.errors import InterceptedError
from tests.contract.vault_approle import LOGIN, REVOKE, UNWRAP, Logins
from tests.secret_registry import remember, write_secret

pytestmark = pytest.mark.slow

WRONG = "00000000-1111-2222-3333-wrongsecretid"


def auth_of(logins: Logins) -> AppRoleAuth:
    return AppRoleAuth(role_id=logins.role.role_id, secret_id_file=logins.secret_id_file)


def reloaded(logins: Logins, before: KvVault, auth: AppRoleAuth, *, pool_size: int = 16) -> KvVault:
    settings = replace(logins.stand.settings, address=logins.proxy.address, auth=auth, pool_size=pool_size)
    return KvVault(settings, logins.clock, before=before)


def wrapped_auth(logins: Logins, file: Path) -> AppRoleAuth:
    """The file holds a new wrapping token of the role."""
    made = logins.approle(lambda a: a.generate_secret_id(logins.name, wrap_ttl="5m"))
    write_secret(file, remember(str(made["wrap_info"]["token"])))
    return AppRoleAuth(role_id=logins.role.role_id, secret_id_file=file, wrapped=True)


def test_the_token_lives_on_and_the_last_that_is_closed_revokes_it(logins: Logins) -> None:
    assert logins.works()
    newer = reloaded(logins, logins.vault, auth_of(logins), pool_size=3)
    newest = reloaded(logins, newer, auth_of(logins))
    for retired in (logins.vault, logins.vault, newer):
        retired.close()
        assert newest.current(logins.place) == VaultAbsent(0)
    newest.maintain()
    assert (newest.token_problem, logins.count, len(logins.proxy.calls(REVOKE))) == (None, 1, 0)
    newest.close()
    assert [seen.status for seen in logins.proxy.calls(REVOKE)] == [204]


def test_a_reload_that_was_given_up_takes_no_token_away(logins: Logins) -> None:
    assert logins.works()
    reloaded(logins, logins.vault, auth_of(logins)).close()
    assert logins.works()
    assert (logins.count, len(logins.proxy.calls(REVOKE))) == (1, 0)


def test_a_secret_id_for_one_login_is_not_used_up_by_a_reload(logins: Logins) -> None:
    with logins.stand.server.client() as client:
        client.auth.approle.create_or_update_approle(logins.name, secret_id_num_uses=1)
        made = client.auth.approle.generate_secret_id(logins.name)
    write_secret(logins.secret_id_file, remember(made["data"]["secret_id"]))
    assert logins.works()
    newer = reloaded(logins, logins.vault, auth_of(logins))
    logins.vault.close()
    assert newer.current(logins.place) == VaultAbsent(0)
    newer.close()


@pytest.mark.parametrize("change", ["nothing", "the role is named", "the file is another"])
def test_a_wrapped_secret_id_that_was_opened_stays_open(logins: Logins, tmp_path: Path, change: str) -> None:
    auth = wrapped_auth(logins, tmp_path / "wrapped")
    before = logins.adapter(auth)
    assert before.current(logins.place) == VaultAbsent(0)
    if change == "the role is named":
        auth = replace(auth, role=logins.name)
    elif change == "the file is another":
        auth = replace(auth, secret_id_file=write_secret(tmp_path / "other", (tmp_path / "wrapped").read_text()))
    newer = reloaded(logins, before, auth)
    before.close()
    logins.revoke_all()
    newer.maintain()
    assert newer.token_problem is None
    assert newer.current(logins.place) == VaultAbsent(0)
    assert len(logins.proxy.calls(UNWRAP)) == 1
    newer.close()


def test_a_secret_id_of_another_role_than_the_one_now_named_is_said_to_be_intercepted(
    logins: Logins, tmp_path: Path
) -> None:
    auth = wrapped_auth(logins, tmp_path / "wrapped")
    before = logins.adapter(auth)
    assert before.current(logins.place) == VaultAbsent(0)
    newer = reloaded(logins, before, replace(auth, role="another"))
    with pytest.raises(InterceptedError, match=f"was made at auth/approle/role/{logins.name}/secret-id"):
        newer.read_mark()
    back = reloaded(logins, newer, auth)
    assert back.current(logins.place) == VaultAbsent(0), "a setting that was wrong spoils nothing"
    for vault in (before, newer, back):
        vault.close()


def test_refused_logins_are_counted_on(logins: Logins) -> None:
    files = [write_secret(logins.secret_id_file.with_name(name), WRONG) for name in ("secret_id", "the-same")]
    vault = logins.vault
    for number in range(20):
        assert isinstance(vault.current(logins.place), VaultUnreadable)
        vault = reloaded(logins, vault, replace(auth_of(logins), secret_id_file=files[number % 2]))
        logins.clock.advance(timedelta(seconds=30))
    assert logins.count == 2, "at once, and after four minutes"
    write_secret(files[1], logins.role.secret_id)
    assert vault.current(logins.place) == VaultAbsent(0)
    vault.close()


def test_a_corrected_mount_is_tried_at_once(logins: Logins) -> None:
    vault = logins.adapter(replace(auth_of(logins), mount="no-such"))
    assert isinstance(vault.current(logins.place), VaultUnreadable)
    newer = reloaded(logins, vault, auth_of(logins))
    assert newer.current(logins.place) == VaultAbsent(0)
    assert len(logins.proxy.calls(LOGIN)) == 2
    newer.close()


def test_another_role_id_gets_a_token_of_its_own(logins: Logins) -> None:
    assert logins.works()
    other = logins.stand.server.create_app_role("other-role", [logins.name])
    file = write_secret(logins.secret_id_file.parent / "other", other.secret_id)
    remember(other.secret_id)
    newer = reloaded(logins, logins.vault, AppRoleAuth(role_id=other.role_id, secret_id_file=file))
    assert newer.current(logins.place) == VaultAbsent(0)
    assert logins.works()
    logins.vault.close()
    assert len(logins.proxy.calls(REVOKE)) == 1
    assert newer.current(logins.place) == VaultAbsent(0)
    newer.close()
    assert [seen.status for seen in logins.proxy.calls(REVOKE)] == [204, 204]
