"""What the live suites may use, and what they refuse.

A live run names its place on purpose: REKEYD_LIVE=1 and

    make live-aws     REKEYD_LIVE_AWS_ACCOUNT  twelve digits; must be the account of the credentials in the environment
    make live-vault   REKEYD_LIVE_VAULT_MOUNT  a KV v2 mount for tests only; VAULT_ADDR (and VAULT_CACERT,
                                               VAULT_NAMESPACE); REKEYD_LIVE_VAULT_TOKEN_FILE

All that is made is named rekeyd-live-*, is made by the run itself, and is removed at its end.
"""

import secrets
from collections.abc import Mapping

from rekeyd.core.model import AccountId
from rekeyd.ports import Sts

LIVE = "REKEYD_LIVE"
ACCOUNT = "REKEYD_LIVE_AWS_ACCOUNT"
MOUNT = "REKEYD_LIVE_VAULT_MOUNT"
TOKEN_FILE = "REKEYD_LIVE_VAULT_TOKEN_FILE"


class WrongSandboxError(Exception):
    """This is not the place that was named, or none was named."""


def is_live(environment: Mapping[str, str]) -> bool:
    return bool(environment.get(LIVE))


def named(environment: Mapping[str, str], variable: str) -> str:
    """Raises WrongSandboxError when it is not given."""
    value = environment.get(variable, "")
    if not value:
        raise WrongSandboxError(f"{variable} is not set: no place is used that was not named on purpose")
    return value


def checked_account(environment: Mapping[str, str], sts: Sts) -> AccountId:
    """The named account, if the credentials are of exactly this one and not its root user's."""
    account = AccountId(named(environment, ACCOUNT))
    identity = sts.caller_identity(account)
    if identity.account_id != account:
        raise WrongSandboxError(f"the credentials are of account {identity.account_id}, not of {account}")
    if identity.is_root:
        raise WrongSandboxError("the credentials are a root user's")
    return account


def fresh_name() -> str:
    return f"rekeyd-live-{secrets.token_hex(6)}"
