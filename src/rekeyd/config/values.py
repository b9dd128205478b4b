"""The kinds of values that settings take, each with its check and its words for a mistake.

A check looks at one value only; what two settings must agree on stands in `rules`.
"""

import ipaddress
import re
from datetime import timedelta
from string import Formatter
from typing import Annotated, Any
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import AfterValidator, BeforeValidator, Field, PlainSerializer, PlainValidator, WithJsonSchema
from pydantic_core import PydanticCustomError

from rekeyd.adapters import windows
from rekeyd.adapters.queue_name import queue_name
from rekeyd.adapters.vault_fields import PLACEHOLDERS
from rekeyd.config.durations import format_duration, parse_duration
from rekeyd.logs import redacted


def mistake(message: str, hint: str | None = None) -> PydanticCustomError:
    """What a check raises: the words go into the problem as they are, the hint beside them."""
    context: dict[str, Any] = {"said": message, "hint": hint}
    return PydanticCustomError("rekeyd", "{said}", context)


def _duration(value: object) -> timedelta:
    if isinstance(value, timedelta):
        return value
    if not isinstance(value, str):
        raise mistake('must be a duration in quotes, such as "90d" or "12h"')
    try:
        return parse_duration(value)
    except ValueError as error:
        raise mistake(str(error), "units are w, d, h, m, s and ms, the longer first") from None


def _positive(value: timedelta) -> timedelta:
    if value <= timedelta(0):
        raise mistake("must be longer than zero")
    return value


_DURATION_SCHEMA = {"type": "string", "pattern": r"^([0-9.]+(w|d|h|m|s|ms))+$", "examples": ["90d", "12h", "0.2s"]}

DurationOrZero = Annotated[
    timedelta,
    BeforeValidator(_duration),
    PlainSerializer(format_duration, return_type=str),
    WithJsonSchema(_DURATION_SCHEMA),
]
Duration = Annotated[
    timedelta,
    BeforeValidator(_duration),
    AfterValidator(_positive),
    PlainSerializer(format_duration, return_type=str),
    WithJsonSchema(_DURATION_SCHEMA),
]
Flag = Annotated[bool, Field(strict=True)]
Count = Annotated[int, Field(strict=True, ge=1)]


# AWS account ids are twelve digits; leading zeros count.
# https://docs.aws.amazon.com/accounts/latest/reference/manage-acct-identifiers.html
def _account_id(value: str) -> str:
    if not re.fullmatch(r"\d{12}", value, re.ASCII):
        raise mistake("is not an AWS account id: twelve digits, in quotes")
    return value


# Partition, no Region, twelve digits, and a role with an optional path; name of at most 64 of these characters.
# https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_iam-quotas.html
_ROLE_ARN = re.compile(r"arn:(aws[a-z-]*):iam::(\d{12}):role/((?:[\x21-\x7e]+/)*)([\w+=,.@-]{1,64})", re.ASCII)


def role_account(arn: str) -> str | None:
    """The account id in a role's ARN; None if it is none."""
    found = _ROLE_ARN.fullmatch(arn)
    return None if found is None else found.group(2)


def _role_arn(value: str) -> str:
    if role_account(value) is None:
        raise mistake("is not the ARN of an IAM role", "arn:aws:iam::111122223333:role/rekeyd")
    return value


def _role_name(value: str) -> str:
    if not re.fullmatch(r"(?:[\x21-\x7e]+/)*[\w+=,.@-]{1,64}", value, re.ASCII) or value.startswith(("arn:", "/")):
        raise mistake("is not the name of an IAM role (a path may stand before it; no ARN)")
    return value


def _topic_arn(value: str) -> str:
    if not re.fullmatch(r"arn:aws[a-z-]*:sns:[a-z0-9-]+:\d{12}:[\w-]{1,256}(?:\.fifo)?", value, re.ASCII):
        raise mistake("is not the ARN of an SNS topic", "arn:aws:sns:us-east-1:111122223333:rekeyd")
    return value


def _queue_url(value: str) -> str:
    try:
        queue_name(value)
    except ValueError:
        raise mistake(
            "is not the URL of an SQS queue", "https://sqs.us-east-1.amazonaws.com/111122223333/rekeyd-events"
        ) from None
    return value


