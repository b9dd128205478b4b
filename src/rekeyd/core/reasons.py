"""Why something is done, waited for or refused: a closed list, one sentence each."""

from enum import StrEnum


class Severity(StrEnum):
    CRITICAL = "critical"
    HIGH = "high"
    MEDIUM = "medium"
    LOW = "low"


class Reason(StrEnum):
    """The value is the stable spelling in JSON, logs and metrics; `sentence` is for people."""

    # nothing to do yet
    NOT_DUE = "not_due"
    IN_OVERLAP = "in_overlap"
    IN_QUARANTINE = "in_quarantine"
    SETTLING = "settling"
    OUTSIDE_WINDOW = "outside_window"
    RESTORED_BY_ROLLBACK = "restored_by_rollback"
    NO_KEYS = "no_keys"
    AWAITING_CLOUDTRAIL = "awaiting_cloudtrail"
    ORPHAN_WATCHED = "orphan_watched"
    # causes of a step
    DUE = "due"
    ASKED = "asked"
    EMERGENCY = "emergency"
    ADOPT = "adopt"
    FIRST_KEY = "first_key"
    REPAIR = "repair"
    ROTATION_OPEN = "rotation_open"
    PUBLISHED_BUT_UNRECORDED = "published_but_unrecorded"
    PROOF_NEEDED = "proof_needed"
    VERSION_CHANGED = "version_changed"
    OVERLAP_ENDED = "overlap_ended"
    QUARANTINE_ENDED = "quarantine_ended"
    ENDED_EARLY = "ended_early"
    MAX_HOLD_ENDED = "max_hold_ended"
    DEACTIVATED_BY_US = "deactivated_by_us"
    SECRET_LOST = "secret_lost"  # noqa: S105 - a reason, not a secret
    PUBLICATION_UNCLEAR = "publication_unclear"
    ORPHAN_PROVEN = "orphan_proven"
    ORPHAN_PRESUMED = "orphan_presumed"
    NOT_CREATED = "not_created"
    REPLACE_ASKED = "replace_asked"
    SPARE_KEY = "spare_key"
    FOUND_IN_VAULT = "found_in_vault"
    SUPERSEDED = "superseded"
    SEEN_INACTIVE = "seen_inactive"
    ROLLBACK = "rollback"
    ROTATION_COMPLETE = "rotation_complete"
    NEW_KEY_GONE = "new_key_gone"
    ROLLBACK_TARGET_GONE = "rollback_target_gone"
    LEFT_UNPUBLISHED = "left_unpublished"
    USER_GONE = "user_gone"
    KEY_GONE = "key_gone"
    # refusals
    STEP_FAILED = "step_failed"
    UNMANAGED = "unmanaged"
    TWO_KEYS_UNMANAGED = "two_keys_unmanaged"
    STRAY_KEY = "stray_key"
    STILL_USED = "still_used"
    LAST_USE_UNKNOWN = "last_use_unknown"
    USED_IN_QUARANTINE = "used_in_quarantine"
    REACTIVATED = "reactivated"
    HELD_KEY_DEAD = "held_key_dead"
    HELD_KEY_NOT_HONOURED = "held_key_not_honoured"
    PROOF_UNAVAILABLE = "proof_unavailable"
    NO_FREE_SLOT = "no_free_slot"
    MORE_THAN_TWO_KEYS = "more_than_two_keys"
    SAME_SECOND_KEYS = "same_second_keys"
    KEY_STATUS_UNKNOWN = "key_status_unknown"
    USER_RECREATED = "user_recreated"
    USER_RENAMED = "user_renamed"
    FOREIGN_KEY_IN_VAULT = "foreign_key_in_vault"
    PATH_COLLISION = "path_collision"
    PATH_UNCERTAIN = "path_uncertain"
    BAD_PATH = "bad_path"
    VAULT_MOVED = "vault_moved"
    VAULT_DELETED = "vault_deleted"
    VAULT_DESTROYED = "vault_destroyed"
    VAULT_WITHOUT_PAIR = "vault_without_pair"
    VAULT_UNREADABLE = "vault_unreadable"
    OWN_IDENTITY = "own_identity"
    LEFT_POLICY = "left_policy"
    POLICY_UNKNOWN = "policy_unknown"
    REPLACE_HELD_KEY = "replace_held_key"
    ROLLBACK_IMPOSSIBLE = "rollback_impossible"
    BRAKED = "braked"
    FROZEN = "frozen"
    OBSERVE_MODE = "observe_mode"
    RATE_LIMITED = "rate_limited"
    MARK_OF_ANOTHER_INSTANCE = "mark_of_another_instance"
    MARK_NOT_WRITABLE = "mark_not_writable"
    JOURNAL_RESTORED = "journal_restored"

    @property
    def sentence(self) -> str:
        return _SENTENCES[self]

    @property
    def severity(self) -> Severity | None:
        """How loud a refusal for this reason is; None: not a refusal by itself."""
        return _SEVERITIES.get(self)


