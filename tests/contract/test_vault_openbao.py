"""What only a real KV v2 shows: mounts, permissions, other people's settings, odd paths."""

import threading
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from rekeyd.adapters.vault_kv import KvVault
from rekeyd.core.model import VaultAbsent, VaultDeleted, VaultHeld, VaultUnreadable
from rekeyd.demo.emulator.faults import Drop, Http
from rekeyd.demo.emulator.vault_proxy import VaultError, VaultProxy
from rekeyd.demo.openbao import OpenBaoServer
from rekeyd.errors import (
    AccessDeniedError,
    ConflictError,
    NotFoundError,
    PreconditionError,
    RefusedError,
    TemporaryError,
)
from tests.contract.vault_stand import NEW, OLD, OpenBaoStand, fields, note, pair, unguarded
from tests.integration.test_openbao import eventually

pytestmark = pytest.mark.slow


@pytest.fixture
def stand(openbao: OpenBaoServer, kv_mount: str, tmp_path: Path) -> Iterator[OpenBaoStand]:
    made = OpenBaoStand(openbao, kv_mount, tmp_path)
    yield made
    made.close()


def limited(stand: OpenBaoStand, folder: Path, policy: str, *, address: str | None = None) -> OpenBaoStand:
    """The same mount, seen with a token of this policy; `MOUNT` in it is the mount."""
    name = f"p-{stand.mount}"
    stand.server.write_policy(name, policy.replace("MOUNT", stand.mount))
    token = stand.server.create_token([name], ttl="20m")
    return OpenBaoStand(stand.server, stand.mount, folder, address=address, token=token)


LEAST = """
path "MOUNT/data/aws/*"     { capabilities = ["create", "read", "update"] }
path "MOUNT/metadata/aws/*" { capabilities = ["create", "read", "update", "patch"] }
path "MOUNT/destroy/aws/*"  { capabilities = ["update"] }
"""


# --- mounts ---


def test_kv_version_1_is_refused_before_anything_is_written(stand: OpenBaoStand, openbao: OpenBaoServer) -> None:
    openbao.enable_kv(f"{stand.mount}-one", version=1)
    place = stand.place_at("aws/1/ci", mount=f"{stand.mount}-one")
    seen = stand.vault.current(place)
    assert isinstance(seen, VaultUnreadable)
    assert "KV version 1" in seen.detail
    with pytest.raises(RefusedError, match="KV version 1, which has no check-and-set"):
        stand.vault.publish(place, pair(NEW), cas=0, extra={}, guard=unguarded, give_up_at=stand.clock.in_time())
    with pytest.raises(PreconditionError, match="KV version 1"):
        stand.vault.check_writable(place)
    with openbao.client() as client:
        assert client.adapter.request("LIST", f"/v1/{place.mount}/", raise_exception=False).status_code == 404


def test_a_mount_that_is_not_there_is_no_absent_secret(stand: OpenBaoStand) -> None:
    place = stand.place_at("aws/1/ci", mount="nowhere")
    seen = stand.vault.current(place)
    assert isinstance(seen, VaultUnreadable)
    assert seen.detail == "look up the mount nowhere: not permitted, or there is no such mount"


def test_another_engine_than_kv_is_refused(stand: OpenBaoStand) -> None:
    with pytest.raises(PreconditionError, match=r"cubbyhole of Vault at .* is of type cubbyhole, not kv"):
        stand.vault.check_writable(stand.place_at("aws/1/ci", mount="cubbyhole"))


def test_a_mount_that_goes_on_below_its_path_is_told_apart(stand: OpenBaoStand) -> None:
    with pytest.raises(PreconditionError, match=f"the mount is {stand.mount}, not {stand.mount}/team"):
        stand.vault.check_writable(stand.place_at("aws/1/ci", mount=f"{stand.mount}/team"))


def test_a_place_on_another_server_is_not_looked_for_here(stand: OpenBaoStand) -> None:
    place = stand.place_at("aws/1/ci", address="https://old-vault.example:8200")
    seen = stand.vault.current(place)
    assert isinstance(seen, VaultUnreadable)
    assert "lies in Vault at https://old-vault.example:8200" in seen.detail


