"""The configuration: every mistake found at once, each with its place, its value and what to do."""

import json
from datetime import date, timedelta
from pathlib import Path

import pytest

from rekeyd import config
from rekeyd.adapters.vault_settings import (
    AppRoleAuth,
    AwsAuth,
    CertAuth,
    JwtAuth,
    KubernetesAuth,
    TokenFileAuth,
    VaultAuth,
)
from rekeyd.app import fleet_settings, vault_settings
from rekeyd.config import ConfigProblemsError, Problem
from rekeyd.config.models import Config, FleetMode
from rekeyd.core.findings import Limits
from rekeyd.core.policy import Adopt, Attribution, lead_time, minimum_max_age, step_time
from rekeyd.errors import ConfigError

VAULT = """
[vault]
address = "https://vault.example:8200"
[vault.auth]
token_file = "/etc/rekeyd/vault-token"
"""
POLICY = '[[policies]]\nname = "ci"\n'
TOKEN = "hvs.CAESIP7xQm2Zt9vB4nRw6kLd8sDf"


def read(text: str, **environ: str) -> Config:
    return config.parse(VAULT + text, environ)


def problems(text: str, **environ: str) -> list[Problem]:
    with pytest.raises(ConfigProblemsError, match="mistake") as raised:
        config.parse(text, environ, source="rekeyd.toml")
    return list(raised.value.problems)


def only(text: str, **environ: str) -> Problem:
    (problem,) = problems(VAULT + text, **environ)
    return problem


def test_how_long_a_use_of_a_root_user_is_an_alarm_can_be_said() -> None:
    assert fleet_settings(read('[root]\nused_within = "30d"')).limits.root_used_within == timedelta(days=30)


def test_the_smallest_configuration_has_the_defaults_of_the_design() -> None:
    got = read(POLICY)
    (policy,) = got.policies
    assert (got.aws.region, got.aws.settle) == ("us-east-1", timedelta(seconds=15))
    assert (got.vault.mount, got.vault.path) == ("secret", "aws/{account_id}/{user_name}")
    assert (policy.max_age, policy.overlap, policy.quarantine) == tuple(timedelta(days=d) for d in (90, 7, 7))
    assert (policy.adopt, policy.create, policy.unused_for) == (Adopt.WHEN_ASKED, False, timedelta(days=1))
    assert (got.orphans.attribution, got.orphans.wait) == (Attribution.CLOUDTRAIL, timedelta(days=1))
    assert (got.root.check_every, got.alarms.repeat_every) == (timedelta(minutes=15), timedelta(hours=4))
    assert (got.root.used_within, fleet_settings(got).limits) == (timedelta(days=7), Limits())
    assert (got.fleet.mode, got.fleet.max_parallel, got.fleet.stop_after_failures) == (FleetMode.ENFORCE, 16, 5)
    assert (got.journal.instance, got.http.listen, got.logging.format) == ("default", "127.0.0.1:9744", "json")


# --- one mistake a line ----------------------------------------------------------------------------------------------