_SENTENCES: dict[Reason, str] = {
    Reason.NOT_DUE: "the held key is young enough",
    Reason.IN_OVERLAP: "consumers have time to move to the new key",
    Reason.IN_QUARANTINE: "the old key is inactive and can still be brought back",
    Reason.SETTLING: "IAM may not show the last change yet",
    Reason.OUTSIDE_WINDOW: "a rotation is due and waits for the next window",
    Reason.RESTORED_BY_ROLLBACK: "the held key was restored by a rollback and is not due again until somebody asks",
    Reason.NO_KEYS: "the user has no access key and the policy does not create a first one",
    Reason.AWAITING_CLOUDTRAIL: "a key appeared while ours was being created; CloudTrail is asked who made it",
    Reason.ORPHAN_WATCHED: "a key that is probably our orphan is watched for use before it is removed",
    Reason.DUE: "the held key has reached the age at which it is rotated",
    Reason.ASKED: "a person asked for it",
    Reason.EMERGENCY: "a person asked for an emergency rotation",
    Reason.ADOPT: "Vault holds nothing for this user yet",
    Reason.FIRST_KEY: "the user has no access key and the policy wants one",
    Reason.REPAIR: "the held key is dead and the policy or a person wants it replaced",
    Reason.ROTATION_OPEN: "the rotation is open and its key not yet created",
    Reason.PUBLISHED_BUT_UNRECORDED: "Vault already serves the new key; it is proven and recorded",
    Reason.PROOF_NEEDED: "the next step needs the pair that Vault serves to be proven now",
    Reason.VERSION_CHANGED: "Vault serves a version that was never proven",
    Reason.OVERLAP_ENDED: "the overlap is over and the old key is silent",
    Reason.QUARANTINE_ENDED: "the quarantine is over and the old key was not used again",
    Reason.ENDED_EARLY: "an emergency ends the other key's time early",
    Reason.MAX_HOLD_ENDED: "the old key is still used, and the policy holds it no longer",
    Reason.DEACTIVATED_BY_US: "our own deactivation hit the key that Vault holds now",
    Reason.SECRET_LOST: "the key was created, its secret never reached Vault, so nobody can use it",
    Reason.PUBLICATION_UNCLEAR: "the key may have been published, so it retires as slowly as one that was",
    Reason.ORPHAN_PROVEN: "CloudTrail shows that our own lost request made this key",
    Reason.ORPHAN_PRESUMED: "the key appeared exactly while our lost request was under way and was never used",
    Reason.NOT_CREATED: "no key appeared after a CreateAccessKey whose answer was lost",
    Reason.REPLACE_ASKED: "a person named this key to be removed first",
    Reason.SPARE_KEY: "the policy removes the one unused key before adoption",
    Reason.FOUND_IN_VAULT: "Vault's own record shows that the held key replaced this one",
    Reason.SUPERSEDED: "we made this key and Vault holds another one now",
    Reason.SEEN_INACTIVE: "somebody else deactivated the old key; its quarantine counts from this look",
    Reason.ROLLBACK: "a person asked to go back to the old key",
    Reason.ROTATION_COMPLETE: "the old key is gone",
    Reason.NEW_KEY_GONE: "the new key was removed before it was published",
    Reason.ROLLBACK_TARGET_GONE: "the key to go back to no longer exists",
    Reason.LEFT_UNPUBLISHED: "the user left its policy and the new key was never published",
    Reason.USER_GONE: "the user no longer exists",
    Reason.KEY_GONE: "somebody else deleted the key",
    Reason.STEP_FAILED: "the last step failed; it is tried again",
    Reason.UNMANAGED: "Vault holds nothing for this user and the policy adopts only when asked",
    Reason.TWO_KEYS_UNMANAGED: "Vault holds nothing for this user and both key slots are in use",
    Reason.STRAY_KEY: "a key exists that neither Vault nor the journal explains",
    Reason.STILL_USED: "the old key is still used",
    Reason.LAST_USE_UNKNOWN: "the old key's last use could not be read",
    Reason.USED_IN_QUARANTINE: "the old key was used again after its deactivation",
    Reason.REACTIVATED: "somebody reactivated a key that was in quarantine",
    Reason.HELD_KEY_DEAD: "the key that Vault serves does not work: consumers are broken now",
    Reason.HELD_KEY_NOT_HONOURED: "AWS does not honour the key that Vault serves, although IAM lists it as Active",
    Reason.PROOF_UNAVAILABLE: "the pair that Vault serves could not be proven",
    Reason.NO_FREE_SLOT: "both key slots are in use",
    Reason.MORE_THAN_TWO_KEYS: "the user has more keys than IAM's quota allows",
    Reason.SAME_SECOND_KEYS: "two keys were created in the same second, so their order cannot be told",
    Reason.KEY_STATUS_UNKNOWN: "a key has a status that is neither Active nor Inactive",
    Reason.USER_RECREATED: "the user was deleted and created again under the same name",
    Reason.USER_RENAMED: "the user has another name than in the journal",
    Reason.FOREIGN_KEY_IN_VAULT: "Vault holds a key that belongs to somebody else",
    Reason.PATH_COLLISION: "two users share one path in Vault",
    Reason.PATH_UNCERTAIN: "users of another account could have the same path in Vault, and could not be listed",
    Reason.BAD_PATH: "the user's name or tags make no valid path in Vault",
    Reason.VAULT_MOVED: "the place of the secret in the configuration is not where it was published",
    Reason.VAULT_DELETED: "the secret was deleted in Vault",
    Reason.VAULT_DESTROYED: "the secret's current version is destroyed in Vault",
    Reason.VAULT_WITHOUT_PAIR: "the secret in Vault has not both fields of a pair",
    Reason.VAULT_UNREADABLE: "Vault could not be read",
    Reason.OWN_IDENTITY: "it is the identity rekeyd itself runs as",
    Reason.LEFT_POLICY: "no policy matches this user any more, and a rotation of it is unfinished",
    Reason.POLICY_UNKNOWN: "which policy applies cannot be told",
    Reason.REPLACE_HELD_KEY: "the key named to be replaced is the one that Vault serves",
    Reason.ROLLBACK_IMPOSSIBLE: "there is no older key whose secret Vault still keeps",
    Reason.BRAKED: "rotations failed in a row, so no new one is opened",
    Reason.FROZEN: "a freeze is in force",
    Reason.OBSERVE_MODE: "rekeyd only observes",
    Reason.RATE_LIMITED: "the hourly limit of rotations is reached",
    Reason.MARK_OF_ANOTHER_INSTANCE: "another deployment uses the same instance name in Vault",
    Reason.MARK_NOT_WRITABLE: "the journal's high-water mark cannot be kept in Vault",
    Reason.JOURNAL_RESTORED: "the journal was lost or restored from an old copy: its clocks and requests count no more",
}