def test_a_place_may_lie_in_another_namespace(stand: OpenBaoStand, openbao: OpenBaoServer) -> None:
    with openbao.client() as client:
        client.adapter.post(f"/v1/sys/namespaces/team-{stand.mount}")
        client.adapter.namespace = f"team-{stand.mount}"
        client.sys.enable_secrets_engine("kv", path="inner", options={"version": "2"})
    place = replace(stand.place_at("aws/1/ci", mount="inner"), namespace=f"team-{stand.mount}")
    assert stand.vault.current(place) == VaultAbsent(0)
    stand.vault.publish(place, pair(NEW), cas=0, extra={}, guard=unguarded, give_up_at=stand.clock.in_time())
    assert isinstance(stand.vault.current(place), VaultHeld)
    nowhere = stand.vault.current(replace(place, namespace="not-there"))
    assert isinstance(nowhere, VaultUnreadable)


@pytest.mark.parametrize("path", ["aws/1/..", "aws/./ci", "aws//ci", "/aws/ci", "aws/ci/", "aws/c\ni", "aws/\x7f"])
def test_a_path_that_a_library_would_rewrite_never_leaves(stand: OpenBaoStand, path: str) -> None:
    place = stand.place_at(path)
    assert isinstance(stand.vault.current(place), VaultUnreadable)
    with pytest.raises(RefusedError, match="in Vault has a"):
        stand.vault.destroy(place, [1])


@pytest.mark.parametrize(
    "name", ["a+b=c,d.e@f_g-h", "%2e%2e", "a b", "Zoë", "a%2Fb", "a;b&c?d#e", "{x}", "~", "x" * 64]
)
def test_every_other_name_is_one_place_of_its_own(stand: OpenBaoStand, name: str) -> None:
    place = stand.place_at(f"aws/1/{name}")
    stand.vault.publish(place, pair(NEW), cas=0, extra={}, guard=unguarded, give_up_at=stand.clock.in_time())
    stand.vault.write_note(place, note(1))
    stand.vault.check_writable(place)
    held = stand.vault.current(place)
    assert isinstance(held, VaultHeld)
    assert held.note == note(1)
    assert stand.kv(lambda kv: kv.list_secrets("aws/1", mount_point=stand.mount))["data"]["keys"] == [name]


# --- permissions ---


def test_the_least_policy_is_enough_for_everything(stand: OpenBaoStand, tmp_path: Path) -> None:
    small = limited(stand, tmp_path, LEAST)
    small.vault.check_writable(small.place)
    assert small.publish(cas=0) == 1
    small.vault.check_writable(small.place)
    small.vault.write_note(small.place, note(1))
    assert small.vault.burn(small.place, cas=1, guard=unguarded) == 2
    small.vault.destroy(small.place, [1])
    assert small.vault.history(small.place) is not None
    ends_at = small.vault.token_ends_at()
    assert ends_at is not None
    assert timedelta(minutes=19) < ends_at - small.clock.now() <= timedelta(minutes=20)


@pytest.mark.parametrize(
    ("taken", "given", "missing"),
    [
        ('"create", "read", "update"]', '"read", "update"]', "create on"),
        ('"create", "read", "update"]', '"create", "read"]', "update on"),
        ('"update", "patch"', '"create"', "patch on"),
        ('destroy/aws/*"  { capabilities = ["update"]', 'destroy/aws/*"  { capabilities = ["deny"]', "update on"),
    ],
)
def test_a_missing_permission_is_named_before_anything_begins(
    stand: OpenBaoStand, tmp_path: Path, taken: str, given: str, missing: str
) -> None:
    assert taken in LEAST
    small = limited(stand, tmp_path, LEAST.replace(taken, given, 1))
    with pytest.raises(PreconditionError, match=f"the Vault token lacks {missing} {stand.mount}/"):
        small.vault.check_writable(small.place)


def test_a_path_without_any_permission_is_unreadable_and_not_absent(stand: OpenBaoStand, tmp_path: Path) -> None:
    small = limited(stand, tmp_path, LEAST)
    place = small.place_at("other/ci")
    seen = small.vault.current(place)
    assert isinstance(seen, VaultUnreadable)
    assert seen.detail.startswith(f"read {stand.mount}/other/ci: no permission in Vault at")
    with pytest.raises(PreconditionError, match="no permission"):
        small.vault.check_writable(place)
    with pytest.raises(AccessDeniedError, match=f"write {stand.mount}/other/ci version 1: no permission"):
        small.vault.publish(place, pair(NEW), cas=0, extra={}, guard=unguarded, give_up_at=small.clock.in_time())