WRONG = {
    "an unknown table": ("[fleat]\nx = 1", "fleat", "unknown key", "did you mean fleet?"),
    "an unknown key": ("[fleet]\nmax_paralel = 3", "fleet.max_paralel", "unknown key", "did you mean max_parallel?"),
    "a key of another table": ("[aws]\ncheck_every = '1h'", "aws.check_every", "unknown key", "it belongs into [root]"),
    "an unknown key within a list": (
        POLICY + "windows = [{ cron = '0 2 * * *', duration = '1h', zone = 'UTC' }]",
        "policies[0].windows[0].zone",
        "unknown key",
        "did you mean timezone?",
    ),
    "a number without a unit": ("[scan]\nevery = '5'", "scan.every", "has no unit", "units are"),
    "a number for a duration": ("[scan]\nevery = 5", "scan.every", "must be a duration in quotes", None),
    "no duration": ("[scan]\nevery = 'often'", "scan.every", "is not a duration", "units are"),
    "no time at all": ("[scan]\nevery = '0s'", "scan.every", "longer than zero", None),
    "a duration beyond time": ("[scan]\nevery = '999999999w'", "scan.every", "too long", "units are"),
    "a number as text": ("[fleet]\nmax_parallel = '3'", "fleet.max_parallel", "whole number without quotes", None),
    "zero where one is the least": ("[fleet]\nstop_after_failures = 0", "fleet.stop_after_failures", "1 or more", None),
    "more than the most": ("[fleet]\nmax_parallel = 257", "fleet.max_parallel", "256 or less", None),
    "a flag as text": (POLICY + "create = 'yes'", "policies[0].create", "true or false", None),
    "a choice that there is not": ("[fleet]\nmode = 'watch'", "fleet.mode", 'one of "enforce" or "observe"', None),
    "text for a list": (POLICY + "match = { users = 'ci-*' }", "policies[0].match.users", "must be a list", None),
    "text for a table": (POLICY + "match = 'ci-*'", "policies[0].match", "must be a table", None),
    "a number for text": (POLICY + "match = { users = [7] }", "policies[0].match.users[0]", "text in quotes", None),
    "a policy without a name": ("[[policies]]\nmax_age = '90d'", "policies[0].name", "is missing", None),
    "two policies of one name": (POLICY + POLICY, "policies[1].name", "an earlier policy too", None),
    "a policy name with spaces": ("[[policies]]\nname = 'a b'", "policies[0].name", "is not a name", None),
    "a short account id": ("[[aws.accounts]]\nid = '123'", "aws.accounts[0].id", "twelve digits", None),
    "an account id as a number": ("[[aws.accounts]]\nid = 111122223333", "aws.accounts[0].id", "in quotes", None),
    "an account named twice": (
        "[[aws.accounts]]\nid='111122223333'\nrole_arn='arn:aws:iam::111122223333:role/r'\n" * 2,
        "aws.accounts[1].id",
        "named twice",
        None,
    ),
    "a role of another account": (
        "[[aws.accounts]]\nid='111122223333'\nrole_arn='arn:aws:iam::444455556666:role/r'",
        "aws.accounts[0].role_arn",
        "of account 444455556666, not of 111122223333",
        None,
    ),
    "no role's ARN": (
        "[[aws.accounts]]\nid='111122223333'\nrole_arn='arn:aws:iam::111122223333:user/r'",
        "aws.accounts[0].role_arn",
        "is not the ARN of an IAM role",
        "arn:aws:iam::",
    ),
    "an external id without a role": (
        "[[aws.accounts]]\nid='111122223333'\nexternal_id_file='/x'",
        "aws.accounts[0].external_id_file",
        "no role_arn",
        None,
    ),
    "accounts and an organization": (
        "[[aws.accounts]]\nid='111122223333'\n[aws.organization]\nrole_name='r'",
        "aws.organization",
        "beside [[aws.accounts]]",
        "not both",
    ),
    "an ARN for a role's name": (
        "[aws.organization]\nrole_name='arn:aws:iam::1:role/r'",
        "aws.organization.role_name",
        "no ARN",
        None,
    ),
    "no Region": ("[aws]\nregion = 'Frankfurt'", "aws.region", "not shaped like an AWS Region", "us-east-1"),
    "no Regions": (POLICY + "verify_regions = 'all'", "policies[0].verify_regions", '"auto" or a list', None),
    "a wrong Region among others": (
        POLICY + "verify_regions = ['us-east-1', 'us-east1']",
        "policies[0].verify_regions",
        'holds "us-east1"',
        "us-east-1",
    ),
    "no URL": ("[aws]\nendpoint_url = 'localhost:5000'", "aws.endpoint_url", "is not a URL", None),
    "an open bracket in a glob": (
        POLICY + "match = { users = ['ci-[a'] }",
        "policies[0].match.users[0]",
        "never closed",
        None,
    ),
    "a glob with a slash": (
        POLICY + "exclude = { users = ['a/b'] }",
        "policies[0].exclude.users[0]",
        "cannot match",
        None,
    ),
    "a path without slashes": (
        POLICY + "match = { paths = ['svc'] }",
        "policies[0].match.paths[0]",
        "an IAM path",
        "slash",
    ),
    "a path that is a glob": (
        POLICY + "match = { paths = ['/s*/'] }",
        "policies[0].match.paths[0]",
        "an IAM path",
        "no glob",
    ),
    "an open bracket in a tag": (
        POLICY + "match = { tags = { a = '[' } }",
        "policies[0].match.tags.a",
        "never closed",
        None,
    ),
    "a link with a placeholder that nothing fills": (
        "[alarms]\nlink = 'https://wiki.example/{runbook}'",
        "alarms.link",
        "has the unknown placeholder {runbook}",
        "known: {reason}, {account_id}, {alarm_id}",
    ),
    "a link with a password": (
        "[alarms]\nlink = 'https://a:b@wiki.example/'",
        "alarms.link",
        "holds a user name or a password",
        None,
    ),
    "a link to a place of a placeholder's choice": (
        "[alarms]\nlink = 'https://{reason}.example/'",
        "alarms.link",
        "is not a URL with https://",
        "https://wiki.example/rekeyd/{reason}",
    ),
    "a link that is a script": (
        "[alarms]\nlink = 'javascript:alert(1)'",
        "alarms.link",
        "is not a URL with https://",
        "https://wiki.example/rekeyd/{reason}",
    ),
    "owners by a webhook that is not there": (
        "[owners]\nwebhook = true",
        "owners.webhook",
        "needs alarms.webhook_url_file",
        None,
    ),
    "an empty condition": (POLICY + "match = { users = [] }", "policies[0].match.users", "is empty", "leave it out"),
    "an account that is not ours": (
        "[[aws.accounts]]\nid='111122223333'\n" + POLICY + "match = { accounts = ['444455556666'] }",
        "policies[0].match.accounts[0]",
        "matches nobody",
        None,
    ),
    "no cron": (
        POLICY + "windows = [{ cron = '0 2 * *', duration = '1h' }]",
        "policies[0].windows[0].cron",
        "has 4 fields",
        "Monday to Friday",
    ),
    "no time zone": (
        POLICY + "windows = [{ cron = '0 2 * * *', duration = '1h', timezone = 'Mars/Base' }]",
        "policies[0].windows[0].timezone",
        "is not a time zone",
        "Europe/Berlin",
    ),
    "windows that hardly ever open": (
        POLICY + "windows = [{ cron = '0 0 29 2 *', duration = '1h' }]",
        "policies[0].windows",
        "less than once a year",
        None,
    ),
    "too little time for the probes": (
        POLICY + "verify_timeout = '4s'",
        "policies[0].verify_timeout",
        "= 5s, so no key could ever be proven",
        None,
    ),
    "a wait shorter than the silence asked for": (
        "[orphans]\nwait = '1h'\n" + POLICY,
        "orphans.wait",
        'unused_for = "1d"',
        None,
    ),
    "a quarantine shorter than the silence asked for": (
        "[orphans]\nquarantine = '1h'\n" + POLICY,
        "orphans.quarantine",
        'of the policy "ci"',
        None,
    ),
    "a freeze that ends before it begins": (
        "[fleet]\nfreezes = [{ from = 2027-01-04, to = 2026-12-20, reason = 'x' }]",
        "fleet.freezes[0].from",
        "is after to = 2026-12-20",
        None,
    ),
    "a freeze without a reason": (
        "[fleet]\nfreezes = [{ from = 2026-12-20, to = 2027-01-04 }]",
        "fleet.freezes[0].reason",
        "is missing",
        None,
    ),
    "a freeze with a time of day": (
        "[fleet]\nfreezes = [{ from = 2026-12-20T10:00:00, to = 2027-01-04, reason = 'x' }]",
        "fleet.freezes[0].from",
        "a date without a time",
        None,
    ),
    "a relative path of the journal": (
        "[journal]\nurl = 'sqlite:///j.db'",
        "journal.url",
        "absolute path",
        "four slashes",
    ),
    "another database": ("[journal]\nurl = 'mysql://h/db'", "journal.url", "not a URL of SQLite", None),
    "PostgreSQL": ("[journal]\nurl = 'postgresql://h/db'", "journal.url", "not available in this version", None),
    "a password for SQLite": (
        "[journal]\npassword_file = '/x'",
        "journal.password_file",
        "means nothing to SQLite",
        None,
    ),
    "no instance": ("[journal]\ninstance = ''", "journal.instance", "is not a name", None),
    "no port": ("[http]\nlisten = 'localhost'", "http.listen", "is not host:port", "127.0.0.1:9744"),
    "a port too high": ("[http]\nlisten = '127.0.0.1:99999'", "http.listen", "is not host:port", None),
    "no queue": (
        "[events]\nqueue_url = 'arn:aws:sqs:us-east-1:111122223333:x'",
        "events.queue_url",
        "is not the URL of an SQS queue",
        "https://sqs",
    ),
    "a queue in the clear": (
        "[events]\nqueue_url = 'http://sqs.us-east-1.amazonaws.com/111122223333/x'",
        "events.queue_url",
        "is http",
        "https://",
    ),
    "a Region without a queue": ("[events]\nregion = 'us-east-1'", "events.region", "no queue_url beside it", None),
    "a Region that is not the queue's": (
        "[events]\nqueue_url = 'https://sqs.us-east-1.amazonaws.com/111122223333/x'\nregion = 'eu-west-1'",
        "events.region",
        "is not the Region of queue_url, us-east-1",
        "leave it out",
    ),
    "no topic": ("[alarms]\nsns_topic_arn = 'arn:aws:sns:x'", "alarms.sns_topic_arn", "ARN of an SNS topic", None),
    "an empty path of a file": ("[http]\ntoken_file = ''", "http.token_file", "is not the path of a file", None),
}


