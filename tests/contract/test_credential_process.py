"""`rekeyd-credential-process` logs in by each method, on a real server over TLS, and leaves no token behind."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.contract.vault_cluster import METHODS, Logins, production

pytestmark = pytest.mark.slow

PROCESS = str(Path(sys.executable).with_name("rekeyd-credential-process"))
PATH = "aws/111122223333/payments"
PAIR = {"access_key_id": "AKIACONSUMEROFVAULT0", "secret_access_key": "not-a-real-secret-access-key-of-anybody0"}


@pytest.fixture(scope="module")
def logins(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Logins]:
    with production("dev", tmp_path_factory.mktemp("consumer")) as (logins, _):
        logins.await_kubernetes()
        logins.authority.issue("rekeyd")
        logins.admin.write(PATH, PAIR)
        yield logins


def _of_token_file(folder: Path) -> list[str]:
    return ["--token-file", str(folder / "token")]


def _of_approle(folder: Path) -> list[str]:
    role_id = (folder / "role_id").read_text().strip()
    return ["--auth", "approle", "--role-id", role_id, "--secret-id-file", str(folder / "secret_id")]


def _of_kubernetes(folder: Path) -> list[str]:
    return ["--auth", "kubernetes", "--role", "rekeyd", "--jwt-file", str(folder / "jwt")]


def _of_jwt(folder: Path) -> list[str]:
    return ["--auth", "jwt", "--role", "rekeyd", "--jwt-file", str(folder / "jwt")]


def _of_cert(folder: Path) -> list[str]:
    return ["--auth", "cert", "--role", "rekeyd", "--client-cert-file", str(folder / "rekeyd.pem")]


OPTIONS: dict[str, Callable[[Path], list[str]]] = {
    "token_file": _of_token_file,
    "approle": _of_approle,
    "kubernetes": _of_kubernetes,
    "jwt": _of_jwt,
    "cert": _of_cert,
}


def _run(logins: Logins, *arguments: str) -> "subprocess.CompletedProcess[str]":
    address = ("--address", logins.entry.tls_address, "--ca-file", str(logins.authority.file))
    return subprocess.run(
        [PROCESS, *address, *arguments, PATH],
        env={"PATH": os.defpath, "HOME": str(logins.folder)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def _tokens(logins: Logins) -> set[str]:
    with logins.admin.client() as client:
        return set(client.auth.token.list_accessors()["data"]["keys"])


def test_no_method_is_left_out() -> None:
    assert tuple(OPTIONS) == METHODS


@pytest.mark.parametrize("method", METHODS)
def test_the_pair_is_given_after_a_login_whose_token_does_not_stay(logins: Logins, method: str) -> None:
    before = _tokens(logins)
    ran = _run(logins, *OPTIONS[method](logins.folder))
    assert (ran.returncode, ran.stderr) == (0, "")
    document = json.loads(ran.stdout)
    assert (document["Version"], document["AccessKeyId"]) == (1, PAIR["access_key_id"])
    assert document["SecretAccessKey"] == PAIR["secret_access_key"]
    assert _tokens(logins) == before


@pytest.mark.parametrize("method", ["approle", "kubernetes", "jwt", "cert"])
def test_a_login_that_is_refused_says_so_and_prints_nothing(logins: Logins, method: str) -> None:
    options = OPTIONS[method](logins.folder)
    wrong = "no-such-role"
    place = options.index("--role-id" if method == "approle" else "--role") + 1
    ran = _run(logins, *options[:place], wrong, *options[place + 1 :])
    assert (ran.returncode, ran.stdout) == (1, "")
    assert f"the login to Vault by {method} was refused" in ran.stderr
