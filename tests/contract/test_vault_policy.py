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

    def __init__(
        self, server: OpenBaoServer, mount: str, folder: Path, template: str, path: str, mode: str, more: str = ""
    ) -> None:
        self.server, self.mount = server, mount
        self.stand = OpenBaoStand(server, mount, folder)
        config = parse(
            f'[[aws.accounts]]\nid = "{ACCOUNT}"\n[vault]\naddress = "{server.address}"\nmount = "{mount}"\n'
            f'path = "{template}"\n[vault.auth]\ntoken_file = "/t"\n'
            f'{more}\n[[policies]]\nname = "all"\n[fleet]\nmode = "{mode}"',
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
    _does_everything(limited)


def _does_everything(limited: Limited) -> None:
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


SECOND = (
    '[[policies]]\nname = "second"\nmatch = {{ paths = ["/b/"] }}\nmount = "{mount}"\npath = "second/{{user_name}}/key"'
)


@pytest.fixture
def second(openbao: OpenBaoServer, kv_mount: str, tmp_path: Path) -> Iterator[Limited]:
    """The place of a policy of its own, in a child namespace, beside the usual one of [vault]."""
    with openbao.client() as client:
        client.adapter.post(f"/v1/sys/namespaces/team-{kv_mount}")
        client.adapter.namespace = f"team-{kv_mount}"
        client.sys.enable_secrets_engine("kv", path="inner", options={"version": "2"})
    more = SECOND.format(mount="inner") + f'\nnamespace = "team-{kv_mount}"'
    made = Limited(openbao, kv_mount, tmp_path, *TEMPLATES["the usual path"], "enforce", more)
    made.place = replace(made.place, namespace=f"team-{kv_mount}", mount="inner", path="second/ci/key")
    yield made
    made.vault.close()


def test_everything_works_in_a_child_namespace_too(second: Limited) -> None:
    _does_everything(second)


@pytest.mark.parametrize(
    ("mount", "path"),
    [
        ("inner", "second/ci"),
        ("inner", "second/ci/key/below"),
        ("inner", "second/ci/other"),
        ("inner", f"aws/{ACCOUNT}/ci"),
        ("inner", "rekeyd/default"),
        ("other", "second/ci/key"),
    ],
)
def test_a_neighbour_of_a_second_place_is_refused(second: Limited, mount: str, path: str) -> None:
    with second.server.client() as client:
        client.adapter.namespace = second.place.namespace
        if mount == "other":
            client.sys.enable_secrets_engine("kv", path=mount, options={"version": "2"})
        client.secrets.kv.v2.create_or_update_secret(path, fields(OLD), mount_point=mount)
    place = replace(second.place, mount=mount, path=path)
    assert isinstance(second.vault.current(place), VaultUnreadable)
    with pytest.raises(PreconditionError, match=r"no permission|not permitted"):
        second.vault.check_writable(place)


def test_the_second_place_is_not_granted_where_the_first_lies(second: Limited) -> None:
    place = replace(second.place, namespace="", mount=second.mount)
    second.put(place)
    assert isinstance(second.vault.current(place), VaultUnreadable)


def test_the_mark_is_not_destroyed_by_a_policy_that_reaches_everything(
    openbao: OpenBaoServer, kv_mount: str, tmp_path: Path
) -> None:
    made = Limited(openbao, kv_mount, tmp_path, "{user_path}/{user_name}", "service/ci", "enforce")
    _does_everything(made)
    again = Limited(openbao, kv_mount, tmp_path, "{user_path}/{user_name}", "service/ci", "enforce")
    mark = replace(again.place, path="rekeyd/default")
    with pytest.raises(AccessDeniedError):
        again.vault.destroy(mark, [1])
    with pytest.raises(AccessDeniedError):
        again.vault.write_note(mark, note(1))
    assert again.vault.read_mark().seq == 1
    again.vault.close()


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