@pytest.mark.parametrize("case", WRONG.items(), ids=lambda case: case[0])
def test_a_mistake_is_named_with_its_key_and_its_place(case: tuple[str, tuple[str, str, str, str | None]]) -> None:
    text, key, message, hint = case[1]
    problem = only(text)
    assert problem.key == key
    assert message in problem.message
    assert hint is None or (problem.hint is not None and hint in problem.hint)
    assert problem.source == "rekeyd.toml"
    assert problem.line is not None
    assert problem.line > 5  # never a place within the part that is right


WRONG_VAULT = {
    "a misspelt address": ('adress = "https://v:8200"', "vault.adress", "unknown key"),
    "http to another machine": ('address = "http://v.example:8200"', "vault.address", "readable"),
    "a path in the address": ('address = "https://v:8200/v1"', "vault.address", "has a path"),
    "a query in the address": ('address = "https://v:8200?x=1"', "vault.address", "without ? or #"),
    "half a client certificate": (
        'address = "https://v"\nclient_cert_file = "/c"',
        "vault.client_cert_file",
        "together",
    ),
    "a proxy for plain http": (
        'address = "http://127.0.0.1:8200"\nproxy = "http://p:3128"',
        "vault.proxy",
        "would read every secret",
    ),
    "KV version 1": ('address = "https://v"\nkv_version = 1', "vault.kv_version", "must be KV version 2"),
    "a proxy without a port": ('address = "https://v"\nproxy = "http://p"', "vault.proxy", "not http://host:port"),
    "an unknown placeholder": (
        'address = "https://v"\npath = "aws/{user}"',
        "vault.path",
        "unknown placeholder {user}",
    ),
    "an open brace": ('address = "https://v"\npath = "aws/{user_name"', "vault.path", "not a path template"),
    "a placeholder with a format": ('address = "https://v"\npath = "aws/{user_name!r}"', "vault.path", "plain name"),
    "one path for all users": ('address = "https://v"\npath = "aws/{account_id}"', "vault.path", "no {user_name}"),
    "a path upwards": ('address = "https://v"\npath = "../{user_name}"', "vault.path", ". or .. as a segment"),
    "a path with two slashes": ('address = "https://v"\npath = "aws//{user_name}"', "vault.path", "two in a row"),
    "a path with a wildcard": ('address = "https://v"\npath = "aws/+/{user_name}"', "vault.path", "character"),
    "a slash round the mount": ('address = "https://v"\nmount = "/secret/"', "vault.mount", "slash"),
    "a mark by user": ('address = "https://v"\nstate_path = "rekeyd/{user_name}"', "vault.state_path", "{user_name}"),
    "a field of the pair's name": (
        'address = "https://v"\nfields = { preset = "env", extra = { aws_access_key_id = "x" } }',
        "vault.fields.extra.aws_access_key_id",
        'the pair (preset "env")',
    ),
    "an extra field that is no text": (
        'address = "https://v"\nfields = { extra = { level = 3 } }',
        "vault.fields.extra.level",
        "text in quotes",
    ),
}


