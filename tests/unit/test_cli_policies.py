"""The rights that are printed: as much as the configuration needs, and for nobody else."""

import json
from typing import Any

import pytest

from rekeyd.cli.policies_aws import MAX_POLICY_CHARACTERS, hub_policy, work_policy
from rekeyd.cli.policies_vault import vault_policy
from rekeyd.config import Config, parse

BASE = """
[vault]
address = "https://vault.example:8200"
[vault.auth]
token_file = "/run/token"
"""


def _config(more: str, base: str = BASE) -> Config:
    return parse(base + more, {})


def _statements(config: Config, account: str | None = "111122223333") -> dict[str, dict[str, Any]]:
    content = json.loads(work_policy(config, "aws", account).document)
    return {statement["Sid"]: statement for statement in content["Statement"]}


def test_only_users_that_a_policy_matches_may_be_changed() -> None:
    rotate = _statements(_config('[[policies]]\nname = "ci"\nmatch = { users = ["ci-*"], paths = ["/service/"] }'))[
        "Rotate1"
    ]
    assert rotate["Resource"] == [
        "arn:aws:iam::111122223333:user/service/ci-*",
        "arn:aws:iam::111122223333:user/service/*/ci-*",
    ]
    assert sorted(rotate["Action"]) == ["iam:CreateAccessKey", "iam:DeleteAccessKey", "iam:UpdateAccessKey"]


def test_tags_become_conditions() -> None:
    rotate = _statements(_config('[[policies]]\nname = "t"\nmatch = { tags = { key-rotation = "man*" } }'))["Rotate1"]
    assert rotate["Condition"] == {"StringLike": {"aws:ResourceTag/key-rotation": "man*"}}


def test_root_itself_and_what_is_excluded_are_denied() -> None:
    statements = _statements(_config('[[policies]]\nname = "all"\nexclude = { users = ["break-glass-*"] }'))
    assert "arn:aws:iam::*:root" in statements["NeverRootNorItself"]["Resource"]
    assert "arn:aws:iam::111122223333:user/${aws:username}" in statements["NeverRootNorItself"]["Resource"]
    assert "arn:aws:iam::111122223333:user/break-glass-*" in statements["NeverExcluded"]["Resource"]
    assert {statements[sid]["Effect"] for sid in statements if sid.startswith("Never")} == {"Deny"}


def test_an_exclusion_is_not_denied_when_another_policy_may_manage_the_user() -> None:
    config = _config(
        '[[policies]]\nname = "a"\nmatch = { users = ["a-*"] }\nexclude = { users = ["a-x"] }\n'
        '[[policies]]\nname = "b"\nmatch = { users = ["*x"] }'
    )
    assert "NeverExcluded" not in _statements(config)
    assert any('"a"' in note and "not denied" in note for note in work_policy(config, "aws", None).notes)


def test_a_policy_of_another_account_grants_nothing_here() -> None:
    config = _config('[[policies]]\nname = "there"\nmatch = { accounts = ["444455556666"] }')
    assert "Rotate1" not in _statements(config)
    assert "Rotate1" in _statements(config, "444455556666")


def test_signs_that_mean_something_to_iam_are_escaped() -> None:
    rotate = _statements(_config('[[policies]]\nname = "odd"\nmatch = { paths = ["/a$b/"] }'))["Rotate1"]
    assert rotate["Resource"] == ["arn:aws:iam::111122223333:user/a${$}b/*"]


def test_a_class_in_a_glob_becomes_any_character_and_is_told() -> None:
    config = _config('[[policies]]\nname = "cls"\nmatch = { users = ["ci-[0-9]"] }')
    assert "arn:aws:iam::111122223333:user/ci-?" in _statements(config)["Rotate1"]["Resource"]
    assert any("[ ]" in note for note in work_policy(config, "aws", None).notes)


def test_observing_needs_no_right_to_change() -> None:
    config = _config('[[policies]]\nname = "all"\n[fleet]\nmode = "observe"')
    actions = [a for s in json.loads(work_policy(config, "aws", None).document)["Statement"] for a in s["Action"]]
    verbs = {action.split(":")[1] for action in actions}
    assert all(verb.startswith(("Get", "List", "Generate", "Lookup")) for verb in verbs)


def test_cloudtrail_is_asked_for_in_any_case_and_its_purpose_said() -> None:
    assert _statements(_config(""))["Attribute"]["Action"] == ["cloudtrail:LookupEvents"]
    without = _statements(_config('[orphans]\nattribution = "never"'))
    assert "Attribute" not in without
    assert without["SeeRootUse"]["Action"] == ["cloudtrail:LookupEvents"]


def test_the_partition_is_in_every_arn() -> None:
    printed = work_policy(_config('[[policies]]\nname = "all"'), "aws-cn", "111122223333").document
    assert "arn:aws-cn:iam::111122223333:user/*" in printed
    assert "arn:aws:" not in printed


