"""The policy that `rekeyd policy vault` prints, on a real server: all that rekeyd does works with it, and no more."""

from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from rekeyd.adapters.vault_kv import KvVault
from rekeyd.adapters.vault_settings import AppRoleAuth, VaultSettings
from rekeyd.cli.policies_vault import vault_policy
from rekeyd.config import parse
from rekeyd.core.model import Place, VaultHeld, VaultUnreadable
from rekeyd.demo.openbao import OpenBaoServer
from rekeyd.errors import AccessDeniedError, PreconditionError
from rekeyd.ports import Mark
from tests.contract.vault_stand import NEW, OLD, OpenBaoStand, fields, note, pair, unguarded
from tests.secret_registry import remember, write_secret

pytestmark = pytest.mark.slow

ACCOUNT = "111122223333"
TEMPLATES = {
    "the usual path": ("aws/{account_id}/{user_name}", f"aws/{ACCOUNT}/ci"),
    "the user's IAM path in it": ("iam/{account_id}/{user_path}/{user_name}", f"iam/{ACCOUNT}/service/eu/ci"),
    "the user's name within a segment": ("keys/{account_id}-{user_name}", f"keys/{ACCOUNT}-ci"),
    "a placeholder before other segments": ("{partition}/users/{user_name}/key", "aws/users/ci/key"),
}


class Limited:
    """The adapter with a role that has the printed policy only, without Vault's policy `default`."""

    def __init__(self, server: OpenBaoServer, mount: str, folder: Path, template: str, path: str, mode: str) -> None:
        self.server, self.mount = server, mount
        self.stand = OpenBaoStand(server, mount, folder)
        config = parse(
            f'[[aws.accounts]]\nid = "{ACCOUNT}"\n[vault]\naddress = "{server.address}"\nmount = "{mount}"\n'
            f'path = "{template}"\n[vault.auth]\ntoken_file = "/t"\n'
            f'[[policies]]\nname = "all"\n[fleet]\nmode = "{mode}"',
            {},
        )
        name = f"printed-{mount}"
        server.write_policy(name, vault_policy(config).document)
        role = server.create_app_role(name, [name], token_no_default_policy=True, token_ttl="1h")
        auth = AppRoleAuth(role_id=role.role_id, secret_id_file=write_secret(folder / "secret_id", role.secret_id))
        settings: VaultSettings = replace(self.stand.settings, auth=auth)
        self.vault = KvVault(settings, self.stand.clock)
        self.place = self.stand.place_at(path)
        self.token_file = folder / "secret_id"

    def put(self, place: Place) -> int:
        return self.server.write(place.path, fields(OLD), mount=self.mount)

    def publish(self, cas: int) -> int:
        give_up_at = self.stand.clock.now() + timedelta(minutes=1)
        return self.vault.publish(self.place, pair(NEW), cas=cas, extra={}, guard=unguarded, give_up_at=give_up_at)[0]


@pytest.fixture(params=list(TEMPLATES))
def limited(openbao: OpenBaoServer, kv_mount: str, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Limited]:
    template, path = TEMPLATES[request.param]
    made = Limited(openbao, kv_mount, tmp_path, template, path, "enforce")
    yield made
    made.vault.close()


def test_everything_that_rekeyd_does_works(limited: Limited) -> None:
    vault, place = limited.vault, limited.place
    vault.check_writable(place)
    assert vault.burn(place, cas=0, guard=unguarded) == 1
    assert limited.publish(1) == 2
    vault.check_writable(place)
    assert isinstance(vault.current(place), VaultHeld)
    assert vault.read_pair(place, 2) is not None
    vault.write_note(place, note(2))
    history = vault.history(place)
    assert history is not None
    assert len(history.versions) == 2
    vault.destroy(place, [1])
    vault.check_mark()
    mark = Mark(version=0, instance="default", incarnation="i", seq=1, event_hash="h")
    assert vault.write_mark(mark) == 1
    vault.check_mark()
    assert vault.read_mark().seq == 1
    assert vault.token_ends_at() is not None
    vault.maintain()
    assert vault.token_problem is None
    vault.close()