@pytest.mark.parametrize("case", WRONG_VAULT.items(), ids=lambda case: case[0])
def test_a_mistake_about_vault_is_named(case: tuple[str, tuple[str, str, str]]) -> None:
    text, key, message = case[1]
    found = problems(f'[vault]\n{text}\n[vault.auth]\ntoken_file = "/t"')
    assert [problem for problem in found if problem.key == key and message in problem.message], found


WRONG_AUTH = {
    "no token file": ("", "vault.auth", 'method "token_file" needs token_file'),
    "approle without its files": ('method = "approle"', "vault.auth", "exactly one of role_id and role_id_file"),
    "approle with two role ids": (
        'method = "approle"\nrole_id = "r"\nrole_id_file = "/r"\nsecret_id_file = "/s"',
        "vault.auth",
        "exactly one of",
    ),
    "a setting of another method": ('token_file = "/t"\nrole = "x"', "vault.auth.role", "means nothing to the method"),
    "jwt without its file": ('method = "jwt"\nrole = "r"', "vault.auth", "needs jwt_file"),
    "cert without a certificate": ('method = "cert"', "vault.auth", "needs vault.client_cert_file"),
    "aws without its role": ('method = "aws"\nheader_value = "v"', "vault.auth", "needs role"),
    "a role for a secret id that is not wrapped": (
        'method = "approle"\nrole_id = "r"\nsecret_id_file = "/s"\nrole = "x"',
        "vault.auth.role",
        "is only for a wrapped secret id",
    ),
    "a wrapped secret id of another method": (
        'method = "jwt"\nrole = "r"\njwt_file = "/j"\nsecret_id_wrapped = true',
        "vault.auth.secret_id_wrapped",
        "means nothing to the method",
    ),
    "kubernetes without its role": ('method = "kubernetes"', "vault.auth", "needs role"),
}


