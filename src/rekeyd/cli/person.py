"""Who calls the command, and whether this Unix user may."""

import os
import pwd
import re
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from rekeyd.errors import UsageError

if TYPE_CHECKING:
    from rekeyd.config import Config

_SUDO_USER = re.compile(r"[A-Za-z0-9._@-]{1,64}", re.ASCII)


def actor() -> str:
    """For the audit trail: `user:alice`; through sudo `user:rekeyd (sudo alice)`."""
    name = _name_of(os.geteuid())
    behind = os.environ.get("SUDO_USER", "")
    if _SUDO_USER.fullmatch(behind) and behind != name:
        return f"user:{name} (sudo {behind})"
    return f"user:{name}"


def refuse_other_user(config: "Config") -> None:
    """UsageError unless the journal is this user's: what another one makes there the daemon could not open."""
    path = journal_path(config)
    owner = _owner_of(path)
    if owner is None or owner == os.geteuid():
        return
    name = _name_of(owner)
    again = shlex.join(["rekeyd", *sys.argv[1:]])
    raise UsageError(
        f"the journal {path} belongs to the user {name}, and this is {_name_of(os.geteuid())}",
        hint=f"sudo -u {shlex.quote(name)} {again}",
    )


def journal_path(config: "Config") -> Path:
    return Path(config.journal.url.removeprefix("sqlite:///"))


def _owner_of(path: Path) -> int | None:
    """Of the journal; before its first start of its folder, which counts for root only: others fail by themselves."""
    try:
        return path.stat().st_uid
    except OSError:
        pass
    if os.geteuid() != 0:
        return None
    try:
        return path.parent.stat().st_uid
    except OSError:
        return None


def _name_of(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)
