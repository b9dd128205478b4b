"""How rekeyd reaches Vault or OpenBao and who it is there.

Nothing is picked up from the surroundings: no `VAULT_TOKEN`, no `~/.vault-token`, no proxy of `HTTPS_PROXY` and
its like, no netrc. A proxy is used when `VaultSettings` names one; netrc never.
Secrets are only named by the file that holds them.
"""

import ipaddress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from urllib.parse import urlsplit

from rekeyd.errors import ConfigError


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenFileAuth:
    """A token that somebody else keeps alive, usually the agent's sink file."""

    token_file: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class AppRoleAuth:
    """Exactly one of `role_id` and `role_id_file`."""

    secret_id_file: Path
    role_id: str | None = None
    role_id_file: Path | None = None
    mount: str = "approle"
    wrapped: bool = False
    """`secret_id_file` holds a response-wrapping token, which is unwrapped once."""
    role: str | None = None
    """The role's name, which a wrapped secret_id must have been made for. None: any role of the mount."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KubernetesAuth:
    role: str
    jwt_file: Path = Path("/var/run/secrets/kubernetes.io/serviceaccount/token")
    mount: str = "kubernetes"


@dataclass(frozen=True, slots=True, kw_only=True)
class JwtAuth:
    role: str
    jwt_file: Path
    mount: str = "jwt"


@dataclass(frozen=True, slots=True, kw_only=True)
class CertAuth:
    """The client certificate of `VaultSettings` is the login."""

    role: str
    """Empty: whichever role the certificate fits."""
    mount: str = "cert"


@dataclass(frozen=True, slots=True, kw_only=True)
class AwsAuth:
    """The identity of rekeyd's own AWS credentials, shown by a signed GetCallerIdentity that Vault sends on."""

    role: str
    region: str
    """Its STS endpoint is signed for, and Vault's `sts_region` must be the same."""
    header_value: str | None = None
    """`X-Vault-AWS-IAM-Server-ID`, if the server asks for one."""
    mount: str = "aws"


LoginAuth = AppRoleAuth | KubernetesAuth | JwtAuth | CertAuth | AwsAuth
VaultAuth = TokenFileAuth | LoginAuth


@dataclass(frozen=True, slots=True, kw_only=True)
class VaultSettings:
    address: str
    """`https://host:port`. A path prefix is spoken to, but the configuration has none."""
    auth: VaultAuth
    state_path: str
    """Of the high-water mark, in `mount` and `namespace`."""
    namespace: str = ""
    """Of the login and of the mark; a `Place` names its own."""
    mount: str = "secret"
    ca_file: Path | None = None
    """None: the system's certificate authorities."""
    client_cert_file: Path | None = None
    client_key_file: Path | None = None
    """None: the key stands in `client_cert_file`."""
    timeout: timedelta = timedelta(seconds=10)
    """Of one whole call, from connecting to the last byte of the answer. Two things may take longer, and then nothing
    is sent: resolving the name, which the system's resolver bounds, and connecting, where each of a name's addresses
    has this time."""
    pool_size: int = 16
    """Connections kept open, and calls at the same time; as many as there are workers."""
    allow_http: bool = False
    """Whether plain http to another host than this one is accepted."""
    proxy: str | None = None
    """`http://host:port` of a proxy that opens tunnels (CONNECT); None: straight to the address."""


_USUAL_PORTS = {"http": 80, "https": 443}


def normal_address(address: str) -> str:
    """The one spelling of an address: the host in lower case, without the usual port and a trailing slash.

    Places are compared by it; another spelling of the same server would make every pair a moved one.
    """
    try:
        parts = urlsplit(address)
        port = parts.port
    except ValueError:
        return address
    if not parts.hostname or "@" in parts.netloc:
        return address.rstrip("/")
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    where = host if port in (None, _USUAL_PORTS.get(parts.scheme)) else f"{host}:{port}"
    return parts._replace(netloc=where, path=parts.path.rstrip("/")).geturl()


def checked_address(settings: VaultSettings) -> str:
    """The address in its normal spelling. Raises ConfigError for one that would be a mistake or a leak."""
    address = normal_address(settings.address)
    parts = urlsplit(address)
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise ConfigError(
            f'vault.address = "{address}" is not an http(s) address', hint="write it like https://vault.example:8200"
        )
    if parts.username or parts.password or parts.query or parts.fragment:
        raise ConfigError("vault.address has a user, a query or a fragment", hint="keep scheme, host, port and path")
    if parts.path.rsplit("/", 1)[-1] == "v1":
        raise ConfigError(f'vault.address = "{address}" ends in /v1', hint="leave /v1 out, rekeyd adds it")
    if parts.scheme == "http" and not settings.allow_http and not _loopback(parts.hostname):
        raise ConfigError(
            f'vault.address = "{address}" would send secrets in clear',
            hint="use https, or set vault.allow_http = true if something else encrypts the way",
        )
    if settings.proxy is not None and (problem := proxy_problem(settings.proxy, address)) is not None:
        raise ConfigError(f"vault.proxy {problem[0]}", hint=problem[1])
    return address


def proxy_problem(proxy: str, address: str) -> tuple[str, str] | None:
    """What is wrong with this proxy, without showing it, and what to do. None: nothing."""
    try:
        parts, port = urlsplit(proxy), urlsplit(proxy).port
    except ValueError:
        return "is no address", _PROXY_FORM
    if parts.username is not None or parts.password is not None:
        return (
            "holds a user name or a password",
            "let the proxy admit this machine by its address, or name a forwarder on this machine that logs in to it",
        )
    if parts.scheme != "http" or not parts.hostname or not port or parts.path.strip("/") or parts.query:
        return "is not http://host:port", _PROXY_FORM
    if not address.startswith("https://"):
        return (
            "would read every secret, since vault.address is plain http",
            "use https for vault.address: the proxy then opens a tunnel and sees nothing of what passes",
        )
    return None


_PROXY_FORM = "write it like http://proxy.example:3128; what passes is encrypted from rekeyd to Vault all the same"


def _loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