@pytest.mark.parametrize("case", WRONG_AUTH.items(), ids=lambda case: case[0])
def test_a_mistake_about_logging_in_is_named(case: tuple[str, tuple[str, str, str]]) -> None:
    text, key, message = case[1]
    found = problems(f'[vault]\naddress = "https://v"\n[vault.auth]\n{text}')
    assert [problem for problem in found if problem.key == key and message in problem.message], found


RIGHT_AUTH: dict[str, tuple[str, str, VaultAuth]] = {
    "token_file": ("", 'token_file = "/t"', TokenFileAuth(token_file=Path("/t"))),
    "approle": (
        "",
        'method = "approle"\nrole_id_file = "/r"\nsecret_id_file = "/s"',
        AppRoleAuth(role_id_file=Path("/r"), secret_id_file=Path("/s")),
    ),
    "approle with a wrapped secret id": (
        "",
        'method = "approle"\nrole_id = "r"\nsecret_id_file = "/s"\nsecret_id_wrapped = true\nrole = "rekeyd"',
        AppRoleAuth(role_id="r", secret_id_file=Path("/s"), wrapped=True, role="rekeyd"),
    ),
    "kubernetes": ("", 'method = "kubernetes"\nrole = "r"', KubernetesAuth(role="r")),
    "kubernetes with its own file and mount": (
        "",
        'method = "kubernetes"\nrole = "r"\njwt_file = "/j"\nmount = "k8s/a"',
        KubernetesAuth(role="r", jwt_file=Path("/j"), mount="k8s/a"),
    ),
    "jwt": ("", 'method = "jwt"\nrole = "r"\njwt_file = "/j"', JwtAuth(role="r", jwt_file=Path("/j"))),
    "cert": (
        'client_cert_file = "/c"\nclient_key_file = "/k"',
        'method = "cert"\nrole = "r"',
        CertAuth(role="r"),
    ),
    "cert of any role": ('client_cert_file = "/c"\nclient_key_file = "/k"', 'method = "cert"', CertAuth(role="")),
    "aws": (
        "",
        'method = "aws"\nrole = "r"\nheader_value = "v"',
        AwsAuth(role="r", region="eu-west-1", header_value="v"),
    ),
}


@pytest.mark.parametrize("case", RIGHT_AUTH.items(), ids=lambda case: case[0])
def test_every_way_to_log_in_reaches_the_adapter(case: tuple[str, tuple[str, str, VaultAuth]]) -> None:
    vault, auth, expected = case[1]
    text = f'[aws]\nregion = "eu-west-1"\n[vault]\naddress = "https://v"\n{vault}\n[vault.auth]\n{auth}'
    assert vault_settings(config.parse(text, {})).auth == expected


def test_approle_is_right_with_a_role_id_and_a_file_of_the_secret_id() -> None:
    text = '[vault]\naddress="https://v"\n[vault.auth]\nmethod="approle"\nrole_id="r"\nsecret_id_file="/s"\nmount="a/b"'
    assert config.parse(text, {}).vault.auth.role_id == "r"


@pytest.mark.parametrize("address", ["http://127.0.0.1:8200", "http://localhost:8200", "http://[::1]:8200"])
def test_http_to_this_machine_needs_no_permission(address: str) -> None:
    assert config.parse(VAULT.replace("https://vault.example:8200", address), {}).vault.address == address


def test_http_to_another_machine_needs_permission() -> None:
    text = VAULT.replace('"https://vault.example:8200"', '"http://vault.example:8200"\nallow_http = true')
    assert config.parse(text, {}).vault.allow_http


def test_one_path_for_users_of_two_accounts_is_refused() -> None:
    text = VAULT.replace("[vault.auth]", 'path = "aws/{user_name}"\n[vault.auth]') + "[aws.organization]\nrole_name='r'"
    (problem,) = problems(text)
    assert "no {account_id}" in problem.message


