"""What a finding says: its sentence, its severity, its CIS clauses, and what a person does about it.

A remedy names the page and the command; Vault and rekeyd itself have no page. `{account_id}`, `{principal}` and
`{access_key_id}` are filled in; only commands that exist are named. Console pages are written as a path through the
console, since their addresses differ between partitions.

The clauses are those of the CIS Amazon Web Services Foundations Benchmark, as Prowler lists them in
prowler/compliance/aws/cis_*_aws.json. v1.4 to v4.0 share their numbers.
"""

from enum import StrEnum

from rekeyd.core.reasons import Reason, Severity
from rekeyd.core.rights import PasswordItem


class FindingReason(StrEnum):
    """What was found about an account or the fleet. Principals are refused for a `Reason`; no spelling is in both."""

    ROOT_ACCESS_KEY = "root_access_key"
    ROOT_UNREADABLE = "root_unreadable"
    ROOT_UNWATCHED = "root_unwatched"
    ROOT_USED = "root_used"
    ROOT_TRAIL_UNREADABLE = "root_trail_unreadable"
    ROOT_WITHOUT_MFA = "root_without_mfa"
    REPORT_UNREADABLE = "report_unreadable"
    KEY_OVER_MAX_AGE = "key_over_max_age"
    UNMANAGED_KEY_OVER_MAX_AGE = "unmanaged_key_over_max_age"
    UNLISTED_CREDENTIALS = "unlisted_credentials"
    KEY_UNUSED = "key_unused"
    CONSOLE_USER_WITH_KEYS = "console_user_with_keys"
    TWO_ACTIVE_KEYS = "two_active_keys"
    ACCOUNT_FAILING = "account_failing"
    ACCOUNT_UNREACHABLE = "account_unreachable"
    ACCOUNT_BRAKED = "account_braked"
    FLEET_BRAKED = "fleet_braked"
    VAULT_UNREACHABLE = "vault_unreachable"
    SECRET_ID_INTERCEPTED = "secret_id_intercepted"  # noqa: S105 - a reason
    LEFT_PLACE_NOT_EMPTIED = "left_place_not_emptied"
    CHANNEL_FAILING = "channel_failing"
    EVENTS_UNREADABLE = "events_unreadable"
    KEY_EXPOSED = "key_exposed"
    USER_COMPROMISED = "user_compromised"
    CREDENTIALS_EXPOSED = "credentials_exposed"
    REVOCATION_LEFT = "revocation_left"
    ADMINISTRATOR_WITH_KEYS = "administrator_with_keys"
    WEAK_PASSWORD_POLICY = "weak_password_policy"  # noqa: S105 - a reason
    POSTURE_UNREADABLE = "posture_unreadable"
    WAIT_OVERDUE = "wait_overdue"

    @property
    def sentence(self) -> str:
        return _SENTENCES[self]

    @property
    def severity(self) -> Severity:
        return _SEVERITIES[self]

    @property
    def cis(self) -> tuple[str, ...]:
        """Such as `CIS v5.0 1.3`, one for each version that has a clause."""
        return _CIS.get(self, ())

    @property
    def remedy(self) -> str:
        """With placeholders."""
        return _REMEDIES[self]


def remedy_of(reason: Reason) -> str:
    """For a principal that was refused; with placeholders."""
    return _REFUSAL_REMEDIES.get(reason, _EXPLAIN)