def test_a_sealed_vault_is_temporary_and_no_key_is_begun(stand: OpenBaoStand, tmp_path: Path) -> None:
    with VaultProxy(stand.server.address) as proxy:
        through = OpenBaoStand(stand.server, stand.mount, tmp_path, address=proxy.address)
        proxy.fault("*", do=VaultError(503, ("Vault is sealed",)), forever=True)
        with pytest.raises(PreconditionError, match="is sealed"):
            through.vault.check_writable(through.place)
        seen = through.vault.current(through.place)
        assert isinstance(seen, VaultUnreadable)
        assert "is sealed" in seen.detail
        with pytest.raises(TemporaryError, match="is sealed"):
            through.vault.read_pair(through.place, 1)
        through.close()


# --- what other people have set ---


def test_fields_that_are_no_strings_survive(stand: OpenBaoStand) -> None:
    stand.put({**fields(OLD), "port": 5432, "on": True, "list": ["a", 1], "nested": {"x": None}})
    stand.publish(cas=1)
    assert stand.fields() == {**fields(NEW), "port": 5432, "on": True, "list": ["a", 1], "nested": {"x": None}}
    stand.vault.burn(stand.place, cas=2, guard=unguarded)
    assert stand.fields() == stand.fields(2)


def test_a_version_that_will_be_deleted_later_is_held_now(stand: OpenBaoStand) -> None:
    stand.kv(lambda kv: kv.configure(delete_version_after="1h", mount_point=stand.mount))
    stand.publish(cas=0)
    assert isinstance(stand.vault.current(stand.place), VaultHeld)
    history = stand.vault.history(stand.place)
    assert history is not None
    assert history.all_readable_since(0)


def test_a_version_whose_time_is_over_is_deleted_and_nothing_is_written_over_it(stand: OpenBaoStand) -> None:
    stand.kv(lambda kv: kv.configure(delete_version_after="1s", mount_point=stand.mount))
    stand.publish(cas=0, key_id=OLD)
    assert eventually(lambda: stand.vault.current(stand.place) == VaultDeleted(1))
    history = stand.vault.history(stand.place)
    assert history is not None
    assert not history.all_readable_since(0), "so no key is taken for one that never got here"
    with pytest.raises(RefusedError, match="version 1 is soft-deleted"):
        stand.publish(cas=1)
    with pytest.raises(RefusedError, match="version 1 is soft-deleted"):
        stand.vault.burn(stand.place, cas=1, guard=unguarded)
    assert stand.version() == 1
    stand.kv(lambda kv: kv.configure(delete_version_after="1h", mount_point=stand.mount))
    stand.kv(lambda kv: kv.undelete_secret_versions(stand.place.path, [1], mount_point=stand.mount))
    assert stand.fields() == fields(OLD), "a person brings it back"


def test_a_secret_that_keeps_one_version_is_written_once_and_read_back(stand: OpenBaoStand, tmp_path: Path) -> None:
    stand.kv(lambda kv: kv.configure(max_versions=1, mount_point=stand.mount))
    stand.put(fields(OLD, team="payments"))
    with VaultProxy(stand.server.address) as proxy:
        through = OpenBaoStand(stand.server, stand.mount, tmp_path, address=proxy.address)
        proxy.fault(f"POST {stand.mount}/data/*", when="after", do=Drop())
        assert through.publish(cas=1) == 2
        through.close()
    assert stand.fields() == fields(NEW, team="payments")
    assert stand.vault.read_pair(stand.place, 1) is None, "so there is nothing to roll back to"
    history = stand.vault.history(stand.place)
    assert history is not None
    assert [version.version for version in history.versions] == [2]
    assert not history.all_readable_since(0)
    stand.put(fields(NEW, team="billing"))
    with pytest.raises(ConflictError, match="no longer at version 1"):
        stand.publish(cas=1, key_id=OLD)
    stand.vault.destroy(stand.place, [1, 2])
    assert stand.fields() == fields(NEW, team="billing")


def test_a_mount_that_asks_for_check_and_set_is_served(stand: OpenBaoStand) -> None:
    stand.kv(lambda kv: kv.configure(cas_required=True, mount_point=stand.mount))
    assert stand.publish(cas=0) == 1


def test_trimmed_versions_are_missing_from_the_history(stand: OpenBaoStand) -> None:
    stand.kv(lambda kv: kv.configure(max_versions=3, mount_point=stand.mount))
    for _ in range(5):
        stand.put(fields(OLD))
    history = stand.vault.history(stand.place)
    assert history is not None
    assert (history.current_version, history.oldest_version) == (5, 3)
    assert [version.version for version in history.versions] == [3, 4, 5]


