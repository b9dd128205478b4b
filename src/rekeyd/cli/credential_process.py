"""`rekeyd-credential-process`: gives an AWS SDK the pair that Vault serves now.

    [profile payments]
    credential_process = rekeyd-credential-process --token-file /run/vault/token aws/111122223333/payments

It belongs to consumers, not to the daemon: it reads one secret with a token that may read no other, and knows nothing
of rekeyd's configuration. Like rekeyd it takes a token or a secret_id from a file only, and picks up none of the
surroundings'. What it prints goes to the SDK that started it; on a terminal it refuses.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rekeyd.adapters.vault_settings import VaultAuth, VaultSettings
    from rekeyd.core.model import Place

# botocore asks again when less than 15 minutes are left, other SDKs only at the end.
# botocore/credentials.py, RefreshableCredentials._advisory_refresh_timeout
SDK_MARGIN = timedelta(minutes=15)

_HELP = "Print the pair of access keys that Vault serves, as AWS SDKs expect it from a credential_process."


def main() -> None:
    sys.exit(run(sys.argv[1:]))


def run(arguments: Sequence[str]) -> int:
    """The exit code: 0, or 1 with a message on stderr, which the SDK shows. For a process of its own."""
    from rekeyd import logs
    from rekeyd.adapters.hardening import forbid_core_dumps
    from rekeyd.errors import Error

    given = _parser().parse_args(arguments)
    if sys.stdout.isatty():
        return _failed("the secret access key is not printed on a terminal", "it is for an SDK, or a pipe")
    logs.configure(style="console", level="warning")  # stdout is for the SDK alone
    try:
        forbid_core_dumps()
        document = _document(given)
    except Error as error:
        return _failed(error.message, error.hint)
    sys.stdout.write(document + "\n")
    return 0


def _document(given: argparse.Namespace) -> str:
    from rekeyd.adapters.clock import SystemClock
    from rekeyd.adapters.sdk_credentials import credentials_document
    from rekeyd.adapters.vault_kv import KvVault
    from rekeyd.core.model import VaultHeld, VaultUnreadable
    from rekeyd.errors import NotFoundError, TemporaryError

    clock = SystemClock()
    settings, place = _settings(given), _place(given)
    vault = KvVault(settings, clock)
    try:
        held = vault.current(place)
        if isinstance(held, VaultUnreadable):
            raise TemporaryError(held.detail)
        pair = vault.read_pair(place, held.version) if isinstance(held, VaultHeld) else None
    finally:
        vault.close()
    if pair is None:
        raise NotFoundError(
            f"{place.mount}/{place.path} holds no pair in the fields {place.id_field} and {place.secret_field}",
            hint="check the path and --fields, or --id-field and --secret-field",
        )
    return credentials_document(pair, expires_at=clock.now() + given.refresh_every + SDK_MARGIN)


def _settings(given: argparse.Namespace) -> "VaultSettings":
    from rekeyd.adapters.vault_settings import VaultSettings
    from rekeyd.errors import UsageError

    if given.address is None:
        raise UsageError("there is no address of Vault", hint="give --address, or set VAULT_ADDR")
    return VaultSettings(
        address=given.address,
        auth=_auth(given),
        state_path="unused",
        namespace=given.namespace or "",
        mount=given.mount,
        ca_file=given.ca_file,
        client_cert_file=given.client_cert_file,
        client_key_file=given.client_key_file,
        pool_size=1,
        allow_http=given.allow_http,
    )


def _auth(given: argparse.Namespace) -> "VaultAuth":
    from rekeyd.adapters.vault_settings import AppRoleAuth, CertAuth, JwtAuth, KubernetesAuth, TokenFileAuth
    from rekeyd.errors import UsageError

    mount = {} if given.auth_mount is None else {"mount": given.auth_mount}
    jwt = {} if given.jwt_file is None else {"jwt_file": given.jwt_file}
    match given.auth:
        case "token_file" if given.token_file is not None:
            return TokenFileAuth(token_file=given.token_file)
        case "approle" if given.role_id is not None and given.secret_id_file is not None:
            return AppRoleAuth(role_id=given.role_id, secret_id_file=given.secret_id_file, **mount)
        case "kubernetes" if given.role is not None:
            return KubernetesAuth(role=given.role, **jwt, **mount)
        case "jwt" if given.role is not None and given.jwt_file is not None:
            return JwtAuth(role=given.role, jwt_file=given.jwt_file, **mount)
        case "cert" if given.client_cert_file is not None:
            return CertAuth(role=given.role or "", **mount)
    needs = {
        "token_file": "--token-file",
        "approle": "--role-id and --secret-id-file",
        "kubernetes": "--role",
        "jwt": "--role and --jwt-file",
        "cert": "--client-cert-file",
    }
    raise UsageError(f"--auth {given.auth} needs {needs[given.auth]}")


def _place(given: argparse.Namespace) -> "Place":
    from rekeyd.adapters.vault_fields import field_names
    from rekeyd.core.model import Place

    names = field_names(given.fields, id_field=given.id_field, secret_field=given.secret_field)
    return Place(
        address=given.address,
        namespace=given.namespace or "",
        mount=given.mount,
        path=given.path,
        id_field=names.id_field,
        secret_field=names.secret_field,
    )


def _failed(message: str, hint: str | None) -> int:
    sys.stderr.write(f"rekeyd-credential-process: {message}\n")
    if hint is not None:
        sys.stderr.write(f"hint: {hint}\n")
    return 1


def _parser() -> argparse.ArgumentParser:
    environment = os.environ
    parser = argparse.ArgumentParser(prog="rekeyd-credential-process", description=_HELP, allow_abbrev=False)
    parser.add_argument("path", help="of the secret, below the mount: aws/111122223333/payments")
    vault = parser.add_argument_group("Vault or OpenBao")
    vault.add_argument("--address", default=environment.get("VAULT_ADDR"), metavar="URL", help="else $VAULT_ADDR")
    vault.add_argument("--namespace", default=environment.get("VAULT_NAMESPACE"), help="else $VAULT_NAMESPACE")
    vault.add_argument("--mount", default="secret", help="of the KV version 2 engine (secret)")
    _file(vault, "--ca-file", "VAULT_CACERT")
    _file(vault, "--client-cert-file", "VAULT_CLIENT_CERT")
    _file(vault, "--client-key-file", "VAULT_CLIENT_KEY")
    vault.add_argument("--allow-http", action="store_true", help="speak http to another machine")
    auth = parser.add_argument_group("logging in")
    methods = ("token_file", "approle", "kubernetes", "jwt", "cert")
    auth.add_argument("--auth", choices=methods, default="token_file", help="(token_file)")
    auth.add_argument("--auth-mount", metavar="PATH", help="where the method is mounted, if not under its own name")
    _file(auth, "--token-file")
    auth.add_argument("--role-id", metavar="ID", help="approle")
    _file(auth, "--secret-id-file")
    auth.add_argument("--role", help="kubernetes, jwt, cert")
    _file(auth, "--jwt-file")
    secret = parser.add_argument_group("the secret")
    secret.add_argument("--fields", default="default", metavar="PRESET", help="as vault.fields.preset (default)")
    secret.add_argument("--id-field", metavar="NAME", help="of the access key ID, instead of the preset's")
    secret.add_argument("--secret-field", metavar="NAME", help="of the secret access key, instead of the preset's")
    secret.add_argument(
        "--refresh-every",
        type=_duration,
        default=timedelta(minutes=15),
        metavar="DURATION",
        help="how soon a running session asks again (15m); the policy's overlap must be longer by 15 minutes at least",
    )
    return parser


def _file(group: argparse._ArgumentGroup, option: str, variable: str | None = None) -> None:
    given = None if variable is None else os.environ.get(variable)
    group.add_argument(
        option,
        type=Path,
        default=Path(given) if given else None,
        metavar="FILE",
        help=None if variable is None else f"else ${variable}",
    )


def _duration(text: str) -> timedelta:
    from rekeyd.config.durations import parse_duration

    try:
        duration = parse_duration(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f'"{text}" {error}') from None
    # Shorter, and an SDK asks before every call.
    if duration < timedelta(seconds=1):
        raise argparse.ArgumentTypeError("must be a second at least")
    return duration