_SENTENCES = {
    FindingReason.ROOT_ACCESS_KEY: "the account's root user has an access key",
    FindingReason.ROOT_UNREADABLE: "whether the account's root user has access keys cannot be told",
    FindingReason.ROOT_UNWATCHED: "nobody watches the account's root user",
    FindingReason.ROOT_USED: "the account's root user was used",
    FindingReason.ROOT_TRAIL_UNREADABLE: "use of the account's root user is seen hours late, by the report alone",
    FindingReason.ROOT_WITHOUT_MFA: "the account's root user has a password and no MFA",
    FindingReason.REPORT_UNREADABLE: "the account's credential report cannot be read",
    FindingReason.KEY_OVER_MAX_AGE: "a managed user has an active access key over its policy's age limit",
    FindingReason.UNMANAGED_KEY_OVER_MAX_AGE: "a user in no policy has an active access key over the age limit",
    FindingReason.UNLISTED_CREDENTIALS: "a user in no policy has more credentials than the credential report lists",
    FindingReason.KEY_UNUSED: "an active access key is unused",
    FindingReason.CONSOLE_USER_WITH_KEYS: "a user with a console password has an active access key",
    FindingReason.TWO_ACTIVE_KEYS: "a user has more than one active access key",
    FindingReason.ACCOUNT_FAILING: "passes over the account fail",
    FindingReason.ACCOUNT_UNREACHABLE: "the account cannot be reached",
    FindingReason.ACCOUNT_BRAKED: "rotations failed in a row, so none is opened in the account",
    FindingReason.FLEET_BRAKED: "rotations failed in several accounts, so none is opened anywhere",
    FindingReason.VAULT_UNREACHABLE: "Vault cannot be used",
    FindingReason.SECRET_ID_INTERCEPTED: "somebody else seems to have opened rekeyd's secret_id on its way",
    FindingReason.LEFT_PLACE_NOT_EMPTIED: "a place in Vault that a pair was moved away from still holds one",
    FindingReason.CHANNEL_FAILING: "a channel for alarms takes no messages",
    FindingReason.EVENTS_UNREADABLE: "the event queue cannot be read or emptied, so changes wait for the next scan",
    FindingReason.KEY_EXPOSED: "an access key is in wrong hands",
    FindingReason.USER_COMPROMISED: "AWS says that an access key of a user is in wrong hands",
    FindingReason.CREDENTIALS_EXPOSED: "AWS says that credentials of the account are in wrong hands",
    FindingReason.REVOCATION_LEFT: "a policy denies sessions of a user that cannot live any more",
    FindingReason.ADMINISTRATOR_WITH_KEYS: "a user with administrator rights has an active access key",
    FindingReason.WEAK_PASSWORD_POLICY: "the account's password policy is weaker than the benchmarks ask",
    FindingReason.POSTURE_UNREADABLE: "some of the account's settings cannot be read",
    FindingReason.WAIT_OVERDUE: "a user was to be looked at again, and was not",
}

_SEVERITIES = {
    FindingReason.ROOT_ACCESS_KEY: Severity.CRITICAL,
    FindingReason.ROOT_UNREADABLE: Severity.CRITICAL,
    # Not watching is mostly somebody's wish, and must be seen all the same.
    FindingReason.ROOT_UNWATCHED: Severity.MEDIUM,
    FindingReason.ROOT_USED: Severity.HIGH,
    # The credential report shows it all the same: listed, and nobody is woken in each of a hundred accounts.
    FindingReason.ROOT_TRAIL_UNREADABLE: Severity.LOW,
    FindingReason.ROOT_WITHOUT_MFA: Severity.HIGH,
    # Root access keys can still be told, from the account summary.
    FindingReason.REPORT_UNREADABLE: Severity.HIGH,
    FindingReason.KEY_OVER_MAX_AGE: Severity.HIGH,
    FindingReason.UNMANAGED_KEY_OVER_MAX_AGE: Severity.MEDIUM,
    # Nobody knows how old they are, nor whether anybody uses them.
    FindingReason.UNLISTED_CREDENTIALS: Severity.MEDIUM,
    FindingReason.KEY_UNUSED: Severity.MEDIUM,
    FindingReason.CONSOLE_USER_WITH_KEYS: Severity.LOW,
    FindingReason.TWO_ACTIVE_KEYS: Severity.LOW,
    FindingReason.ACCOUNT_FAILING: Severity.HIGH,
    FindingReason.ACCOUNT_UNREACHABLE: Severity.HIGH,
    FindingReason.ACCOUNT_BRAKED: Severity.HIGH,
    FindingReason.FLEET_BRAKED: Severity.HIGH,
    FindingReason.VAULT_UNREACHABLE: Severity.HIGH,
    FindingReason.SECRET_ID_INTERCEPTED: Severity.CRITICAL,
    FindingReason.LEFT_PLACE_NOT_EMPTIED: Severity.MEDIUM,
    FindingReason.CHANNEL_FAILING: Severity.HIGH,
    FindingReason.EVENTS_UNREADABLE: Severity.MEDIUM,
    FindingReason.KEY_EXPOSED: Severity.CRITICAL,
    FindingReason.USER_COMPROMISED: Severity.CRITICAL,
    FindingReason.CREDENTIALS_EXPOSED: Severity.CRITICAL,
    FindingReason.REVOCATION_LEFT: Severity.MEDIUM,
    FindingReason.ADMINISTRATOR_WITH_KEYS: Severity.MEDIUM,
    FindingReason.WEAK_PASSWORD_POLICY: Severity.MEDIUM,
    FindingReason.POSTURE_UNREADABLE: Severity.MEDIUM,
    FindingReason.WAIT_OVERDUE: Severity.HIGH,
}

