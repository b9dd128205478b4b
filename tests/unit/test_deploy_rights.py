"""The rights in deploy/: exactly what the program prints for the example, and trust for nobody but rekeyd."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from rekeyd.cli.policies_aws import hub_policy, work_policy
from rekeyd.cli.policies_vault import vault_policy
from rekeyd.config import Config, parse

DEPLOY = Path(__file__).parents[2] / "deploy"
EXAMPLE = DEPLOY / "kubernetes" / "example" / "config.toml"
ACCOUNTS = ("111122223333", "444455556666")


@pytest.fixture(scope="module")
def config() -> Config:
    return parse(EXAMPLE.read_text(), {})


def _content(name: str) -> str:
    return (DEPLOY / name).read_text()


def test_the_example_has_the_accounts_that_there_are_policies_for(config: Config) -> None:
    assert tuple(account.id for account in config.aws.accounts) == ACCOUNTS
    assert {path.name for path in (DEPLOY / "aws").glob("account-[0-9]*.json")} == {
        f"account-{account}.json" for account in ACCOUNTS
    }


@pytest.mark.parametrize("account", ACCOUNTS)
def test_the_policy_of_an_account_is_what_is_printed(config: Config, account: str) -> None:
    assert _content(f"aws/account-{account}.json") == work_policy(config, "aws", account).document


def test_the_policy_of_the_hub_is_what_is_printed(config: Config) -> None:
    assert _content("aws/hub.json") == hub_policy(config, "aws").document


def test_the_policy_in_vault_is_what_is_printed(config: Config) -> None:
    assert _content("vault/rekeyd.hcl") == vault_policy(config).document


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        (("policy", "aws", "--hub"), "aws/hub.json"),
        (("policy", "aws", "--account", ACCOUNTS[0]), f"aws/account-{ACCOUNTS[0]}.json"),
        (("policy", "vault"), "vault/rekeyd.hcl"),
    ],
)
def test_the_command_prints_the_file(arguments: tuple[str, ...], name: str) -> None:
    program = Path(sys.executable).with_name("rekeyd")
    ran = subprocess.run(
        [str(program), "--config", str(EXAMPLE), *arguments], capture_output=True, text=True, timeout=60, check=False
    )
    assert (ran.returncode, ran.stdout) == (0, _content(name))


def _trust(name: str) -> dict[str, Any]:
    (statement,) = json.loads(_content(f"aws/{name}.json"))["Statement"]
    found: dict[str, Any] = statement
    assert found["Effect"] == "Allow"
    assert "*" not in json.dumps(found)
    return found


def test_an_account_trusts_the_hub_alone_with_the_external_id_and_the_name_of_the_deployment(config: Config) -> None:
    trust = _trust("account-trust")
    assert trust["Action"] == "sts:AssumeRole"
    assert list(trust["Principal"]) == ["AWS"]
    assert trust["Principal"]["AWS"].endswith(":role/rekeyd-hub")
    conditions = trust["Condition"]["StringEquals"]
    assert conditions["sts:ExternalId"]
    assert conditions["sts:RoleSessionName"] == f"rekeyd-{config.journal.instance}"
    assert all(account.external_id_file for account in config.aws.accounts)


def test_the_hub_on_kubernetes_trusts_the_service_account_alone() -> None:
    trust = _trust("hub-trust-kubernetes")
    assert trust["Action"] == "sts:AssumeRoleWithWebIdentity"
    issuer = trust["Principal"]["Federated"].partition("oidc-provider/")[2]
    assert trust["Condition"]["StringEquals"] == {
        f"{issuer}:aud": "sts.amazonaws.com",
        f"{issuer}:sub": "system:serviceaccount:rekeyd:rekeyd",
    }


def test_the_hub_on_a_machine_trusts_ec2_alone() -> None:
    assert _trust("hub-trust-ec2")["Principal"] == {"Service": "ec2.amazonaws.com"}