# --- all at once -----------------------------------------------------------------------------------------------------


def test_every_mistake_is_named_at_once_in_the_order_of_the_file() -> None:
    text = "\n".join(case[0] for case in list(WRONG.values())[:1])
    found = problems(
        VAULT
        + text
        + '\n[scan]\nevery = "5"\n[[policies]]\nname = "a"\nmax_age = "10d"\n[[policies]]\nname = "a"\ncreate = 1\n'
        + "[journal]\nurl = 'sqlite:///j.db'\n",
        REKEYD_FLEET__MODE="watch",
    )
    keys = [problem.key for problem in found]
    assert keys == ["fleat", "scan.every", "policies[1].name", "policies[1].create", "journal.url", "fleet.mode"]
    lines = [problem.line for problem in found if problem.line is not None]
    assert lines == sorted(lines)


def test_a_rule_between_settings_is_not_told_when_one_of_them_is_wrong_by_itself() -> None:
    (problem,) = problems(VAULT + POLICY + 'max_age = "20d"\noverlap = "x"\n')
    assert problem.key == "policies[0].overlap"


def test_the_error_is_one_of_ours_and_counts_the_mistakes() -> None:
    with pytest.raises(ConfigError, match="2 mistakes in the configuration") as raised:
        read("[scan]\nevery = 1\n[root]\ncheck_every = 1\n")
    assert raised.value.code == "configuration"


def test_a_problem_reads_as_place_key_value_message_and_hint() -> None:
    text = str(only("[fleet]\nmax_paralel = 3"))
    assert text == "rekeyd.toml:7:1: fleet.max_paralel = 3: unknown key\n  hint: did you mean max_parallel?"


def test_a_problem_as_json_has_all_of_it() -> None:
    assert only("[scan]\nevery = 5").as_json() == {
        "source": "rekeyd.toml",
        "line": 7,
        "column": 1,
        "key": "scan.every",
        "value": "5",
        "message": 'must be a duration in quotes, such as "90d" or "12h"',
        "hint": None,
    }


# --- arithmetic ------------------------------------------------------------------------------------------------------

LEAST = timedelta(days=2 * 7 + 7 + 1) + timedelta(hours=1, seconds=3, minutes=12)


def test_max_age_may_be_exactly_the_least() -> None:
    text = POLICY + f'max_age = "{config.format_duration(LEAST)}"'
    (policy,) = config.policies_of(read(text))
    assert policy.max_age == LEAST
    assert policy.max_age == minimum_max_age(
        overlap=policy.overlap, quarantine=policy.quarantine, unused_for=policy.unused_for, lead=policy.lead
    )


def test_a_second_less_is_refused_with_the_arithmetic() -> None:
    problem = only(POLICY + f'max_age = "{config.format_duration(LEAST - timedelta(seconds=1))}"')
    assert problem.key == "policies[0].max_age"
    assert "2 x overlap + quarantine + unused_for + lead = 2 x 7d + 7d + 1d + 1h12m3s = 22d1h12m3s" in problem.message
    assert problem.hint is not None
    assert "raise max_age" in problem.hint


def test_lead_is_the_longest_closed_stretch_the_scan_and_the_time_outs() -> None:
    text = POLICY + "windows = [{ cron = '0 2 * * 1-5', duration = '4h' }]\n[scan]\nevery = '30m'"
    (policy,) = config.policies_of(read(text))
    step = step_time(
        verify_first=timedelta(seconds=3), verify_timeout=timedelta(minutes=2), publish_timeout=timedelta(minutes=10)
    )
    expected = lead_time(longest_closed=timedelta(hours=68), scan_every=timedelta(minutes=30), step=step)
    assert policy.lead == expected


def test_windows_count_in_the_arithmetic() -> None:
    window = "windows = [{ cron = '0 2 * * 1', duration = '1h' }]"
    assert "lead" in only(POLICY + f'max_age = "25d"\n{window}').message
    assert read(POLICY + 'max_age = "25d"').policies[0].max_age == timedelta(days=25)