_TO_V4 = ("v1.4", "v1.5", "v2.0", "v3.0", "v4.0")


def _clauses(to_v4: str, v5: str, v6: str, v7: str | None) -> tuple[str, ...]:
    """None: v7.0 dropped the clause."""
    later = (("v5.0", v5), ("v6.0", v6), ("v7.0", v7))
    old = tuple(f"CIS {version} {to_v4}" for version in _TO_V4)
    return old + tuple(f"CIS {version} {number}" for version, number in later if number is not None)


_OLD_KEYS = _clauses("1.14", "1.13", "2.13", "2.12")

PASSWORD_CLAUSES = {
    PasswordItem.LENGTH: _clauses("1.8", "1.7", "2.7", "2.8"),
    PasswordItem.REUSE: _clauses("1.9", "1.8", "2.8", "2.9"),
}
"""Which item of a password policy is which clause."""

_CIS = {
    FindingReason.ROOT_ACCESS_KEY: _clauses("1.4", "1.3", "2.3", "2.4"),
    FindingReason.ROOT_UNREADABLE: _clauses("1.4", "1.3", "2.3", "2.4"),
    FindingReason.ROOT_UNWATCHED: _clauses("1.4", "1.3", "2.3", "2.4"),
    FindingReason.ROOT_USED: _clauses("1.7", "1.6", "2.6", "2.7"),
    FindingReason.ROOT_WITHOUT_MFA: _clauses("1.5", "1.4", "2.4", "2.5"),
    FindingReason.KEY_OVER_MAX_AGE: _OLD_KEYS,
    FindingReason.UNMANAGED_KEY_OVER_MAX_AGE: _OLD_KEYS,
    FindingReason.KEY_UNUSED: _clauses("1.12", "1.11", "2.11", "2.11"),
    FindingReason.CONSOLE_USER_WITH_KEYS: _clauses("1.11", "1.10", "2.10", None),
    FindingReason.TWO_ACTIVE_KEYS: _clauses("1.13", "1.12", "2.12", None),
    FindingReason.WEAK_PASSWORD_POLICY: tuple(clause for item in PASSWORD_CLAUSES.values() for clause in item),
}

_POLICY = "compare the policy of rekeyd's role in account {account_id} (IAM console > Roles) with: rekeyd policy aws"
_EXPLAIN = "run: rekeyd explain {principal} --account {account_id}"
_USER_KEYS = "IAM console > Users > {principal} > Security credentials > Access keys"
_DEACTIVATE = "aws iam update-access-key --status Inactive --user-name {principal} --access-key-id {access_key_id}"
_DELETE = "aws iam delete-access-key --user-name {principal} --access-key-id {access_key_id}"
_REPLACE = "rekeyd rotate-now {principal} --account {account_id} --replace {access_key_id}"
_ROTATE = "rekeyd rotate-now {principal} --account {account_id}"