def test_a_policy_that_iam_would_not_take_is_told() -> None:
    users = ", ".join(f'"a-rather-long-name-of-a-user-{n:04}"' for n in range(60))
    printed = work_policy(_config(f'[[policies]]\nname = "many"\nmatch = {{ users = [{users}] }}'), "aws", None)
    assert any(str(MAX_POLICY_CHARACTERS) in note for note in printed.notes)


def test_the_hub_may_enter_the_named_roles_and_tell_the_account_of_a_key_and_nothing_else() -> None:
    config = _config('[[aws.accounts]]\nid = "444455556666"\nrole_arn = "arn:aws:iam::444455556666:role/rekeyd"')
    enter, tell = json.loads(hub_policy(config, "aws").document)["Statement"]
    assert enter["Action"] == ["sts:AssumeRole"]
    assert enter["Resource"] == ["arn:aws:iam::444455556666:role/rekeyd"]
    assert tell["Action"] == ["sts:GetAccessKeyInfo"]
    # And its own credentials, where they do all the work.
    assert _statements(_config(""))["TellAccountOfKey"]["Action"] == ["sts:GetAccessKeyInfo"]


def test_the_hub_of_an_organization_lists_accounts() -> None:
    content = json.loads(hub_policy(_config('[aws.organization]\nrole_name = "rekeyd"'), "aws").document)
    by_sid = {statement["Sid"]: statement for statement in content["Statement"]}
    assert by_sid["ListAccounts"]["Action"] == ["organizations:ListAccounts"]
    assert by_sid["EnterAccounts"]["Resource"] == ["arn:aws:iam::*:role/rekeyd"]


def _vault(more: str, vault: str = "") -> str:
    base = BASE.replace("[vault.auth]", f"{vault}\n[vault.auth]")
    return vault_policy(_config('[[policies]]\nname = "all"\n' + more, base)).document


OWN_TASKS = """
[alarms]
sns_topic_arn = "arn:aws:sns:eu-west-1:111122223333:alarms"
[events]
queue_url = "https://sqs.eu-west-1.amazonaws.com/111122223333/rekeyd-events"
"""


def _asks_for_rights_of(more: str, account: str | None = "111122223333") -> list[str]:
    statement = _statements(_config('[[policies]]\nname = "all"\n' + more), account)["AskForOwnRights"]
    assert statement["Action"] == ["iam:SimulatePrincipalPolicy"]
    found: list[str] = statement["Resource"]
    return found


def test_only_its_own_rights_may_be_asked_for() -> None:
    role = "arn:aws:iam::444455556666:role/ops/rekeyd"
    entered = f'[[aws.accounts]]\nid = "444455556666"\nrole_arn = "{role}"\n'
    own = [f"arn:aws:iam::111122223333:user/{name}" for name in ("${aws:username}", "*/${aws:username}")]
    assert _asks_for_rights_of("") == own
    assert _asks_for_rights_of(entered, "444455556666") == [role]
    both = entered + '[[aws.accounts]]\nid = "111122223333"\n'
    assert _asks_for_rights_of(both) == own
    assert _asks_for_rights_of(both, None)[0] == role
    assert len(_asks_for_rights_of(both, None)) == 3
    organization = '[aws.organization]\nrole_name = "rekeyd"\n'
    assert _asks_for_rights_of(organization) == ["arn:aws:iam::111122223333:role/rekeyd"]


def test_who_changes_nothing_asks_for_no_rights() -> None:
    assert "AskForOwnRights" not in _statements(_config(""))
    assert "AskForOwnRights" not in _statements(_config('[[policies]]\nname = "all"\n[fleet]\nmode = "observe"'))


def test_queue_and_topic_are_for_its_own_credentials() -> None:
    statements = _statements(_config(OWN_TASKS))
    assert statements["SendAlarms"]["Action"] == ["sns:Publish"]
    assert statements["SendAlarms"]["Resource"] == ["arn:aws:sns:eu-west-1:111122223333:alarms"]
    assert statements["ReadEvents"]["Resource"] == ["arn:aws:sqs:eu-west-1:111122223333:rekeyd-events"]
    assert statements["ReadEvents"]["Action"] == ["sqs:ReceiveMessage", "sqs:DeleteMessage", "sqs:GetQueueAttributes"]
    assert not {"SendAlarms", "ReadEvents"} & set(_statements(_config("")))


def test_aws_health_may_be_asked_only_where_it_is() -> None:
    statement = _statements(_config("[scan]\nhealth = true"))["SeeExposedKeys"]
    assert statement["Action"] == ["health:DescribeEvents", "health:DescribeAffectedEntities"]
    assert "SeeExposedKeys" not in _statements(_config(""))