def test_metadata_without_a_version_counts_as_absent(stand: OpenBaoStand) -> None:
    stand.kv(lambda kv: kv.update_metadata(stand.place.path, max_versions=4, mount_point=stand.mount))
    assert stand.vault.current(stand.place) == VaultAbsent(0)
    assert stand.vault.history(stand.place) is None
    assert stand.publish(cas=0) == 1


@pytest.mark.parametrize("fallback", [None, 405, 415, 403])
def test_a_note_leaves_the_settings_of_other_people_alone(
    stand: OpenBaoStand, tmp_path: Path, fallback: int | None
) -> None:
    with stand.server.client() as client:
        client.adapter.post(
            f"/v1/{stand.mount}/metadata/{stand.place.path}",
            json={"max_versions": 7, "delete_version_after": "720h", "custom_metadata": {"owner": "payments"}},
        )
    stand.put(fields(OLD))
    with VaultProxy(stand.server.address) as proxy:
        through = OpenBaoStand(stand.server, stand.mount, tmp_path, address=proxy.address)
        through.publish(cas=1)
        through.vault.write_note(through.place, note(2))
        if fallback is not None:
            proxy.fault("PATCH *", do=VaultError(fallback, ("no",)), forever=True)
        through.vault.write_note(through.place, note(2, old=None))
        through.close()
    metadata = stand.metadata()
    assert metadata is not None
    assert (metadata["max_versions"], metadata["delete_version_after"]) == (7, "720h0m0s")
    assert metadata["custom_metadata"].pop("owner") == "payments"
    held = stand.vault.current(stand.place)
    assert isinstance(held, VaultHeld)
    assert held.note == note(2, old=None)


@pytest.mark.parametrize("whose", ["the secret", "the mount"])
@pytest.mark.parametrize("patch", [True, False], ids=["by patch", "without patch"])
def test_a_note_is_written_where_metadata_asks_for_check_and_set(
    stand: OpenBaoStand, tmp_path: Path, whose: str, patch: bool
) -> None:
    stand.put(fields(OLD))
    stand.publish(cas=1)
    where = "config" if whose == "the mount" else f"metadata/{stand.place.path}"
    body: dict[str, object] = {"metadata_cas_required": True}
    if whose == "the secret":
        body["custom_metadata"] = {"owner": "payments"}
    with stand.server.client() as client:
        client.adapter.post(f"/v1/{stand.mount}/{where}", json=body)
    with VaultProxy(stand.server.address) as proxy:
        if not patch:
            proxy.fault("PATCH *", do=VaultError(403, ("no",)), forever=True)
        through = OpenBaoStand(stand.server, stand.mount, tmp_path, address=proxy.address)
        for key_id in (OLD, None):  # the second finds another number
            through.vault.write_note(through.place, note(2, old=key_id))
        through.close()
    metadata = stand.metadata()
    assert metadata is not None
    assert whose == "the mount" or metadata["custom_metadata"]["owner"] == "payments"
    held = stand.vault.current(stand.place)
    assert isinstance(held, VaultHeld)
    assert held.note == note(2, old=None)


def test_a_note_whose_answer_was_lost_is_written_with_check_and_set(stand: OpenBaoStand, tmp_path: Path) -> None:
    stand.publish(cas=0)
    with stand.server.client() as client:
        client.adapter.post(f"/v1/{stand.mount}/config", json={"metadata_cas_required": True})
    with VaultProxy(stand.server.address) as proxy:
        through = OpenBaoStand(stand.server, stand.mount, tmp_path, address=proxy.address)
        proxy.fault("PATCH *", when="after", do=VaultError(502, ("lost",)), nth=2)
        through.vault.write_note(through.place, note(1))
        through.close()
    held = stand.vault.current(stand.place)
    assert isinstance(held, VaultHeld)
    assert held.note == note(1)


def test_a_note_about_another_key_or_a_later_version_does_not_count(stand: OpenBaoStand) -> None:
    stand.publish(cas=0)
    for other in (note(1, OLD), note(2, NEW)):
        stand.vault.write_note(stand.place, other)
        held = stand.vault.current(stand.place)
        assert isinstance(held, VaultHeld)
        assert held.note is None


def test_a_note_that_somebody_mangled_does_not_count(stand: OpenBaoStand) -> None:
    stand.publish(cas=0)
    stand.vault.write_note(stand.place, note(1))
    with stand.server.client() as client:
        client.adapter.request(
            "patch",
            f"/v1/{stand.mount}/metadata/{stand.place.path}",
            headers={"Content-Type": "application/merge-patch+json"},
            json={"custom_metadata": {"rekeyd_published_at": "yesterday"}},
        )
    held = stand.vault.current(stand.place)
    assert isinstance(held, VaultHeld)
    assert held.note is None