Verb = tuple[str, str, dict[str, object] | None]

NEIGHBOURS = ("other/ci", "awsx/111122223333/ci", "aws/444455556666/ci", f"aws/{ACCOUNT}/ci/below", "rekeyd/other")


@pytest.fixture
def usual(openbao: OpenBaoServer, kv_mount: str, tmp_path: Path) -> Iterator[Limited]:
    made = Limited(openbao, kv_mount, tmp_path, *TEMPLATES["the usual path"], "enforce")
    yield made
    made.vault.close()


@pytest.mark.parametrize("path", NEIGHBOURS)
def test_a_neighbours_path_is_refused(usual: Limited, path: str) -> None:
    place = replace(usual.place, path=path)
    usual.put(place)
    assert isinstance(usual.vault.current(place), VaultUnreadable)
    with pytest.raises(PreconditionError, match=r"no permission"):
        usual.vault.check_writable(place)


VERBS: dict[str, Verb] = {
    "list the users": ("LIST", "{mount}/metadata/aws/111122223333", None),
    "list the mount": ("LIST", "{mount}/metadata", None),
    "soft-delete the pair": ("DELETE", "{mount}/data/{path}", None),
    "soft-delete versions": ("POST", "{mount}/delete/{path}", {"versions": [1]}),
    "undelete versions": ("POST", "{mount}/undelete/{path}", {"versions": [1]}),
    "delete the secret with its numbering": ("DELETE", "{mount}/metadata/{path}", None),
    "patch the pair": ("PATCH", "{mount}/data/{path}", {"data": {"x": "y"}, "options": {"cas": 1}}),
    "configure the mount": ("POST", "{mount}/config", {"max_versions": 1}),
    "delete the mark": ("DELETE", "{mount}/metadata/rekeyd/default", None),
    "destroy the mark": ("POST", "{mount}/destroy/rekeyd/default", {"versions": [1]}),
    "list mounts": ("GET", "sys/mounts", None),
    "read policies": ("GET", "sys/policies/acl/root", None),
    "make a token": ("POST", "auth/token/create", {}),
    "make a secret_id": ("POST", "auth/approle/role/any/secret-id", {}),
}


@pytest.mark.parametrize("case", VERBS.items(), ids=lambda case: case[0])
def test_every_other_verb_is_refused(usual: Limited, case: tuple[str, Verb]) -> None:
    verb, path, body = case[1]
    usual.put(usual.place)
    usual.put(replace(usual.place, path="rekeyd/default"))
    with usual.server.client("") as client:
        login = client.auth.approle.login(*_credentials(usual), use_token=False)
    token = remember(login["auth"]["client_token"])
    where = path.format(mount=usual.mount, path=usual.place.path)
    with usual.server.client(token) as client:
        headers = {"Content-Type": "application/merge-patch+json"} if verb == "PATCH" else None
        answer = client.session.request(
            verb,
            f"{usual.server.address}/v1/{where}",
            json=body,
            headers={"X-Vault-Token": token, "X-Vault-Request": "true", **(headers or {})},
            timeout=10,
        )
    assert answer.status_code == 403


def _credentials(limited: Limited) -> tuple[str, str]:
    with limited.server.client() as client:
        role_id = client.auth.approle.read_role_id(f"printed-{limited.mount}")["data"]["role_id"]
    return role_id, limited.token_file.read_text().strip()


def test_observing_reads_and_cannot_write(openbao: OpenBaoServer, kv_mount: str, tmp_path: Path) -> None:
    made = Limited(openbao, kv_mount, tmp_path, *TEMPLATES["the usual path"], "observe")
    version = made.put(made.place)
    assert isinstance(made.vault.current(made.place), VaultHeld)
    assert made.vault.history(made.place) is not None
    assert made.vault.read_mark().version == 0
    with pytest.raises(AccessDeniedError, match="no permission"):
        made.publish(version)
    with pytest.raises(PreconditionError, match="lacks"):
        made.vault.check_writable(made.place)
    made.vault.close()