_SEVERITIES: dict[Reason, Severity] = {
    Reason.STEP_FAILED: Severity.MEDIUM,
    Reason.UNMANAGED: Severity.LOW,
    Reason.TWO_KEYS_UNMANAGED: Severity.MEDIUM,
    Reason.STRAY_KEY: Severity.MEDIUM,
    Reason.STILL_USED: Severity.MEDIUM,
    Reason.LAST_USE_UNKNOWN: Severity.MEDIUM,
    Reason.USED_IN_QUARANTINE: Severity.HIGH,
    Reason.REACTIVATED: Severity.HIGH,
    Reason.HELD_KEY_DEAD: Severity.CRITICAL,
    Reason.HELD_KEY_NOT_HONOURED: Severity.CRITICAL,
    Reason.PROOF_UNAVAILABLE: Severity.HIGH,
    Reason.NO_FREE_SLOT: Severity.HIGH,
    Reason.MORE_THAN_TWO_KEYS: Severity.HIGH,
    Reason.SAME_SECOND_KEYS: Severity.MEDIUM,
    Reason.KEY_STATUS_UNKNOWN: Severity.HIGH,
    Reason.USER_RECREATED: Severity.HIGH,
    Reason.USER_RENAMED: Severity.HIGH,
    Reason.FOREIGN_KEY_IN_VAULT: Severity.HIGH,
    Reason.PATH_COLLISION: Severity.HIGH,
    Reason.PATH_UNCERTAIN: Severity.MEDIUM,
    Reason.BAD_PATH: Severity.HIGH,
    Reason.VAULT_MOVED: Severity.HIGH,
    Reason.VAULT_DELETED: Severity.HIGH,
    Reason.VAULT_DESTROYED: Severity.HIGH,
    Reason.VAULT_WITHOUT_PAIR: Severity.HIGH,
    Reason.VAULT_UNREADABLE: Severity.HIGH,
    Reason.OWN_IDENTITY: Severity.MEDIUM,
    Reason.LEFT_POLICY: Severity.MEDIUM,
    Reason.POLICY_UNKNOWN: Severity.HIGH,
    Reason.REPLACE_HELD_KEY: Severity.LOW,
    Reason.ROLLBACK_IMPOSSIBLE: Severity.LOW,
    Reason.BRAKED: Severity.LOW,
    Reason.FROZEN: Severity.LOW,
    Reason.OBSERVE_MODE: Severity.LOW,
    Reason.RATE_LIMITED: Severity.LOW,
    Reason.MARK_OF_ANOTHER_INSTANCE: Severity.HIGH,
    Reason.MARK_NOT_WRITABLE: Severity.HIGH,
    Reason.JOURNAL_RESTORED: Severity.HIGH,
}