def test_a_role_that_is_entered_neither_reads_the_queue_nor_sends_alarms() -> None:
    role = '[[aws.accounts]]\nid = "444455556666"\nrole_arn = "arn:aws:iam::444455556666:role/rekeyd"\n'
    own = '[[aws.accounts]]\nid = "111122223333"\n'
    config = _config(OWN_TASKS + role + own)
    assert not {"SendAlarms", "ReadEvents"} & set(_statements(config, "444455556666"))
    assert {"SendAlarms", "ReadEvents"} <= set(_statements(config, "111122223333"))
    hub = {each["Sid"] for each in json.loads(hub_policy(config, "aws").document)["Statement"]}
    assert hub == {"EnterAccounts", "TellAccountOfKey", "SendAlarms", "ReadEvents"}
    organization = _config(OWN_TASKS + '[aws.organization]\nrole_name = "rekeyd"\n')
    assert not {"SendAlarms", "ReadEvents"} & set(_statements(organization, "111122223333"))


def test_vault_paths_name_known_accounts_and_never_users() -> None:
    printed = _vault('[[aws.accounts]]\nid = "111122223333"')
    assert 'path "secret/data/aws/111122223333/+" { capabilities = ["create", "read", "update"] }' in printed
    assert 'path "secret/metadata/aws/111122223333/+"' in printed
    assert 'path "secret/destroy/aws/111122223333/+" { capabilities = ["update"] }' in printed


def test_vault_paths_of_unknown_accounts_are_one_segment() -> None:
    assert 'path "secret/data/aws/+/+"' in _vault("")


def test_a_name_with_text_around_it_is_one_segment_too() -> None:
    assert 'path "kv/data/iam/+/keys"' in _vault("", 'mount = "kv"\npath = "iam/x-{user_name}/keys"')


def test_the_mark_has_its_own_path() -> None:
    assert 'path "secret/data/rekeyd/blue" { capabilities = ["create", "read", "update"] }' in _vault(
        '[journal]\ninstance = "blue"'
    )


def test_observing_reads_vault_only() -> None:
    printed = _vault('[fleet]\nmode = "observe"')
    own = [line for line in printed.splitlines() if line.startswith('path "secret/')]
    assert own
    assert all('["read"]' in line for line in own)


def test_a_user_named_plus_grants_nothing_more() -> None:
    config = _config('[[policies]]\nname = "odd"\nmatch = { users = ["+"] }')
    assert vault_policy(config).document == _vault("")


@pytest.mark.parametrize("capability", ["list", "delete", "sudo"])
def test_vault_grants_no_more_than_the_work_needs(capability: str) -> None:
    assert f'"{capability}"' not in _vault("")


WIDE = {
    "IAM's path first": ("{user_path}/{user_name}", "all secrets of the mount secret"),
    "a name first": ("{partition}/{user_name}", "all secrets at +/+ of the mount secret"),
    "text and a name first": ("x-{partition}/{user_name}", "all secrets at +/+ of the mount secret"),
}


@pytest.mark.parametrize("case", WIDE.items(), ids=lambda case: case[0])
def test_a_path_that_begins_with_a_placeholder_is_warned_of(case: tuple[str, tuple[str, str]]) -> None:
    template, reach = case[1]
    base = BASE.replace("[vault.auth]", f'path = "{template}"\n[vault.auth]')
    printed = vault_policy(_config('[[policies]]\nname = "all"', base))
    assert printed.document.startswith("# WARNING: a path begins with a placeholder")
    assert printed.notes[0].startswith("WARNING")
    assert reach in printed.notes[0]
    assert 'path "secret/destroy/rekeyd/default" { capabilities = ["deny"] }' in printed.document
    assert 'path "secret/metadata/rekeyd/default" { capabilities = ["read"] }' in printed.document


def test_a_path_that_begins_with_a_word_is_not_warned_of() -> None:
    assert "#" not in _vault("")
    assert '"deny"' not in _vault("")


def test_the_rights_in_a_child_namespace_are_spelled_from_the_one_of_the_login() -> None:
    printed = _vault('namespace = "ops/team"', 'namespace = "ops"')
    assert 'path "team/secret/data/aws/+/+" { capabilities = ["create", "read", "update"] }' in printed
    assert 'path "team/secret/destroy/aws/+/+"' in printed
    assert 'path "team/sys/capabilities-self" { capabilities = ["update"] }' in printed
    assert 'path "secret/data/rekeyd/default"' in printed, "the mark lies where the login is"
    from_root = _vault('namespace = "team"')
    assert 'path "team/secret/data/aws/+/+"' in from_root


def test_another_namespace_is_granted_nothing_in_that_of_the_login() -> None:
    base = BASE.replace("[vault.auth]", 'namespace = "ops"\n[vault.auth]')
    for other in ("opsy", "dev", "op"):
        printed = vault_policy(_config(f'[[policies]]\nname = "all"\nnamespace = "{other}"', base))
        lines = [line for line in printed.document.splitlines() if "aws/" in line]
        assert lines
        assert all(line.startswith("# path ") for line in lines)
        assert any(f'namespace "{other}" is not below' in note for note in printed.notes)
