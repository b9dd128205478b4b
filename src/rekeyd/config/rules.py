"""What settings must agree on. Each rule yields what it finds; none stops the others.

The arithmetic is that of the behaviour: `lead_time` and `minimum_max_age` of the core.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from urllib.parse import urlsplit

from rekeyd.adapters.queue_name import queue_name
from rekeyd.adapters.vault_fields import check_template, is_field_name
from rekeyd.adapters.vault_settings import proxy_problem
from rekeyd.adapters.windows import WindowError
from rekeyd.config.durations import format_duration
from rekeyd.config.models import AuthMethod, AuthSettings, Config, FieldSettings, MatchSettings, PolicySettings
from rekeyd.config.policies import lead_of
from rekeyd.config.positions import Path
from rekeyd.config.values import is_loopback, placeholders, role_account
from rekeyd.core.policy import minimum_max_age
from rekeyd.errors import ConfigError


@dataclass(frozen=True, slots=True, kw_only=True)
class Disagreement:
    at: Path
    """The key to change first, where the file is pointed at."""
    message: str
    hint: str | None = None
    others: tuple[Path, ...] = ()
    """The other settings it depends on: if one of them is wrong by itself, this is not worth saying."""
    secret: bool = False
    """The value must not be shown."""


Rule = Callable[[Config], Iterator[Disagreement]]


def disagreements(config: Config) -> Iterator[Disagreement]:
    for rule in _RULES:
        yield from rule(config)


def _accounts(config: Config) -> Iterator[Disagreement]:
    ids = [account.id for account in config.aws.accounts]
    for index, account in enumerate(config.aws.accounts):
        at: Path = ("aws", "accounts", index)
        if account.id in ids[:index]:
            yield Disagreement(at=(*at, "id"), message="the account is named twice")
        role_in = None if account.role_arn is None else role_account(account.role_arn)
        if role_in is not None and role_in != account.id:
            yield Disagreement(
                at=(*at, "role_arn"),
                message=f"the role is of account {role_in}, not of {account.id}",
                others=((*at, "id"),),
            )
        if account.external_id_file is not None and account.role_arn is None:
            yield Disagreement(
                at=(*at, "external_id_file"), message="has no role_arn beside it", others=((*at, "role_arn"),)
            )
        if account.role_arn is None and len(ids) > 1 and Counter(a.role_arn for a in config.aws.accounts)[None] > 1:
            yield Disagreement(
                at=at,
                message="role_arn is missing, and so it is of another account",
                hint="rekeyd's own credentials are of one account; all others need a role",
                others=((*at, "role_arn"),),
            )
    if ids and config.aws.organization is not None:
        yield Disagreement(
            at=("aws", "organization"),
            message="stands beside [[aws.accounts]]",
            hint="name the accounts, or let the organization tell them; not both",
        )


def _vault_address(config: Config) -> Iterator[Disagreement]:
    at: Path = ("vault", "address")
    parts = urlsplit(config.vault.address)
    if parts.scheme == "http" and not config.vault.allow_http and not is_loopback(parts.hostname or ""):
        yield Disagreement(
            at=at,
            message="is http, so every secret would cross the network readable",
            hint="use https://, or set vault.allow_http = true if something else encrypts the way",
            others=(("vault", "allow_http"),),
        )
    if parts.path.strip("/"):
        yield Disagreement(at=at, message="has a path", hint="only the address: https://vault.example:8200")
    proxy = config.vault.proxy
    if proxy is not None and (problem := proxy_problem(proxy, config.vault.address)) is not None:
        message, hint = problem
        yield Disagreement(at=("vault", "proxy"), message=message, hint=hint, secret="@" in proxy)
    if (config.vault.client_cert_file is None) != (config.vault.client_key_file is None):
        given = "client_cert_file" if config.vault.client_key_file is None else "client_key_file"
        yield Disagreement(
            at=("vault", given),
            message="needs client_cert_file and client_key_file together",
            others=(("vault", "client_cert_file"), ("vault", "client_key_file")),
        )


def _userinfo(config: Config) -> Iterator[Disagreement]:
    urls: Mapping[Path, str | None] = {
        ("vault", "address"): config.vault.address,
        ("aws", "endpoint_url"): config.aws.endpoint_url,
        ("journal", "url"): config.journal.url,
        ("events", "queue_url"): config.events.queue_url,
    }
    for at, url in urls.items():
        try:
            parts = urlsplit(url or "")
        except ValueError:
            continue
        if parts.password is not None or (parts.username is not None and at != ("journal", "url")):
            hint = "put the password into a file: journal.password_file" if at == ("journal", "url") else None
            yield Disagreement(at=at, message="holds a user name or a password", hint=hint, secret=True)


# What each method needs, and what it may have besides.
_AUTH_NEEDS: Mapping[AuthMethod, tuple[str, ...]] = {
    AuthMethod.TOKEN_FILE: ("token_file",),
    AuthMethod.APPROLE: ("secret_id_file",),
    AuthMethod.KUBERNETES: ("role",),
    AuthMethod.JWT: ("role", "jwt_file"),
    AuthMethod.CERT: (),
    AuthMethod.AWS: ("role",),
}
_AUTH_TAKES: Mapping[AuthMethod, tuple[str, ...]] = {
    AuthMethod.TOKEN_FILE: (),
    AuthMethod.APPROLE: ("mount", "role_id", "role_id_file", "secret_id_wrapped", "role"),
    AuthMethod.KUBERNETES: ("mount", "jwt_file"),
    AuthMethod.JWT: ("mount",),
    AuthMethod.CERT: ("mount", "role"),
    AuthMethod.AWS: ("mount", "header_value"),
}


def _vault_auth(config: Config) -> Iterator[Disagreement]:
    auth = config.vault.auth
    at: Path = ("vault", "auth")
    method: Path = (*at, "method")
    for name in _AUTH_NEEDS[auth.method]:
        if getattr(auth, name) is None:
            yield Disagreement(at=at, message=f'method "{auth.method}" needs {name}', others=(method, (*at, name)))
    takes = {"method", *_AUTH_NEEDS[auth.method], *_AUTH_TAKES[auth.method]}
    for name in AuthSettings.model_fields:
        if name not in takes and getattr(auth, name) is not None:
            yield Disagreement(at=(*at, name), message=f'means nothing to the method "{auth.method}"', others=(method,))
    if auth.method is AuthMethod.APPROLE and (auth.role_id is None) == (auth.role_id_file is None):
        yield Disagreement(
            at=at,
            message='method "approle" needs exactly one of role_id and role_id_file',
            others=(method, (*at, "role_id"), (*at, "role_id_file")),
        )
    if auth.role is not None and auth.method is AuthMethod.APPROLE and not auth.secret_id_wrapped:
        yield Disagreement(
            at=(*at, "role"),
            message="is only for a wrapped secret id",
            hint="set secret_id_wrapped = true, or leave role out",
            others=(method, (*at, "secret_id_wrapped")),
        )
    if auth.method is AuthMethod.CERT and config.vault.client_cert_file is None:
        yield Disagreement(
            at=at,
            message='method "cert" needs vault.client_cert_file and vault.client_key_file',
            others=(method, ("vault", "client_cert_file")),
        )
    if auth.method is AuthMethod.CERT and not config.vault.address.startswith("https://"):
        yield Disagreement(at=("vault", "address"), message='must be https for the method "cert"', others=(method,))


def _vault_places(config: Config) -> Iterator[Disagreement]:
    many = len(config.aws.accounts) > 1 or config.aws.organization is not None
    yield from _path(config.vault.path, ("vault", "path"), many_accounts=many)
    yield from _fields(config.vault.fields, ("vault", "fields"))
    for index, policy in enumerate(config.policies):
        at: Path = ("policies", index)
        if policy.path is not None:
            one = policy.match.accounts is not None and len(policy.match.accounts) == 1
            yield from _path(policy.path, (*at, "path"), many_accounts=many and not one)
        if policy.fields is not None:
            yield from _fields(policy.fields, (*at, "fields"))


def _path(template: str, at: Path, *, many_accounts: bool) -> Iterator[Disagreement]:
    names = placeholders(template)
    if "user_name" not in names:
        yield Disagreement(
            at=at,
            message="has no {user_name}, so all users would share one secret",
            hint="aws/{account_id}/{user_name}",
        )
    if many_accounts and not {"account_id", "account_alias"} & set(names):
        yield Disagreement(
            at=at,
            message="has no {account_id}, so users of the same name in two accounts would share one secret",
            hint="aws/{account_id}/{user_name}",
            others=(("aws", "accounts"), ("aws", "organization")),
        )
    try:
        check_template(template)
    except ConfigError as error:
        yield Disagreement(at=at, message=error.message.partition(": ")[2] or error.message, hint=error.hint)


def _fields(fields: FieldSettings, at: Path) -> Iterator[Disagreement]:
    pair = (
        fields.access_key_id or fields.preset.access_key_id,
        fields.secret_access_key or fields.preset.secret_access_key,
    )
    taken = {name.casefold() for name in pair}
    own = (("access_key_id", fields.access_key_id), ("secret_access_key", fields.secret_access_key))
    for setting, name in own:
        if name is not None and not is_field_name(name):
            yield Disagreement(at=(*at, setting), message=_NO_FIELD_NAME, hint=_FIELD_NAME_HINT)
    if len(taken) == 1:
        yield Disagreement(
            at=at,
            message="gives both halves of the pair one name",
            others=((*at, "access_key_id"), (*at, "secret_access_key"), (*at, "preset")),
        )
    for name in fields.extra:
        field: Path = (*at, "extra", name)
        if name.casefold() in taken:
            yield Disagreement(
                at=field,
                message=f'has the name of a field of the pair (preset "{fields.preset}")',
                hint="choose another name",
                others=((*at, "preset"),),
                secret=True,
            )
        elif not name:
            yield Disagreement(at=field, message="a field needs a name")
        elif not is_field_name(name):
            yield Disagreement(at=field, message=_NO_FIELD_NAME, hint=_FIELD_NAME_HINT, secret=True)


_NO_FIELD_NAME = "cannot be the name of a field"
_FIELD_NAME_HINT = "use letters, digits, dot, dash and underscore, which every consumer accepts"


def _webhook(config: Config) -> Iterator[Disagreement]:
    alarms = config.alarms
    if (alarms.webhook_url_file is None) != (alarms.webhook_secret_file is None):
        given = "webhook_url_file" if alarms.webhook_secret_file is None else "webhook_secret_file"
        yield Disagreement(
            at=("alarms", given),
            message="needs webhook_url_file and webhook_secret_file together",
            hint="an unsigned message could be anybody's",
            others=(("alarms", "webhook_url_file"), ("alarms", "webhook_secret_file")),
        )


def _owners(config: Config) -> Iterator[Disagreement]:
    if config.owners.webhook and config.alarms.webhook_url_file is None:
        yield Disagreement(
            at=("owners", "webhook"),
            message="needs alarms.webhook_url_file and alarms.webhook_secret_file",
            others=(("alarms", "webhook_url_file"),),
        )


def _policy_names(config: Config) -> Iterator[Disagreement]:
    names = [policy.name for policy in config.policies]
    for index, name in enumerate(names):
        if name in names[:index]:
            yield Disagreement(at=("policies", index, "name"), message="is the name of an earlier policy too")


def _matches(config: Config) -> Iterator[Disagreement]:
    listed = {account.id for account in config.aws.accounts}
    for index, policy in enumerate(config.policies):
        for table, match in (("match", policy.match), ("exclude", policy.exclude)):
            at: Path = ("policies", index, table)
            for name in MatchSettings.model_fields:
                given = getattr(match, name)
                if given is not None and not given:
                    yield Disagreement(
                        at=(*at, name), message="is empty; it is not clear whom it should match", hint="leave it out"
                    )
            for number, account in enumerate(match.accounts or ()):
                if listed and account not in listed:
                    yield Disagreement(
                        at=(*at, "accounts", number),
                        message="is not among [[aws.accounts]], so it matches nobody",
                        others=(("aws", "accounts"),),
                    )


def _policy_times(config: Config) -> Iterator[Disagreement]:
    for index, policy in enumerate(config.policies):
        at: Path = ("policies", index)
        try:
            lead = lead_of(policy, config.scan.every)
        except WindowError as error:
            yield Disagreement(at=(*at, "windows"), message=error.message, hint="open them at least once a year")
            continue
        yield from _max_age(policy, lead, at)
        needed = policy.verify_first + (policy.verify_probes - 1) * policy.verify_spacing
        if needed > policy.verify_timeout:
            yield Disagreement(
                at=(*at, "verify_timeout"),
                message="is shorter than verify_first + (verify_probes - 1) x verify_spacing = "
                f"{format_duration(needed)}, so no key could ever be proven",
                hint="raise verify_timeout",
                others=tuple((*at, name) for name in ("verify_first", "verify_probes", "verify_spacing")),
            )
        for name in ("wait", "quarantine"):
            duration: timedelta = getattr(config.orphans, name)
            if duration < policy.unused_for:
                yield Disagreement(
                    at=("orphans", name),
                    message=f'is shorter than unused_for = "{format_duration(policy.unused_for)}" of the policy '
                    f'"{policy.name}": IAM might not yet tell that the key was used',
                    hint=f"raise orphans.{name}",
                    others=((*at, "unused_for"), (*at, "name")),
                )


def _max_age(policy: PolicySettings, lead: timedelta, at: Path) -> Iterator[Disagreement]:
    least = minimum_max_age(
        overlap=policy.overlap, quarantine=policy.quarantine, unused_for=policy.unused_for, lead=lead
    )
    if policy.max_age >= least:
        return
    terms = (
        f"2 x {format_duration(policy.overlap)} + {format_duration(policy.quarantine)} + "
        f"{format_duration(policy.unused_for)} + {format_duration(lead)}"
    )
    names = ("overlap", "quarantine", "unused_for", "windows", "verify_first", "verify_timeout", "publish_timeout")
    yield Disagreement(
        at=(*at, "max_age"),
        message=f'policy "{policy.name}": max_age = "{format_duration(policy.max_age)}" is shorter than 2 x overlap + '
        f"quarantine + unused_for + lead = {terms} = {format_duration(least)}, so the next rotation would be due "
        "before the last has ended",
        hint="raise max_age, or shorten overlap or quarantine; lead = longest closed stretch of the windows + "
        "scan.every + verify_first + verify_timeout + publish_timeout",
        others=(*((*at, name) for name in names), ("scan", "every")),
    )


def _freezes(config: Config) -> Iterator[Disagreement]:
    for index, freeze in enumerate(config.fleet.freezes):
        at: Path = ("fleet", "freezes", index)
        if freeze.first_day > freeze.last_day:
            yield Disagreement(
                at=(*at, "from"),
                message=f'is after to = {freeze.last_day}, so the freeze "{freeze.reason}" never holds',
                others=((*at, "to"),),
            )


def _journal(config: Config) -> Iterator[Disagreement]:
    at: Path = ("journal", "url")
    url = config.journal.url
    scheme = url.partition("://")[0]
    if scheme.startswith("postgresql"):
        yield Disagreement(at=at, message="PostgreSQL is not available in this version", hint="use sqlite:////path")
    elif scheme != "sqlite":
        yield Disagreement(
            at=at, message="is not a URL of SQLite", hint='"sqlite:////var/lib/rekeyd/journal.db"', secret="@" in url
        )
    elif not url.startswith("sqlite:////") or url.endswith("/") or "?" in url:
        yield Disagreement(
            at=at,
            message="is not the absolute path of a file",
            hint='four slashes: "sqlite:////var/lib/rekeyd/journal.db"',
        )
    if scheme == "sqlite" and config.journal.password_file is not None:
        yield Disagreement(at=("journal", "password_file"), message="means nothing to SQLite", others=(at,))


def _events(config: Config) -> Iterator[Disagreement]:
    at: Path = ("events", "queue_url")
    region_at: Path = ("events", "region")
    url, region = config.events.queue_url, config.events.region
    if url is None:
        if region is not None:
            yield Disagreement(at=region_at, message="has no queue_url beside it", others=(at,))
        return
    parts = urlsplit(url)
    if parts.scheme == "http" and not is_loopback(parts.hostname or ""):
        yield Disagreement(at=at, message="is http", hint="AWS serves queues by https://")
    told = queue_name(url).region
    if region is not None and told is not None and region != told:
        yield Disagreement(
            at=region_at, message=f"is not the Region of queue_url, {told}", hint="leave it out", others=(at,)
        )


_RULES: tuple[Rule, ...] = (
    _accounts,
    _vault_address,
    _userinfo,
    _vault_auth,
    _vault_places,
    _webhook,
    _owners,
    _policy_names,
    _matches,
    _policy_times,
    _freezes,
    _events,
    _journal,
)