# --- secrets ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "case",
    {
        "a token": ("vault.token", f'[vault]\ntoken = "{TOKEN}"', "token_file"),
        "a token where logging in is": ("vault.auth.token", f'[vault.auth]\ntoken = "{TOKEN}"', "token_file"),
        "a secret id": ("vault.auth.secret_id", f'[vault.auth]\nsecret_id = "{TOKEN}"', "secret_id_file"),
        "a password": ("journal.password", f'[journal]\npassword = "{TOKEN}"', "password_file"),
        "an AWS key": ("aws.secret_access_key", f'[aws]\nsecret_access_key = "{TOKEN}"', None),
        "alarm URLs": ("alarms.urls", f'[alarms]\nurls = "{TOKEN}"', "urls_file"),
        "an external id": (
            "aws.accounts[0].external_id",
            f'[[aws.accounts]]\nexternal_id = "{TOKEN}"',
            "external_id_file",
        ),
        "a token as the path of its file": (
            "http.token_file",
            f'[http]\ntoken_file = "{TOKEN}"',
            "write the secret into a file",
        ),
    }.items(),
    ids=lambda case: case[0],
)
def test_a_secret_in_the_file_is_refused_and_not_shown(case: tuple[str, tuple[str, str, str | None]]) -> None:
    key, text, hint = case[1]
    found = problems(text)
    (problem,) = [problem for problem in found if problem.key == key]
    assert "secret" in problem.message
    assert hint is None or (problem.hint is not None and hint in problem.hint)
    assert TOKEN not in "\n".join(map(str, found)) + json.dumps([problem.as_json() for problem in found])


@pytest.mark.parametrize("url", ["postgresql://u:hunter2@h/db", "mysql://u:hunter2@h/db", "sqlite://u:hunter2@h/x"])
def test_a_password_in_a_url_is_refused_and_not_shown(url: str) -> None:
    found = problems(VAULT + f'[journal]\nurl = "{url}"')
    assert any("user name or a password" in problem.message for problem in found)
    assert "hunter2" not in "\n".join(map(str, found))


def test_a_password_in_vaults_address_is_refused_and_not_shown() -> None:
    found = problems(VAULT.replace("vault.example", "u:hunter2@vault.example"))
    assert [problem.key for problem in found] == ["vault.address"]
    assert "hunter2" not in str(found[0])


def test_a_password_in_a_proxys_address_is_refused_with_the_next_step_and_not_shown() -> None:
    (problem,) = problems(VAULT.replace("[vault.auth]", 'proxy = "http://u:hunter2@proxy:3128"\n[vault.auth]'))
    assert (problem.key, problem.value) == ("vault.proxy", None)
    assert "a forwarder on this machine that logs in" in (problem.hint or "")
    assert "hunter2" not in str(problem)


def test_a_proxy_reaches_the_adapter() -> None:
    text = VAULT.replace("[vault.auth]", 'proxy = "http://proxy:3128"\n[vault.auth]')
    assert vault_settings(config.parse(text, {})).proxy == "http://proxy:3128"
    assert vault_settings(config.parse(VAULT, {"HTTPS_PROXY": "http://proxy:3128"})).proxy is None


def test_a_secret_in_text_that_is_not_toml_is_not_shown() -> None:
    (problem,) = problems(f'[vault]\ntoken = {TOKEN}"\n')
    assert "is not TOML" in problem.message
    assert problem.line == 2
    assert TOKEN not in str(problem)


def test_a_secret_in_the_environment_is_refused_and_not_shown() -> None:
    problem = only("", REKEYD_VAULT__AUTH__TOKEN=TOKEN)
    assert problem.source == "$REKEYD_VAULT__AUTH__TOKEN"
    assert "never taken from the environment" in problem.message
    assert problem.hint is not None
    assert "REKEYD_VAULT__AUTH__TOKEN_FILE" in problem.hint
    assert TOKEN not in str(problem)


# --- the environment -------------------------------------------------------------------------------------------------


def test_the_environment_wins_over_the_file() -> None:
    got = read(
        "[fleet]\nmode = 'observe'\nmax_parallel = 2",
        REKEYD_FLEET__MODE="enforce",
        REKEYD_FLEET__MAX_PARALLEL="7",
        REKEYD_VAULT__AUTH__TOKEN_FILE="/run/token",
        REKEYD_VAULT__FIELDS__EXTRA='{"team": "payments"}',
        REKEYD_FLEET__FREEZES='[{"from": "2026-12-20", "to": "2027-01-04", "reason": "year end"}]',
        REKEYD_POLICIES='[{"name": "all", "create": true, "verify_regions": ["eu-west-1"]}]',
        REKEYD_SCAN__EVERY="30m",
    )
    assert (got.fleet.mode, got.fleet.max_parallel) == (FleetMode.ENFORCE, 7)
    assert got.vault.auth.token_file == "/run/token"
    assert got.vault.fields.extra == {"team": "payments"}
    assert got.fleet.freezes[0].first_day == date(2026, 12, 20)
    assert (got.policies[0].create, got.policies[0].verify_regions) == (True, ("eu-west-1",))
    assert got.scan.every == timedelta(minutes=30)


