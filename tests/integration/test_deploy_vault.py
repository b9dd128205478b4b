"""deploy/vault on a real server: it takes the policy and the role as they stand there."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rekeyd.demo.openbao import OpenBaoServer
from tests.secret_registry import remember

pytestmark = pytest.mark.slow

VAULT = Path(__file__).parents[2] / "deploy" / "vault"


@pytest.fixture(scope="module")
def bao() -> Iterator[OpenBaoServer]:
    with OpenBaoServer() as server:
        remember(server.root_token)
        server.write_policy("rekeyd", (VAULT / "rekeyd.hcl").read_text())
        yield server


def test_the_server_takes_the_role_as_it_is_written(bao: OpenBaoServer) -> None:
    client = bao.client()
    client.sys.enable_auth_method("kubernetes")
    role: dict[str, Any] = json.loads((VAULT / "kubernetes-role.json").read_text())
    client.adapter.post("/v1/auth/kubernetes/role/rekeyd", json=role)
    read = client.adapter.get("/v1/auth/kubernetes/role/rekeyd")["data"]
    # A name that the server does not know would be passed over, and be missing here.
    wanted = role | {"token_ttl": 3600, "token_max_ttl": 24 * 3600}
    assert {name: read.get(name) for name in role} == wanted


def test_the_policy_reaches_the_pairs_of_the_example_and_nothing_else(bao: OpenBaoServer) -> None:
    token = bao.create_token(["rekeyd"])
    remember(token)
    client = bao.client(token)
    paths = {
        "secret/data/aws/111122223333/ci": {"create", "read", "update"},
        "secret/metadata/aws/444455556666/ci": {"create", "read", "update", "patch"},
        "secret/destroy/aws/111122223333/ci": {"update"},
        "secret/data/rekeyd/default": {"create", "read", "update"},
        "secret/data/aws/777788889999/ci": {"deny"},
        "secret/data/aws/111122223333/ci/deeper": {"deny"},
        "secret/data/other": {"deny"},
        "secret/delete/aws/111122223333/ci": {"deny"},
        "sys/policies/acl/rekeyd": {"deny"},
        "auth/token/create": {"deny"},
    }
    answer = client.adapter.post("/v1/sys/capabilities-self", json={"paths": list(paths)})["data"]
    assert {path: set(answer[path]) for path in paths} == paths
