"""Logging in to Vault as the AWS identity that rekeyd runs as.

rekeyd signs a GetCallerIdentity without sending it; Vault sends it to STS and learns from the answer who asked.
botocore signs, since hvac always signs for the global endpoint, which only a Vault in us-east-1 accepts. The
signed host is the Region's own, so Vault's `sts_region` must be the same Region.
"""

import base64
import json
from typing import Any
from urllib.parse import quote, urlsplit

from rekeyd.adapters.vault_logins import LineFor
from rekeyd.adapters.vault_settings import AwsAuth
from rekeyd.adapters.vault_tries import Credential
from rekeyd.adapters.vault_wire import Answer
from rekeyd.errors import TemporaryError

_BODY = "Action=GetCallerIdentity&Version=2011-06-15"
# https://developer.hashicorp.com/vault/docs/auth/aws#iam-auth-method
_HINT = "check aws.region and the credentials that rekeyd runs with"
_SERVER_ID_HEADER = "X-Vault-AWS-IAM-Server-ID"


class AwsLogin:
    method = "aws"
    lockout = False
    suspect = "the role is gone, does not bind this AWS identity, or Vault's sts_region or server id is another"
    remedy = "see that the role binds rekeyd's AWS identity, and that aws.region is Vault's sts_region"

    def __init__(self, auth: AwsAuth, session: Any = None) -> None:
        """`session`: botocore's; None: the surroundings' credentials, as rekeyd itself uses."""
        self._auth = auth
        self._session = session

    def credential(self) -> Credential:
        """Empty: a signature is made anew for each login, and says nothing of the secret that made it."""
        return ()

    def log_in(self, lines: LineFor, credential: Credential) -> Answer:  # noqa: ARG002
        url, headers = self._signed()
        body = {
            "role": self._auth.role,
            "iam_http_request_method": "POST",
            "iam_request_url": _base64(url),
            "iam_request_body": _base64(_BODY),
            "iam_request_headers": _base64(json.dumps(headers)),
        }
        return lines(None).login(f"/v1/auth/{quote(self._auth.mount)}/login", json=body)

    def _signed(self) -> tuple[str, dict[str, str]]:
        from botocore.auth import SigV4Auth
        from botocore.awsrequest import AWSRequest
        from botocore.exceptions import BotoCoreError
        from botocore.session import Session

        try:
            if self._session is None:
                self._session = Session()
            found = self._session.get_credentials()
            # Frozen: a role's credentials change under our feet, and all three parts must be of one set.
            credentials = None if found is None else found.get_frozen_credentials()
            url = self._endpoint()
        except BotoCoreError as error:
            raise TemporaryError(
                f"rekeyd's own AWS credentials could not be had for the login to Vault ({type(error).__name__})",
                hint=_HINT,
            ) from None
        if credentials is None:
            raise TemporaryError(
                "there are no AWS credentials to log in to Vault with",
                hint=_HINT,
            )
        url = self._endpoint()
        headers = {
            "Content-Type": "application/x-www-form-urlencoded; charset=utf-8",
            "Host": urlsplit(url).netloc,
        }
        if self._auth.header_value is not None:
            headers[_SERVER_ID_HEADER] = self._auth.header_value
        request = AWSRequest(method="POST", url=url, data=_BODY, headers=headers)
        SigV4Auth(credentials, "sts", self._auth.region).add_auth(request)
        return url, dict(request.headers.items())

    def _endpoint(self) -> str:
        """Such as `https://sts.cn-north-1.amazonaws.com.cn/`. Never an emulator's: Vault knows AWS only."""
        from botocore.config import Config

        self._session.set_config_variable("sts_regional_endpoints", "regional")
        config = Config(ignore_configured_endpoint_urls=True)  # type: ignore[call-arg]  # the stubs lag
        client = self._session.create_client("sts", region_name=self._auth.region, config=config)
        return str(client.meta.endpoint_url).rstrip("/") + "/"


def _base64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()
