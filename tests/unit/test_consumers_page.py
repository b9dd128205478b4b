"""The Kubernetes examples of docs/consumers.md: YAML, with the fields that each operator's documentation names.

The operators themselves are not run, so this is all that keeps a slip of the pen out of them.
"""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from rekeyd.adapters.vault_fields import field_names

PAGE = (Path(__file__).parents[2] / "docs" / "consumers.md").read_text()
EXAMPLES: dict[str, dict[str, Any]] = {
    found["kind"]: found for found in map(yaml.safe_load, re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL))
}
PATH = "aws/111122223333/payments"
FIELDS = field_names("default", id_field=None, secret_field=None)
PAIR = [FIELDS.id_field, FIELDS.secret_field]

# What each field may hold, as in the operators' own references.
KNOWN: dict[str, tuple[str, dict[str, Any]]] = {
    "ExternalSecret": (
        "external-secrets.io/v1",
        {
            "refreshInterval": str,
            "secretStoreRef": {"name": str, "kind": str},
            "target": {"name": str},
            "data": [{"secretKey": str, "remoteRef": {"key": str, "property": str}}],
        },
    ),
    "VaultStaticSecret": (
        "secrets.hashicorp.com/v1beta1",
        {
            "type": str,
            "mount": str,
            "path": str,
            "refreshAfter": str,
            "destination": {"name": str, "create": bool},
            "rolloutRestartTargets": [{"kind": str, "name": str}],
        },
    ),
    "SecretProviderClass": (
        "secrets-store.csi.x-k8s.io/v1",
        {"provider": str, "parameters": {"vaultAddress": str, "roleName": str, "objects": str}},
    ),
}


def _fits(value: Any, known: Any) -> bool:
    match known:
        case dict():
            return isinstance(value, dict) and all(key in known and _fits(value[key], known[key]) for key in value)
        case [each]:
            return isinstance(value, list) and bool(value) and all(_fits(one, each) for one in value)
        case _:
            return isinstance(value, known)


def test_there_is_an_example_for_each_operator() -> None:
    assert set(EXAMPLES) == set(KNOWN)


@pytest.mark.parametrize("kind", KNOWN)
def test_an_example_has_the_fields_that_its_operator_knows(kind: str) -> None:
    version, known = KNOWN[kind]
    example = EXAMPLES[kind]
    assert set(example) == {"apiVersion", "kind", "metadata", "spec"}
    assert example["apiVersion"] == version
    assert example["metadata"] == {"name": "payments-aws"}
    assert _fits(example["spec"], known)


def test_external_secrets_reads_both_fields_below_the_mount() -> None:
    data = EXAMPLES["ExternalSecret"]["spec"]["data"]
    # The provider of version v2 puts data/ before the path itself.
    assert [each["remoteRef"] for each in data] == [{"key": PATH, "property": name} for name in PAIR]
    assert [each["secretKey"] for each in data] == ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"]


def test_the_vault_operator_reads_below_the_mount_and_polls() -> None:
    spec = EXAMPLES["VaultStaticSecret"]["spec"]
    assert (spec["type"], spec["mount"], spec["path"]) == ("kv-v2", "secret", PATH)
    assert spec["refreshAfter"], "without it the operator never looks again"
    assert spec["destination"]["name"] == EXAMPLES["VaultStaticSecret"]["metadata"]["name"]


def test_the_csi_driver_is_given_the_whole_path_of_the_api() -> None:
    objects = yaml.safe_load(EXAMPLES["SecretProviderClass"]["spec"]["parameters"]["objects"])
    assert objects == [{"objectName": name, "secretPath": f"secret/data/{PATH}", "secretKey": name} for name in PAIR]


@pytest.mark.parametrize("duration", re.findall(r"refresh(?:Interval|After): (\S+)", PAGE))
def test_how_often_they_look_is_written_as_they_read_it(duration: str) -> None:
    assert re.fullmatch(r"(\d+h)?(\d+m)?(\d+s)?", duration)
