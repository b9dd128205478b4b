"""Where in Vault a principal's pair stands, and what its fields are called.

A template such as `aws/{account_id}/{user_name}` becomes a path of plain segments. A value that would leave
its segment (`..` is a legal IAM user name) is refused, never mended: two users must not meet on one path.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from rekeyd.core.reasons import Reason
from rekeyd.errors import ConfigError, RefusedError

PLACEHOLDERS = ("account_id", "account_alias", "user_name", "user_path", "partition")

BURN_MARKER = "rekeyd_burned"
"""The only field of a version that a burn made where nothing was held."""

_PRESETS: Mapping[str, tuple[str, str]] = MappingProxyType(
    {
        "default": ("access_key_id", "secret_access_key"),
        # Vault's own aws engine, static-creds: builtin/logical/aws/path_static_creds.go
        "vault-aws": ("access_key", "secret_key"),
        # botocore's names in the environment and in the shared credentials file
        "env": ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"),
        "shared-credentials": ("aws_access_key_id", "aws_secret_access_key"),
    }
)
PRESETS = tuple(_PRESETS)

# External Secrets Operator refuses other names; Vault Secrets Operator reserves `_raw`.
_FIELD_NAME = re.compile(r"[-._a-zA-Z0-9]{1,128}")
_RESERVED = frozenset({"_raw", BURN_MARKER})

_PLACEHOLDER = re.compile(r"\{([^{}]*)\}")
# Vault answers 400 with an empty body; some proxies cut the path there.
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


class BadPathError(RefusedError):
    """The value would escape its place in Vault, or leave it empty."""

    code = Reason.BAD_PATH.value
    reason = Reason.BAD_PATH


@dataclass(frozen=True, slots=True, kw_only=True)
class FieldNames:
    id_field: str = "access_key_id"
    secret_field: str = "secret_access_key"  # noqa: S105 - a field name
    extra: Mapping[str, str] = field(default_factory=dict)
    """Static fields, written beside the pair."""


def field_names(
    preset: str = "default",
    *,
    id_field: str | None = None,
    secret_field: str | None = None,
    extra: Mapping[str, str] | None = None,
) -> FieldNames:
    """The preset's names, replaced by own ones where given. Raises ConfigError."""
    if preset not in _PRESETS:
        raise ConfigError(f'vault.fields.preset = "{preset}" is unknown', hint=f"use one of {', '.join(_PRESETS)}")
    preset_id, preset_secret = _PRESETS[preset]
    names = FieldNames(
        id_field=preset_id if id_field is None else id_field,
        secret_field=preset_secret if secret_field is None else secret_field,
        extra=dict(extra or {}),
    )
    _check_fields(names)
    return names


def _check_fields(names: FieldNames) -> None:
    used = [names.id_field, names.secret_field, *names.extra]
    for name in used:
        if not is_field_name(name):
            raise ConfigError(
                f'vault.fields: "{name}" cannot be the name of a field',
                hint="use letters, digits, dot, dash and underscore, which every consumer accepts",
            )
    if len(set(used)) != len(used):
        raise ConfigError("vault.fields: two fields have the same name", hint="give each field its own name")
    for name, value in names.extra.items():
        if not isinstance(value, str):
            raise ConfigError(
                f"vault.fields.extra.{name} is not a string", hint="KV version 2 changes numbers; quote the value"
            )


def is_field_name(name: str) -> bool:
    return _FIELD_NAME.fullmatch(name) is not None and name not in _RESERVED


@dataclass(frozen=True, slots=True, kw_only=True)
class PathValues:
    account_id: str
    user_name: str
    user_path: str
    """IAM's, with slashes around, such as `/service/ci/`; `/` stands for no segment at all."""
    partition: str
    account_alias: str | None = None


def check_template(template: str) -> None:
    """ConfigError for an unknown placeholder or a template that cannot make a path."""
    for segment in template.split("/"):
        for name in _PLACEHOLDER.findall(segment):
            if name not in PLACEHOLDERS:
                raise ConfigError(
                    f'vault.path: unknown placeholder "{{{name}}}"', hint=f"there are {', '.join(PLACEHOLDERS)}"
                )
        if "{user_path}" in segment and segment != "{user_path}":
            raise ConfigError(
                f'vault.path: "{segment}" mixes {{user_path}} with other text', hint="put {user_path} between slashes"
            )
        literal = _PLACEHOLDER.sub("x", segment)
        if "{" in literal or "}" in literal:
            raise ConfigError(f'vault.path: "{segment}" has an unpaired brace', hint="write {user_name}, for example")
        problem = _segment_problem(literal)
        if problem:
            raise ConfigError(f'vault.path = "{template}" {problem}', hint="write it like aws/{account_id}/{user_name}")


def render_path(template: str, values: PathValues) -> str:
    """The path of one principal. Raises BadPathError when a value would escape its place."""
    check_template(template)
    segments: list[str] = []
    for segment in template.split("/"):
        if segment == "{user_path}":
            segments += _user_path(values)
        else:
            segments.append(_PLACEHOLDER.sub(lambda match: _value(match.group(1), values), segment))
    path = "/".join(segments)
    check_path(path)
    return path


def check_path(path: str, *, what: str = "path") -> None:
    """BadPathError unless every segment is one that no library and no server rewrites."""
    for segment in path.split("/"):
        problem = _segment_problem(segment)
        if problem:
            raise BadPathError(
                f"{what} {path!r} in Vault {problem}", hint="rename the user, or give its policy a path of its own"
            )


def _segment_problem(segment: str) -> str | None:
    if not segment:
        return "has an empty segment"
    if segment in {".", ".."}:
        return f'has a segment "{segment}"'
    if _CONTROL.search(segment):
        return "has a control character"
    return None


def _user_path(values: PathValues) -> list[str]:
    if values.user_path == "/":
        return []
    return values.user_path.removeprefix("/").removesuffix("/").split("/")


def _value(name: str, values: PathValues) -> str:
    value = {
        "account_id": values.account_id,
        "account_alias": values.account_alias,
        "user_name": values.user_name,
        "partition": values.partition,
    }[name]
    if not value:
        raise BadPathError(f"{name} of user {values.user_name!r} is empty, so its path in Vault cannot be made")
    if "/" in value:
        raise BadPathError(f"{name} {value!r} has a slash and would leave its place in Vault")
    return value
