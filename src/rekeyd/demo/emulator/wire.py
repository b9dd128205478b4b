"""AWS's wire formats: reading a signed request, checking its signature, writing XML and JSON answers.

Shapes are AWS's own (facts measured against recorded answers): errors in the
Query protocol are XML with a namespace and a request id; the JSON services name
the same faults differently.
"""

import json
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from urllib.parse import parse_qs
from xml.sax.saxutils import escape

from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from rekeyd.demo.emulator.faults import Answer
from rekeyd.demo.emulator.serving import Received

NAMESPACES = {
    "iam": "https://iam.amazonaws.com/doc/2010-05-08/",
    "sts": "https://sts.amazonaws.com/doc/2011-06-15/",
}
JSON_SERVICES = frozenset({"cloudtrail", "health", "organizations", "sqs"})

# HTTP status of each code in the Query protocol, from botocore's IAM and STS models
# and the common errors of the IAM API reference.
STATUS_OF_CODE = {
    "AccessDenied": 403,
    "ConcurrentModification": 409,
    "DeleteConflict": 409,
    "EntityAlreadyExists": 409,
    "EntityTemporarilyUnmodifiable": 409,
    "ExpiredToken": 403,
    "InternalFailure": 500,
    "InvalidAction": 400,
    "InvalidClientTokenId": 403,
    "InvalidInput": 400,
    "LimitExceeded": 409,
    "MissingAuthenticationToken": 403,
    "NoSuchEntity": 404,
    "ReportExpired": 410,
    "ReportInProgress": 404,
    "ReportNotPresent": 410,
    "ServiceFailure": 500,
    "ServiceUnavailable": 503,
    "SignatureDoesNotMatch": 403,
    "Throttling": 400,
    "ValidationError": 400,
}
_JSON_NAMES = {
    "AccessDenied": "AccessDeniedException",
    "ExpiredToken": "ExpiredTokenException",
    "InvalidClientTokenId": "UnrecognizedClientException",
    "SignatureDoesNotMatch": "InvalidSignatureException",
    "Throttling": "ThrottlingException",
    "ValidationError": "ValidationException",
}


class AwsError(Exception):
    """An error that AWS answers with; `code` as on the wire of the Query protocol."""

    def __init__(self, code: str, message: str, status: int | None = None) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message
        self.status = status


@dataclass(frozen=True, slots=True, kw_only=True)
class Signed:
    """What the request says of itself, before anybody checked it."""

    access_key_id: str | None
    region: str | None
    service: str
    action: str
    params: Mapping[str, Any]
    session_token: str | None
    signed_headers: tuple[str, ...]
    signature: str
    signed_at: str
    """X-Amz-Date, `20261123T192234Z`."""


def parse(received: Received) -> Signed:
    """Never raises: an unsigned or odd request has empty fields and is refused later."""
    scope, signed_headers, signature = _authorization(received.headers.get("authorization", ""))
    access_key_id, region, service = (scope[0], scope[2], scope[3]) if len(scope) == 5 else (None, None, "")
    target = received.headers.get("x-amz-target")
    params: Mapping[str, Any]
    if target is not None:
        action = target.rpartition(".")[2]
        try:
            loaded = json.loads(received.body or b"{}")
        except ValueError:
            loaded = {}
        params = loaded if isinstance(loaded, dict) else {}
    else:
        form = parse_qs(received.body.decode("utf-8", "replace") or received.query, keep_blank_values=True)
        params = {name: values[0] for name, values in form.items()}
        action = str(params.get("Action", ""))
    return Signed(
        access_key_id=access_key_id,
        region=region,
        service=service,
        action=action,
        params=params,
        session_token=received.headers.get("x-amz-security-token"),
        signed_headers=signed_headers,
        signature=signature,
        signed_at=received.headers.get("x-amz-date", ""),
    )


