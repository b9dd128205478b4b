"""rekeyd's note beside a secret, as custom metadata: it makes no version and wakes no consumer."""

from collections.abc import Mapping

from rekeyd.adapters.vault_read import timestamp
from rekeyd.core.model import AccessKeyId, PublishNote, RotationId, UserId
from rekeyd.errors import RefusedError

# https://developer.hashicorp.com/vault/api-docs/secret/kv/kv-v2#custom_metadata, measured: bytes, not characters
_LONGEST_VALUE = 512

_VERSION = "rekeyd_version"
_USER_ID = "rekeyd_user_id"
_KEY_ID = "rekeyd_access_key_id"
_OLD_KEY_ID = "rekeyd_old_access_key_id"
_ROTATION_ID = "rekeyd_rotation_id"
_PUBLISHED_AT = "rekeyd_published_at"


def note_to_metadata(note: PublishNote) -> dict[str, str | None]:
    """None: the entry is to be removed. RefusedError for a value that Vault would refuse."""
    entries: dict[str, str | None] = {
        _VERSION: str(note.version),
        _USER_ID: note.user_id,
        _KEY_ID: note.access_key_id,
        _OLD_KEY_ID: note.old_access_key_id or None,
        _ROTATION_ID: note.rotation_id,
        _PUBLISHED_AT: note.published_at.isoformat(),
    }
    for name, value in entries.items():
        if value is not None and not (0 < len(value.encode()) <= _LONGEST_VALUE and value.isprintable()):
            raise RefusedError(
                f"{name} cannot be kept in Vault's custom metadata: empty, longer than 512 bytes, or odd"
            )
    return entries


def note_from_metadata(custom_metadata: Mapping[str, str]) -> PublishNote | None:
    """None: there is none, or somebody changed it into something that is none."""
    try:
        return PublishNote(
            version=int(custom_metadata[_VERSION]),
            user_id=UserId(custom_metadata[_USER_ID]),
            access_key_id=AccessKeyId(custom_metadata[_KEY_ID]),
            old_access_key_id=AccessKeyId(old) if (old := custom_metadata.get(_OLD_KEY_ID)) else None,
            rotation_id=RotationId(custom_metadata[_ROTATION_ID]),
            published_at=timestamp(custom_metadata[_PUBLISHED_AT]),
        )
    except (KeyError, ValueError, TypeError):
        return None
