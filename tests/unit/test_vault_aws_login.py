"""What is signed for a login by an AWS identity, in every partition; and that remedies name settings that exist."""

import base64
import json
import re
from typing import Any, cast

import pytest
from botocore.session import Session

from rekeyd.adapters.vault_aws_login import AwsLogin
from rekeyd.adapters.vault_client import Line
from rekeyd.adapters.vault_logins import AppRoleLogin, CertLogin, JwtLogin, KubernetesLogin, WrappedAppRoleLogin
from rekeyd.adapters.vault_settings import AwsAuth
from rekeyd.adapters.vault_wire import Answer
from rekeyd.config import Config
from tests.secret_registry import remember


class Sent:
    """A line that remembers the login's body."""

    def __init__(self) -> None:
        self.body: dict[str, str] = {}

    def login(self, _path: str, *, json: dict[str, str]) -> Answer:
        self.body = json
        return Answer(status=200, body={}, errors=None)


@pytest.mark.parametrize(
    ("region", "host"),
    [
        ("us-east-1", "sts.us-east-1.amazonaws.com"),
        ("eu-central-1", "sts.eu-central-1.amazonaws.com"),
        ("cn-north-1", "sts.cn-north-1.amazonaws.com.cn"),
        ("cn-northwest-1", "sts.cn-northwest-1.amazonaws.com.cn"),
        ("us-gov-west-1", "sts.us-gov-west-1.amazonaws.com"),
    ],
)
def test_the_regions_own_endpoint_is_signed_for(region: str, host: str) -> None:
    session = Session()
    session.set_credentials("AKIASIGNSIGNSIGN0001", remember("signing/" + "s" * 32))
    sent = Sent()
    AwsLogin(AwsAuth(role="rekeyd", region=region), session).log_in(lambda _: cast("Line", sent), ())
    decoded = {name: base64.b64decode(text).decode() for name, text in sent.body.items() if name.startswith("iam_req")}
    headers = json.loads(decoded["iam_request_headers"])
    assert decoded["iam_request_url"] == f"https://{host}/"
    assert headers["Host"] == host
    assert f"/{region}/sts/aws4_request" in headers["Authorization"]


def _exists(setting: str) -> bool:
    at: Any = Config
    for name in setting.split("."):
        if name not in at.model_fields:
            return False
        at = at.model_fields[name].annotation
    return True


@pytest.mark.parametrize("login", [AppRoleLogin, WrappedAppRoleLogin, KubernetesLogin, JwtLogin, CertLogin, AwsLogin])
def test_a_settings_name_in_a_remedy_is_one(login: Any) -> None:
    named = re.findall(r"\b(?:vault|aws)(?:\.[a-z_]+)+", f"{login.remedy} {login.suspect}")
    assert [setting for setting in named if not _exists(setting)] == []
    assert _exists("vault.client_cert_file")
    assert not _exists("vault.auth.region")