_REMEDIES = {
    FindingReason.ROOT_ACCESS_KEY: (
        "find who made it and what uses it, then delete it; there is no undo. Sign in as the root user of account "
        "{account_id}: account name > Security credentials > Access keys. For a member account of an organization "
        "with centralized root access: rekeyd root delete-keys --account {account_id}. "
        "https://docs.aws.amazon.com/IAM/latest/UserGuide/id_root-user_manage_delete-key.html"
    ),
    FindingReason.ROOT_UNREADABLE: f"allow iam:GetAccountSummary; {_POLICY}",
    FindingReason.ROOT_UNWATCHED: (
        "take account {account_id} back into aws.accounts or out of aws.organization.exclude_accounts, or look at its "
        "root user by hand: AWS Organizations console > AWS accounts; look at the settings with: rekeyd config show"
    ),
    FindingReason.ROOT_USED: (
        "find out who used it and for what: CloudTrail console > Event history, User name = root, or aws cloudtrail "
        "lookup-events --lookup-attributes AttributeKey=Username,AttributeValue=root. Daily work belongs to roles. "
        "https://docs.aws.amazon.com/IAM/latest/UserGuide/root-user-best-practices.html"
    ),
    FindingReason.ROOT_TRAIL_UNREADABLE: f"allow cloudtrail:LookupEvents; {_POLICY}",
    FindingReason.ROOT_WITHOUT_MFA: (
        "sign in as the root user of account {account_id}: account name > Security credentials > Multi-factor "
        "authentication; in a member account of an organization rather remove the root password. Look at it with: "
        "rekeyd root audit. "
        "https://docs.aws.amazon.com/IAM/latest/UserGuide/enable-mfa-for-root.html"
    ),
    FindingReason.REPORT_UNREADABLE: f"allow iam:GenerateCredentialReport and iam:GetCredentialReport; {_POLICY}",
    FindingReason.KEY_OVER_MAX_AGE: f"{_EXPLAIN}; if nothing stands against it: {_ROTATE}. {_USER_KEYS}",
    FindingReason.UNMANAGED_KEY_OVER_MAX_AGE: (
        f"give the user a policy in rekeyd's configuration, or rotate it by hand: {_USER_KEYS}; or: {_DEACTIVATE}"
    ),
    FindingReason.UNLISTED_CREDENTIALS: (
        "look at all of its keys and signing certificates, and delete what is not needed: aws iam list-access-keys "
        f"--user-name {{principal}}; {_USER_KEYS}"
    ),
    FindingReason.KEY_UNUSED: (
        f"ask the owner, deactivate the key, wait, and delete it: {_USER_KEYS}; or: {_DEACTIVATE}"
    ),
    FindingReason.CONSOLE_USER_WITH_KEYS: (
        f"a person uses roles and no access key, a program has no password; remove one of the two: {_USER_KEYS}; the "
        "password: aws iam delete-login-profile --user-name {principal}"
    ),
    FindingReason.TWO_ACTIVE_KEYS: (
        "during the overlap of a rotation this is right and ends by itself; otherwise deactivate the one that is not "
        f"used: {_USER_KEYS}; or: {_DEACTIVATE}"
    ),
    FindingReason.ACCOUNT_FAILING: "look at the log's pass.failed and principal.failed lines; run: rekeyd status",
    FindingReason.ACCOUNT_UNREACHABLE: (
        "check the role and its trust policy in account {account_id} (IAM console > Roles), its external id, and the "
        "network; compare with: "
        "rekeyd policy aws"
    ),
    FindingReason.ACCOUNT_BRAKED: (
        "find out why rotations fail (rekeyd history), then: rekeyd brake show, rekeyd brake release"
    ),
    FindingReason.FLEET_BRAKED: "find out why rotations fail (rekeyd history), then: rekeyd brake release",
    FindingReason.VAULT_UNREACHABLE: (
        "check that Vault is up and unsealed (vault status), and that rekeyd's token or role is good: rekeyd doctor"
    ),
    FindingReason.SECRET_ID_INTERCEPTED: (
        "destroy the secret_id (vault write auth/approle/role/ROLE/secret-id-accessor/destroy), look for the unwrap in "
        "Vault's audit log, and deliver a new wrapping token; "
        "https://developer.hashicorp.com/vault/docs/concepts/response-wrapping"
    ),
    FindingReason.LEFT_PLACE_NOT_EMPTIED: (
        "point whoever still reads there to the new place, then remove the pair there with all its versions (vault kv "
        "metadata delete, at the path in the message). Where rekeyd cannot look, as at another address, look yourself; "
        "if that is the same Vault under another name, remove nothing. Then: rekeyd move {principal} --account "
        "{account_id} --emptied"
    ),
    FindingReason.USER_COMPROMISED: (
        "replace the key at once: rekeyd rotate-now {principal} --account {account_id} --emergency, and with "
        "--revoke-sessions where sessions may have been made with it; look up what it was used for (CloudTrail "
        "console > Event history), answer AWS's case (AWS Health console > Your account health), then detach the "
        "quarantine policy"
    ),
    FindingReason.CREDENTIALS_EXPOSED: (
        "find out whose they are: AWS Health console > Your account health > Event log, service RISK. A root user's "
        "key: rekeyd root delete-keys --account {account_id}; then look up in CloudTrail what it was used for, and "
        "answer AWS's case"
    ),
    FindingReason.REVOCATION_LEFT: (
        "remove it: rekeyd alarms sessions {principal} --account {account_id} --remove, with the operator's role. "
        "IAM console > Users > {principal} > Permissions"
    ),
    FindingReason.ADMINISTRATOR_WITH_KEYS: (
        f"give the person or program a role instead, or less rights, and delete the keys: {_USER_KEYS}; or: {_DELETE}"
    ),
    FindingReason.WEAK_PASSWORD_POLICY: (
        "IAM console > Account settings > Password policy; at least 14 characters and 24 remembered passwords. Or, "
        "with all your other settings, which it would reset: aws iam update-account-password-policy "
        "--minimum-password-length 14 --password-reuse-prevention 24"
    ),
    FindingReason.POSTURE_UNREADABLE: (
        "allow iam:GetAccountPasswordPolicy and iam:GetAccountAuthorizationDetails, and with scan.health also "
        f"health:DescribeEvents and health:DescribeAffectedEntities; {_POLICY}"
    ),
    FindingReason.KEY_EXPOSED: (
        "replace it at once: rekeyd rotate-now {principal} --account {account_id} --emergency, and with "
        "--revoke-sessions where sessions may have been made with it; then look up what it was used for: CloudTrail "
        "console > Event history"
    ),
    FindingReason.WAIT_OVERDUE: f"look at the log's pass.failed and principal.failed lines; {_EXPLAIN}",
    FindingReason.EVENTS_UNREADABLE: (
        "check events.queue_url (Amazon SQS console > Queues), and that rekeyd's own role may read it and delete from "
        "it, and use its KMS key if it "
        "has one; compare with: rekeyd policy aws"
    ),
    FindingReason.CHANNEL_FAILING: (
        "what it did not take is kept and sent when it works again; check alarms.* and owners.* in the "
        "configuration, then: rekeyd alarms test. https://github.com/caronc/apprise/wiki has the forms of URLs"
    ),
}