def test_vaults_own_variables_stand_in_for_what_the_file_leaves_out() -> None:
    text = "[vault.auth]\ntoken_file = '/t'"
    names = {"VAULT_ADDR": "https://v", "VAULT_NAMESPACE": "ns", "VAULT_CACERT": "/ca", "VAULT_TOKEN": TOKEN}
    got = config.parse(text, names | {"VAULT_CLIENT_CERT": "/c", "VAULT_CLIENT_KEY": "/k"}).vault
    assert (got.address, got.namespace, got.ca_file) == ("https://v", "ns", "/ca")
    assert (got.client_cert_file, got.client_key_file) == ("/c", "/k")
    assert TOKEN not in repr(got)


def test_the_file_wins_over_vaults_variables_and_ours_over_both() -> None:
    names = {"VAULT_ADDR": "https://fallback"}
    assert config.parse(VAULT, names).vault.address == "https://vault.example:8200"
    assert config.parse(VAULT, names | {"REKEYD_VAULT__ADDRESS": "https://over"}).vault.address == "https://over"


def test_a_wrong_variable_is_named_by_its_own_name() -> None:
    problem = only("", REKEYD_SCAN__EVERY="5")
    assert (problem.source, problem.line, problem.key) == ("$REKEYD_SCAN__EVERY", None, "scan.every")
    assert (only("", VAULT_NAMESPACE="/x/").source, only("", VAULT_NAMESPACE="/x/").key) == (
        "$VAULT_NAMESPACE",
        "vault.namespace",
    )


@pytest.mark.parametrize(
    ("name", "value", "message", "hint"),
    [
        ("REKEYD_VAULT__ADRESS", "x", "is no setting", "did you mean REKEYD_VAULT__ADDRESS?"),
        ("REKEYD_VAULT_ADDRESS", "x", "one underscore", "write REKEYD_VAULT__ADDRESS"),
        ("REKEYD_FLEET__MAX_PARALLEL", "many", "is not JSON, which a number", None),
        ("REKEYD_POLICIES", "all", "is not JSON, which a list", None),
    ],
)
def test_a_misspelt_or_unreadable_variable_is_a_mistake(name: str, value: str, message: str, hint: str | None) -> None:
    problem = only("", **{name: value})
    assert problem.source == f"${name}"
    assert message in problem.message
    assert problem.hint == hint


def test_variables_that_others_set_are_passed_over() -> None:
    # Kubernetes sets these for a Service of the name "rekeyd".
    others = {
        "REKEYD_PORT": "tcp://10.0.0.1:9744",
        "REKEYD_SERVICE_HOST": "10.0.0.1",
        "REKEYD_PORT_9744_TCP_PORT": "9744",
    }
    assert read("", **others, REKEYD_CONFIG="/etc/x").http.listen == "127.0.0.1:9744"


def test_a_table_in_the_environment_meets_text_in_the_file() -> None:
    found = problems("vault = 3", REKEYD_VAULT__ADDRESS="https://v")
    assert [(problem.key, problem.message) for problem in found] == [("vault", "must be a table")]


# --- files -----------------------------------------------------------------------------------------------------------


def test_paths_of_files_count_from_the_folder_of_the_configuration(tmp_path: Path) -> None:
    file = tmp_path / "rekeyd.toml"
    file.write_text(
        '[vault]\naddress = "https://v"\nca_file = "/etc/ca.pem"\n[vault.auth]\ntoken_file = "token"\n'
        '[[aws.accounts]]\nid = "111122223333"\nrole_arn = "arn:aws:iam::111122223333:role/r"\n'
        'external_id_file = "x/id"\n'
    )
    got = config.load(file, {})
    assert got.vault.auth.token_file == str(tmp_path / "token")
    assert got.vault.ca_file == "/etc/ca.pem"
    assert got.aws.accounts[0].external_id_file == str(tmp_path / "x" / "id")


def test_a_file_that_cannot_be_read_is_a_mistake_of_the_configuration(tmp_path: Path) -> None:
    with pytest.raises(ConfigProblemsError, match=r"none\.toml: no such file\n  hint: `rekeyd config init"):
        config.load(tmp_path / "none.toml", {})
    with pytest.raises(ConfigProblemsError, match="cannot be read"):
        config.load(tmp_path, {})
    (tmp_path / "latin.toml").write_bytes(b"# \xfc")
    with pytest.raises(ConfigProblemsError, match="not UTF-8"):
        config.load(tmp_path / "latin.toml", {})
