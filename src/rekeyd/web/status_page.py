"""The page for people: what `rekeyd status` shows, in a browser. Made here whole, without scripts or links."""

import base64
import hashlib
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.resources import files
from typing import Any

from jinja2 import Environment, StrictUndefined, Template

from rekeyd.fleet.documents import worst_first

SHOWN_USERS = 500
"""A fleet of thousands would make a page that no browser likes; those that need somebody come first."""

# Whoever waits for a person first, then what is on its way; who is at rest is last.
_CALM = ("fresh", "unmanaged")


def render(document: Mapping[str, Any], problems: Sequence[str]) -> str:
    """HTML of a status document (`fleet.documents`). `problems`: why the daemon is not ready, if it is not.

    Everything in it is escaped: names and tags are other people's words.
    """
    findings = sorted(document["findings"], key=worst_first)
    principals = sorted(document["principals"], key=_needs_somebody_first)
    return _template().render(
        document=document,
        style=_style(),
        problems=problems,
        findings=findings,
        critical=sum(finding["severity"] == "critical" for finding in findings),
        names={account["account_id"]: account["alias"] for account in document["accounts"]},
        principals=principals[:SHOWN_USERS],
        hidden=max(0, len(principals) - SHOWN_USERS),
    )


@cache
def policy() -> str:
    """The page's Content-Security-Policy: its own style, and nothing else whatever a name contains."""
    digest = base64.b64encode(hashlib.sha256(_style().encode()).digest()).decode()
    return (
        f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )


def _needs_somebody_first(principal: Mapping[str, Any]) -> tuple[bool, bool, str, str]:
    state = principal["state"]
    return state != "refused", state in _CALM, principal["account_id"], principal["user_name"]


@cache
def _template() -> Template:
    return Environment(autoescape=True, undefined=StrictUndefined).from_string(_file("status.html"))


@cache
def _style() -> str:
    return _file("status.css")


def _file(name: str) -> str:
    return (files("rekeyd.web") / "templates" / name).read_text(encoding="utf-8")