# The shape of botocore's regionRegex over all partitions (us-east-1, us-gov-west-1, us-iso-east-1, eusc-de-east-1).
def _region(value: str) -> str:
    if not re.fullmatch(r"[a-z]{2,4}(?:-[a-z]+){1,3}-\d{1,2}", value, re.ASCII):
        raise mistake("is not shaped like an AWS Region", "us-east-1, eu-central-1, us-gov-west-1, cn-north-1")
    return value


def _regions(value: object) -> tuple[str, ...] | None:
    if value is None or value == "auto":
        return None
    if not isinstance(value, list | tuple) or not value:
        raise mistake('must be "auto" or a list of Regions')
    for item in value:
        if not isinstance(item, str):
            raise mistake(f"holds {item!r}, which is not a Region in quotes")
        try:
            _region(item)
        except PydanticCustomError:
            raise mistake(f'holds "{item}", which is not shaped like an AWS Region', "us-east-1") from None
    return tuple(value)


# IAM user names: letters, digits and _+=,.@- (IAM model, botocore 1.44); a glob adds * ? [ ] !
def _user_glob(value: str) -> str:
    if not re.fullmatch(r"[\w+=,.@*?\[\]!-]{1,128}", value, re.ASCII):
        raise mistake("cannot match any IAM user name: only letters, digits, _+=,.@- and the signs * ? [ ] of a glob")
    return _closed_glob(value)


def _closed_glob(value: str) -> str:
    inside = re.sub(r"\[!?\]?[^\]]*\]", "", value)
    if "[" in inside:
        raise mistake("has a [ that is never closed, so it would match that sign only")
    return value


def _iam_path(value: str) -> str:
    if not re.fullmatch(r"/(?:[\x21-\x7e]+/)?", value) or re.search(r"[*?\[\]]", value):
        raise mistake(
            "is not the beginning of an IAM path", 'it begins and ends with a slash, and is no glob: "/service/"'
        )
    return value


# https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_iam-quotas.html: key 128, value 256 characters
def _tag_key(value: str) -> str:
    if not 1 <= len(value) <= 128:
        raise mistake("is not the key of a tag: 1 to 128 characters")
    return value


def _cron(value: str) -> str:
    try:
        windows.check_cron(value)
    except windows.WindowError as error:
        raise mistake(
            error.message, 'minute, hour, day, month, weekday: "0 2 * * 1-5" is 02:00 from Monday to Friday'
        ) from None
    return value


def _timezone(value: str) -> str:
    try:
        ZoneInfo(value)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise mistake("is not a time zone", 'names of the IANA list: "UTC", "Europe/Berlin"') from None
    return value


def placeholders(template: str) -> list[str]:
    """The names in braces. Raises `ValueError` for unpaired braces, conversions and formats."""
    names = []
    for _, name, spec, conversion in Formatter().parse(template):
        if name is None:
            continue
        if spec or conversion or not name.isidentifier():
            raise ValueError(f"{{{name}}} is not a plain name in braces")
        names.append(name)
    return names


def _template(*allowed: str) -> AfterValidator:
    def check(value: str) -> str:
        try:
            names = placeholders(value)
        except ValueError as error:
            raise mistake(f"is not a path template: {error}") from None
        for name in names:
            if name not in allowed:
                raise mistake(
                    f"has the unknown placeholder {{{name}}}", "known: " + ", ".join(f"{{{name}}}" for name in allowed)
                )
        return _vault_path(value)

    return AfterValidator(check)


def _vault_path(value: str) -> str:
    segments = value.split("/")
    if not all(segments):
        raise mistake("must not begin or end with a slash, nor hold two in a row")
    if any(segment in (".", "..") for segment in segments):
        raise mistake("must not hold . or .. as a segment")
    # Vault takes + and * in policies as wildcards, and ? # % change the URL.
    if not re.fullmatch(r"[\w.@=,:{}/-]+", value, re.ASCII):
        raise mistake("holds a character that a Vault path should not: only letters, digits and _ . @ = , : - /")
    return value