def signature_matches(received: Received, signed: Signed, secret_access_key: str) -> bool:
    """Signs the request again as botocore would and compares."""
    if signed.access_key_id is None or signed.region is None:
        return False
    headers = {name: received.headers.get(name, "") for name in signed.signed_headers}
    url = f"http://{received.host}{received.path}" + (f"?{received.query}" if received.query else "")
    request = AWSRequest(method=received.method, url=url, headers=headers, data=received.body)
    request.context["timestamp"] = signed.signed_at
    auth = SigV4Auth(
        Credentials(signed.access_key_id, secret_access_key, signed.session_token), signed.service, signed.region
    )
    try:
        canonical = auth.canonical_request(request)
        expected = auth.signature(auth.string_to_sign(request, canonical), request)
    except (KeyError, ValueError):
        return False
    return bool(expected == signed.signature)


def xml_answer(service: str, action: str, result: Mapping[str, object] | None) -> Answer:
    inner = "" if result is None else f"<{action}Result>{_members(result)}</{action}Result>"
    body = (
        f'<{action}Response xmlns="{NAMESPACES[service]}">{inner}'
        f"<ResponseMetadata><RequestId>{uuid.uuid4()}</RequestId></ResponseMetadata></{action}Response>"
    )
    return Answer(status=200, headers=(("Content-Type", "text/xml"),), body=body.encode())


def json_answer(document: Mapping[str, object]) -> Answer:
    body = json.dumps(document).encode()
    return Answer(status=200, headers=(("Content-Type", "application/x-amz-json-1.1"),), body=body)


def error_answer(service: str, error: AwsError) -> Answer:
    """In the form of the service; the message is AWS's to word and nobody's to parse."""
    if service in JSON_SERVICES:
        name = _JSON_NAMES.get(error.code, error.code)
        if service == "organizations" and error.code == "Throttling":
            name = "TooManyRequestsException"
        body = json.dumps({"__type": name, "message": error.message}).encode()
        headers = (("Content-Type", "application/x-amz-json-1.1"), ("x-amzn-errortype", name))
        return Answer(status=error.status or 400, headers=headers, body=body)
    status = error.status or STATUS_OF_CODE.get(error.code, 400)
    kind = "Receiver" if status >= 500 else "Sender"
    text = (
        f'<ErrorResponse xmlns="{NAMESPACES.get(service, NAMESPACES["iam"])}">\n  <Error>\n'
        f"    <Type>{kind}</Type>\n    <Code>{escape(error.code)}</Code>\n"
        f"    <Message>{escape(error.message)}</Message>\n  </Error>\n"
        f"  <RequestId>{uuid.uuid4()}</RequestId>\n</ErrorResponse>\n"
    )
    return Answer(status=status, headers=(("Content-Type", "text/xml"),), body=text.encode())


def stamp(at: datetime) -> str:
    """IAM's dates have whole seconds."""
    return at.strftime("%Y-%m-%dT%H:%M:%SZ")


def _authorization(header: str) -> tuple[list[str], tuple[str, ...], str]:
    if not header.startswith("AWS4-HMAC-SHA256 "):
        return [], (), ""
    parts = dict(part.strip().partition("=")[::2] for part in header.removeprefix("AWS4-HMAC-SHA256 ").split(","))
    scope = parts.get("Credential", "").rsplit("/", 4)
    return scope, tuple(parts.get("SignedHeaders", "").split(";")), parts.get("Signature", "")


def _members(value: Mapping[str, object]) -> str:
    return "".join(f"<{name}>{_element(inner)}</{name}>" for name, inner in value.items() if inner is not None)


def _element(value: object) -> str:
    match value:
        case bool():
            return "true" if value else "false"
        case datetime():
            return stamp(value)
        case SummaryMap():
            return "".join(f"<entry><key>{k}</key><value>{v}</value></entry>" for k, v in value.entries.items())
        case Mapping():
            return _members(value)
        case list() | tuple():
            return "".join(f"<member>{_element(inner)}</member>" for inner in value)
        case _:
            return escape(str(value))


@dataclass(frozen=True, slots=True)
class SummaryMap:
    """Rendered as `<entry>` pairs, unlike other mappings."""

    entries: Mapping[str, int]