_VAULT_SECRET = "see its versions: vault kv metadata get, at the path that rekeyd explain {principal} shows"  # noqa: S105
_NAMES = f"{_EXPLAIN}; the journal knows the user from before (rekeyd history)"

_REFUSAL_REMEDIES = {
    Reason.STEP_FAILED: f"it is tried again by itself; {_EXPLAIN}",
    Reason.UNMANAGED: f"to take it over: {_ROTATE}; or set adopt in its policy",
    Reason.TWO_KEYS_UNMANAGED: f"free one of the two slots by hand: {_USER_KEYS}; or: {_REPLACE}",
    Reason.STRAY_KEY: f"find out who made {{access_key_id}}; if it is not needed: {_REPLACE}. {_USER_KEYS}",
    Reason.STILL_USED: f"move the consumer named in the message to the pair in Vault; {_EXPLAIN}",
    Reason.LAST_USE_UNKNOWN: f"allow iam:GetAccessKeyLastUsed; {_POLICY}",
    Reason.USED_IN_QUARANTINE: (
        "a consumer still has the old key: move it to the pair in Vault; if consumers are broken meanwhile: rekeyd "
        "rollback {principal} --account {account_id}"
    ),
    Reason.REACTIVATED: (
        f"ask who reactivated {{access_key_id}} and why; when it is over, deactivate it again: {_USER_KEYS}; or: "
        f"{_DEACTIVATE}"
    ),
    Reason.HELD_KEY_DEAD: (
        "consumers fail now. If nobody deactivated it on purpose (incident response): "
        f"{_ROTATE}; else talk to whoever did. {_USER_KEYS}"
    ),
    Reason.HELD_KEY_NOT_HONOURED: f"consumers may fail now; {_EXPLAIN}; a new pair: {_ROTATE}",
    Reason.PROOF_UNAVAILABLE: f"check that AWS STS can be reached from rekeyd; {_EXPLAIN}",
    Reason.NO_FREE_SLOT: f"{_EXPLAIN}; if the other key is not needed: {_REPLACE}. {_USER_KEYS}",
    Reason.MORE_THAN_TWO_KEYS: f"delete keys by hand until two are left: {_USER_KEYS}, or {_DELETE}",
    Reason.SAME_SECOND_KEYS: f"say which key may go: {_REPLACE}. {_USER_KEYS}",
    Reason.KEY_STATUS_UNKNOWN: f"look at the key, and delete it if it is dead: {_USER_KEYS}; or: {_DELETE}",
    Reason.USER_RECREATED: _NAMES,
    Reason.USER_RENAMED: _NAMES,
    Reason.FOREIGN_KEY_IN_VAULT: (
        f"put the user's own pair back, or correct vault.path or the policy's match; {_VAULT_SECRET}"
    ),
    Reason.PATH_COLLISION: "make vault.path tell the two users apart; check with: rekeyd config check",
    Reason.PATH_UNCERTAIN: (
        "let rekeyd list the users of every account again (rekeyd status says which fails), "
        "or let the path name the account"
    ),
    Reason.BAD_PATH: "correct vault.path or the user's tags; check with: rekeyd config check",
    Reason.VAULT_MOVED: (
        "rekeyd move {principal} --account {account_id}; or set vault.address, namespace, mount, path and fields back"
    ),
    Reason.VAULT_DELETED: f"undelete the version, or delete the metadata to start anew; {_VAULT_SECRET}",
    Reason.VAULT_DESTROYED: f"delete the metadata to start anew, then: {_ROTATE}; {_VAULT_SECRET}",
    Reason.VAULT_WITHOUT_PAIR: f"put the pair back, or correct vault.fields; {_VAULT_SECRET}",
    Reason.VAULT_UNREADABLE: "compare the policy of rekeyd's token with: rekeyd policy vault",
    Reason.OWN_IDENTITY: "exclude this user from every policy: rekeyd never rotates the key it runs with",
    Reason.LEFT_POLICY: (
        "give the user a policy again and let the rotation end, or finish it by hand; "
        "run: rekeyd explain {principal} --account {account_id}"
    ),
    Reason.POLICY_UNKNOWN: f"allow iam:GetAccountAuthorizationDetails and iam:GetUser; {_POLICY}",
    Reason.BRAKED: "run: rekeyd brake show",
    Reason.FROZEN: "it ends by itself; freezes stand in the configuration, fleet.freezes: rekeyd config show",
    Reason.OBSERVE_MODE: 'set fleet.mode = "enforce" when rekeyd shall act',
    Reason.RATE_LIMITED: "it ends by itself; the limit is fleet.max_rotations_per_hour: rekeyd config show",
    Reason.MARK_OF_ANOTHER_INSTANCE: (
        "give each deployment its own journal.instance; if an older journal was restored over a newer one, "
        "delete the secret at vault.state_path with its metadata (vault kv metadata delete): all clocks then "
        "start again"
    ),
    Reason.JOURNAL_RESTORED: (
        f"ask again for what is still wanted ({_ROTATE}): {{principal}} is looked at as it stands now"
    ),
    Reason.MARK_NOT_WRITABLE: "allow rekeyd to write vault.state_path; compare with: rekeyd policy vault",
}