def is_loopback(host: str) -> bool:
    """Whether the host is this machine by its spelling; no name is looked up."""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _http_url(value: str) -> str:
    try:
        parts = urlsplit(value)
        port = parts.port
    except ValueError:
        raise mistake("is not a URL") from None
    if parts.scheme not in ("http", "https") or not parts.hostname or port == 0:
        raise mistake("is not a URL with https:// or http:// and a host", "https://vault.example:8200")
    if parts.query or parts.fragment or re.search(r"\s", value):
        raise mistake("must be an address alone, without ? or #")
    return value


LINK_PLACEHOLDERS = ("reason", "account_id", "alarm_id")


def _link(value: str) -> str:
    try:
        names = placeholders(value)
        parts = urlsplit(value)
    except ValueError as error:
        raise mistake(f"is not the address of a page: {error}") from None
    if parts.scheme not in ("http", "https") or not parts.hostname or re.search(r"[\s{}]", parts.netloc + parts.scheme):
        raise mistake("is not a URL with https:// or http:// and a host", "https://wiki.example/rekeyd/{reason}")
    if parts.username is not None or parts.password is not None:
        raise mistake("holds a user name or a password, and everybody who is told would read it")
    if re.search(r"\s", value):
        raise mistake("must be an address alone, without blanks")
    for name in names:
        if name not in LINK_PLACEHOLDERS:
            raise mistake(
                f"has the unknown placeholder {{{name}}}",
                "known: " + ", ".join(f"{{{name}}}" for name in LINK_PLACEHOLDERS),
            )
    return value


def listen_address(value: str) -> tuple[str, int]:
    """Host and port of "127.0.0.1:9744" or "[::1]:9744"; port 0 takes a free one. Raises `ValueError`."""
    host, colon, port = value.rpartition(":")
    if not colon or not re.fullmatch(r"\d{1,5}", port, re.ASCII) or int(port) > 65535:
        raise ValueError("is not host:port")
    bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    if not bare or (":" in bare and bare == host) or not re.fullmatch(r"[A-Za-z0-9:.%_-]+", bare, re.ASCII):
        raise ValueError("is not host:port")
    return bare, int(port)


def _listen(value: str) -> str:
    try:
        listen_address(value)
    except ValueError as error:
        raise mistake(str(error), '"127.0.0.1:9744", "[::1]:9744", "0.0.0.0:9744"') from None
    return value


def _file(value: str) -> str:
    if not value or "\0" in value or "\n" in value:
        raise mistake("is not the path of a file")
    if redacted(value) != value:
        raise mistake("holds a secret, not the path of a file", "write the secret into a file, and its path here")
    return value


def _name(value: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}", value, re.ASCII):
        raise mistake("is not a name: 1 to 63 letters, digits, dots, dashes and underscores, a letter or digit first")
    return value


AccountId = Annotated[str, AfterValidator(_account_id)]
RoleArn = Annotated[str, AfterValidator(_role_arn)]
RoleName = Annotated[str, AfterValidator(_role_name)]
TopicArn = Annotated[str, AfterValidator(_topic_arn)]
QueueUrl = Annotated[str, AfterValidator(_queue_url)]
Region = Annotated[str, AfterValidator(_region)]
Regions = Annotated[
    tuple[str, ...] | None,
    PlainValidator(_regions),
    PlainSerializer(lambda regions: "auto" if regions is None else list(regions), return_type=list[str] | str),
    WithJsonSchema({"anyOf": [{"const": "auto"}, {"type": "array", "items": {"type": "string"}}], "default": "auto"}),
]
UserGlob = Annotated[str, AfterValidator(_user_glob)]
IamPath = Annotated[str, AfterValidator(_iam_path)]
TagKey = Annotated[str, AfterValidator(_tag_key)]
TagGlob = Annotated[str, AfterValidator(_closed_glob)]
Cron = Annotated[str, AfterValidator(_cron)]
TimeZone = Annotated[str, AfterValidator(_timezone)]
PathTemplate = Annotated[str, _template(*PLACEHOLDERS)]
StateTemplate = Annotated[str, _template("instance")]
VaultPath = Annotated[str, AfterValidator(_vault_path)]
HttpUrl = Annotated[str, AfterValidator(_http_url)]
LinkTemplate = Annotated[str, AfterValidator(_link)]
Listen = Annotated[str, AfterValidator(_listen)]
FilePath = Annotated[str, AfterValidator(_file)]
Name = Annotated[str, AfterValidator(_name)]