def test_a_note_that_vault_would_refuse_is_refused_here(stand: OpenBaoStand) -> None:
    stand.publish(cas=0)
    with pytest.raises(RefusedError, match="rekeyd_rotation_id cannot be kept"):
        stand.vault.write_note(stand.place, replace(note(1), rotation_id="é" * 300))  # type: ignore[arg-type]


def test_a_deleted_secret_is_neither_published_over_nor_burned(stand: OpenBaoStand) -> None:
    stand.put(fields(OLD))
    stand.soft_delete()
    with pytest.raises(RefusedError, match="version 1 is soft-deleted"):
        stand.publish(cas=1)
    with pytest.raises(RefusedError, match="version 1 is soft-deleted and cannot be moved on"):
        stand.vault.burn(stand.place, cas=1, guard=unguarded)
    assert stand.version() == 1


def test_a_mark_that_is_none_is_refused_and_not_replaced(stand: OpenBaoStand) -> None:
    stand.server.write("rekeyd/default", {"instance": "x"}, mount=stand.mount)
    with pytest.raises(RefusedError, match="rekeyd/default version 1 is not a mark of rekeyd"):
        stand.vault.read_mark()
    stand.kv(lambda kv: kv.delete_latest_version_of_secret("rekeyd/default", mount_point=stand.mount))
    with pytest.raises(RefusedError, match="rekeyd/default version 1 is soft-deleted"):
        stand.vault.read_mark()


def test_extra_fields_cannot_replace_the_pair(stand: OpenBaoStand) -> None:
    with pytest.raises(RefusedError, match="two fields have the same name"):
        stand.vault.publish(
            stand.place,
            pair(NEW),
            cas=0,
            extra={"access_key_id": "x"},
            guard=unguarded,
            give_up_at=stand.clock.in_time(),
        )


def test_a_secret_too_large_for_the_server_is_a_refusal_without_its_text(stand: OpenBaoStand) -> None:
    with pytest.raises(RefusedError, match="refused") as caught:
        stand.vault.publish(
            stand.place,
            pair(NEW),
            cas=0,
            extra={f"f{n}": "x" * 20 for n in range(1200)},
            guard=unguarded,
            give_up_at=stand.clock.in_time(),
        )
    assert "complexity" not in caught.value.message


def test_a_web_page_in_place_of_vault_is_not_an_absent_secret(stand: OpenBaoStand, tmp_path: Path) -> None:
    with VaultProxy(stand.server.address) as proxy:
        through = OpenBaoStand(stand.server, stand.mount, tmp_path, address=proxy.address)
        through.vault.current(through.place)
        for status in (200, 404):
            proxy.clear_faults()
            proxy.fault("GET kv*", do=Http(status, "html"), forever=True)
            assert isinstance(through.vault.current(through.place), VaultUnreadable)
        with pytest.raises((RefusedError, NotFoundError), match="read"):
            through.vault.read_pair(through.place, 1)
        through.close()


def test_one_adapter_serves_many_threads(stand: OpenBaoStand) -> None:
    failures: list[str] = []

    def work(number: int) -> None:
        place = stand.place_at(f"aws/1/user{number}")
        for cas in range(5):
            stand.vault.publish(
                place, pair(NEW), cas=cas, extra={"n": str(number)}, guard=unguarded, give_up_at=stand.clock.in_time()
            )
            held = stand.vault.current(place)
            if not isinstance(held, VaultHeld) or held.version != cas + 1:
                failures.append(f"{number} at {cas}: {held}")

    threads = [threading.Thread(target=work, args=(number,)) for number in range(24)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    for number in range(24):
        found = stand.server.read(f"aws/1/user{number}", mount=stand.mount)
        assert found is not None
        assert (found.version, found.data["n"]) == (5, str(number))


def test_closing_leaves_a_token_from_a_file_alive(stand: OpenBaoStand, tmp_path: Path) -> None:
    token = stand.server.create_token(["default"], ttl="5m")
    other = OpenBaoStand(stand.server, stand.mount, tmp_path, token=token)
    other.vault.current(other.place)
    other.vault.close()
    with stand.server.client(token) as client:
        assert client.is_authenticated()
    assert isinstance(other.vault, KvVault)
