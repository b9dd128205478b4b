"""`rekeyd doctor`: one verdict for each thing that rekeyd needs, and nothing changed by asking."""

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from rekeyd.adapters.aws_doctor import policy_source
from rekeyd.demo.emulator import HUB
from rekeyd.demo.ports import free_port
from tests.acceptance.stand import Ran, Stand, eventually
from tests.acceptance.test_alarm_channels import receiving
from tests.integration.test_channels import SECRET, Mailbox, Scripted, serving, smtp_server
from tests.secret_registry import remember, write_secret


def verdicts(ran: Ran) -> dict[str, str]:
    return {check["name"]: check["verdict"] for check in ran.document["checks"]}


def message(ran: Ran, name: str) -> str:
    return next(str(check["message"]) for check in ran.document["checks"] if check["name"] == name)


def test_a_sound_installation_passes_every_check_and_nothing_is_changed(stand: Stand) -> None:
    stand.user("ci")
    before = (stand.held("ci"), stand.statuses("ci"))
    ran = stand.run("doctor", "--json")
    assert ran.code == 0, ran.out
    found = verdicts(ran)
    assert {name for name, verdict in found.items() if verdict != "ok"} == {"channels"}
    assert message(ran, "vault paths") == "1 of 1 are on KV version 2 and may be written"
    assert "version 2." in message(ran, "vault")
    assert (stand.held("ci"), stand.statuses("ci")) == before
    assert not stand.journal.exists(), "asking makes no journal"


def test_it_is_looked_at_in_the_order_in_which_one_thing_depends_on_another(stand: Stand) -> None:
    stand.user("ci")
    ran = stand.run("doctor", "--json")
    of_the_account = ("GetAccountSummary", "ListAccountAliases", "GetAccountPasswordPolicy", "GetCredentialReport")
    of_a_user = ("GetUser", "ListUserTags", "ListAccessKeys", "GetAccessKeyLastUsed")
    changes = ("CreateAccessKey", "UpdateAccessKey", "DeleteAccessKey")
    assert list(verdicts(ran)) == [
        *("configuration", "aws accounts", f"aws identity {HUB}", f"aws clock {HUB}"),
        f"iam:GetAccountAuthorizationDetails {HUB}",
        *(f"iam:{action} {HUB}" for action in of_the_account),
        f"cloudtrail:LookupEvents {HUB}",
        f"aws users {HUB}",
        *(f"iam:{action} {HUB}" for action in (*of_a_user, *changes)),
        *("vault", "vault login", "vault mark", "vault paths"),
        *("journal", "channels", "vault clock", "time sources"),
    ]


def test_each_action_is_really_asked_for(stand: Stand) -> None:
    stand.user("ci")
    stand.run("doctor", "--json")
    asked = {seen.op for seen in stand.aws.requests}
    assert {"ListAccountAliases", "GetAccountPasswordPolicy", "ListUserTags", "LookupEvents"} <= asked
    assert not asked & {"CreateAccessKey", "UpdateAccessKey", "DeleteAccessKey"}, "policies were asked instead"


def test_where_policies_may_not_be_asked_changes_are_tried_on_a_key_that_is_none(stand: Stand) -> None:
    stand.user("ci")
    stand.aws.deny(HUB, "SimulatePrincipalPolicy")
    before = stand.statuses("ci")
    ran = stand.run("doctor", "--json")
    found = verdicts(ran)
    assert (ran.code, found[f"iam:CreateAccessKey {HUB}"]) == (0, "skipped")
    assert found[f"iam:UpdateAccessKey {HUB}"] == found[f"iam:DeleteAccessKey {HUB}"] == "ok"
    (check,) = [each for each in ran.document["checks"] if each["name"] == f"iam:CreateAccessKey {HUB}"]
    assert check["hint"] == f"allow iam:SimulatePrincipalPolicy on arn:aws:iam::{HUB}:user/rekeyd to be told"
    assert stand.statuses("ci") == before


@pytest.mark.parametrize(("tag", "verdict"), [("managed", "ok"), ("other", "failed")])
def test_a_right_that_hangs_on_a_tag_is_asked_for_with_the_tags_of_the_user(
    stand: Stand, tag: str, verdict: str
) -> None:
    stand.user("ci", tags={"key-rotation": tag})
    for action in ("CreateAccessKey", "UpdateAccessKey", "DeleteAccessKey"):
        stand.aws.deny(HUB, action, unless_tag=("key-rotation", "managed"))
    assert verdicts(stand.run("doctor", "--json"))[f"iam:CreateAccessKey {HUB}"] == verdict


def test_the_policies_of_a_role_with_a_path_are_found_by_its_name_in_the_configuration(stand: Stand) -> None:
    stand.user("ci")
    role = stand.aws.add_role(HUB, "ops/rekeyd")
    stand.write_config(accounts={HUB: role})
    assert verdicts(stand.run("doctor", "--json"))[f"iam:CreateAccessKey {HUB}"] == "ok"


def test_what_there_was_no_user_to_try_on_is_said(stand: Stand) -> None:
    ran = stand.run("doctor", "--json")
    found = verdicts(ran)
    assert (ran.code, found[f"aws user actions {HUB}"], found["vault paths"]) == (0, "skipped", "skipped")
    assert "iam:ListAccessKeys" in message(ran, f"aws user actions {HUB}")
    assert "iam:CreateAccessKey" in message(ran, f"aws user actions {HUB}")


def test_a_user_without_a_key_cannot_show_when_it_was_used(stand: Stand) -> None:
    stand.user("ci", key_age=None)
    assert verdicts(stand.run("doctor", "--json"))[f"iam:GetAccessKeyLastUsed {HUB}"] == "skipped"


# --- observing ---


def _reader(stand: Stand, *kinds: str) -> None:
    stand.write_config(mode="observe")
    paths = [f'path "{stand.mount}/{kind}/aws/*" {{ capabilities = ["read"] }}' for kind in kinds]
    stand.bao.write_policy(f"observer-{stand.mount}", "\n".join(paths))
    write_secret(stand.token_file, remember(stand.bao.create_token([f"observer-{stand.mount}"], ttl="1h")))


def test_an_observer_needs_no_right_to_change(stand: Stand) -> None:
    stand.user("ci")
    _reader(stand, "data", "metadata")
    stand.aws.deny(HUB, "*AccessKey")
    ran = stand.run("doctor", "--json")
    assert ran.code == 0, ran.out
    assert message(ran, "vault paths") == "1 of 1 are on KV version 2 and may be read"
    assert not {name for name in verdicts(ran) if "CreateAccessKey" in name or name == "vault mark"}


def test_an_observer_that_may_not_read_is_told(stand: Stand) -> None:
    stand.user("ci")
    _reader(stand, "data")
    ran = stand.run("doctor", "--json")
    assert ran.code == 1
    assert f"lacks read on {stand.mount}/metadata/aws/{HUB}/ci" in message(ran, f"vault path of {HUB}/ci")


def test_an_observer_of_kv_version_1_is_told(stand: Stand) -> None:
    stand.user("ci")
    stand.write_config(mode="observe")
    _kv1(stand)
    ran = stand.run("doctor", "--json")
    assert (ran.code, "is KV version 1" in message(ran, f"vault path of {HUB}/ci")) == (1, True)


# --- who and when ---


@pytest.mark.parametrize(
    ("ahead", "verdict"), [(timedelta(minutes=2), "warning"), (timedelta(minutes=-10), "failed")], ids=str
)
def test_a_clock_that_differs_from_awss_is_told_before_anything_fails_by_it(
    stand: Stand, ahead: timedelta, verdict: str
) -> None:
    stand.aws.clock.advance(ahead)
    ran = stand.run("doctor", "--json")
    found = verdicts(ran)
    assert (ran.code, found[f"aws clock {HUB}"]) == (int(verdict == "failed"), verdict)
    assert found["vault clock"] == "ok"
    assert found["time sources"] == "warning"


@pytest.mark.parametrize(
    ("named", "identity", "clock"),
    [(False, "aws accounts", "aws clock"), (True, f"aws identity {HUB}", f"aws clock {HUB}")],
    ids=["own account", "named account"],
)
def test_a_clock_for_which_aws_refuses_every_signature_is_named(
    stand: Stand, named: bool, identity: str, clock: str
) -> None:
    if named:
        stand.write_config(accounts={HUB: None})
    stand.aws.delays.signature_age = timedelta(minutes=15)
    stand.aws.clock.advance(timedelta(hours=1))
    ran = stand.run("doctor", "--json")
    found = verdicts(ran)
    assert (found[identity], found[clock]) == ("failed", "failed")
    assert message(ran, clock).startswith(("3599 s", "3600 s", "3601 s"))


def test_credentials_of_the_root_user_fail_and_nothing_more_is_asked_with_them(stand: Stand) -> None:
    stand.user("ci")
    root = stand.aws.add_root_key(HUB)
    env = {"AWS_ACCESS_KEY_ID": root.access_key_id, "AWS_SECRET_ACCESS_KEY": root.secret_access_key}
    ran = stand.run("doctor", "--json", env=env)
    assert (ran.code, verdicts(ran)[f"aws identity {HUB}"]) == (1, "failed")
    assert "the root user's" in message(ran, f"aws identity {HUB}")
    assert {seen.op for seen in stand.aws.requests} == {"GetCallerIdentity"}


@pytest.mark.parametrize(
    ("action", "needed_for", "verdict"),
    [
        ("iam:ListAccountAliases", "aws/{account_id}/{user_name}", "warning"),
        ("iam:ListAccountAliases", "aws/{account_alias}/{user_name}", "failed"),
        ("iam:GetAccountPasswordPolicy", "aws/{account_id}/{user_name}", "failed"),
        ("iam:ListUserTags", "aws/{account_id}/{user_name}", "warning"),
        ("cloudtrail:LookupEvents", "aws/{account_id}/{user_name}", "warning"),
    ],
)
def test_how_bad_it_is_that_a_right_is_missing(stand: Stand, action: str, needed_for: str, verdict: str) -> None:
    stand.user("ci")
    stand.aws.deny(HUB, action)
    ran = stand.run("doctor", "--json", env={"REKEYD_VAULT__PATH": needed_for})
    assert verdicts(ran)[f"{action} {HUB}"] == verdict


def test_the_journal_is_checked_beside_a_running_daemon(stand: Stand) -> None:
    with stand.daemon():
        ran = stand.run("doctor")
    assert ran.code == 0
    assert f"ok       journal: {stand.journal} can be written" in ran.out


def _sealed(stand: Stand) -> None:
    stand.environment["REKEYD_VAULT__ADDRESS"] = "http://127.0.0.1:9"


def _bad_token(stand: Stand) -> None:
    write_secret(stand.token_file, remember("s.thistokenisnotavalidone99"))


def _short_token(stand: Stand) -> None:
    stand.bao.write_policy("short", f'path "{stand.mount}/*" {{ capabilities = ["create", "read", "update"] }}')
    write_secret(stand.token_file, remember(stand.bao.create_token(["short"], ttl="20s")))


def _no_grant(stand: Stand) -> None:
    name = f"narrow-{stand.mount}"
    policy = f'path "{stand.mount}/data/rekeyd/*" {{ capabilities = ["create", "read", "update"] }}\n'
    policy += f'path "{stand.mount}/data/aws/*" {{ capabilities = ["read"] }}'
    stand.bao.write_policy(name, policy)
    write_secret(stand.token_file, remember(stand.bao.create_token([name], ttl="1h")))


def _kv1(stand: Stand) -> None:
    stand.bao.enable_kv(f"{stand.mount}-v1", version=1)
    stand.environment["REKEYD_VAULT__MOUNT"] = f"{stand.mount}-v1"


def _denied(action: str) -> Callable[[Stand], None]:
    def deny(stand: Stand) -> None:
        stand.aws.deny(HUB, action)

    return deny


def _untold(action: str) -> Callable[[Stand], None]:
    """Without an answer of SimulatePrincipalPolicy."""

    def deny(stand: Stand) -> None:
        stand.aws.deny(HUB, action)
        stand.aws.deny(HUB, "SimulatePrincipalPolicy")

    return deny


def _own_identity(stand: Stand) -> None:
    stand.write_config({"exclude": {"users": ["nobody"]}})


def _no_folder(stand: Stand) -> None:
    stand.journal.parent.touch()


def _bad_config(stand: Stand) -> None:
    stand.config.write_text(stand.config.read_text() + "\n[nonsense]\n")


BROKEN: dict[str, tuple[Callable[[Stand], None], str, str]] = {
    "a mistake in the configuration": (_bad_config, "configuration", "nonsense"),
    "nobody at Vault's address": (_sealed, "vault", "cannot be reached"),
    "a token that is none": (_bad_token, "vault login", "cannot be looked up"),
    "a token that ends too soon": (_short_token, "vault login", "and issuing one key may take"),
    "a policy that does not reach": (_no_grant, f"vault path of {HUB}/ci", "lacks update on"),
    "KV version 1": (_kv1, f"vault path of {HUB}/ci", "is KV version 1"),
    "no right to list keys": (_denied("iam:ListAccessKeys"), f"iam:ListAccessKeys {HUB}", "ListAccessKeys"),
    "no right to deactivate": (_denied("iam:UpdateAccessKey"), f"iam:UpdateAccessKey {HUB}", "by Simulate"),
    "no right to deactivate, tried": (_untold("iam:UpdateAccessKey"), f"iam:UpdateAccessKey {HUB}", "UpdateAccessKey"),
    "no right to create": (_denied("iam:CreateAccessKey"), f"iam:CreateAccessKey {HUB}", "by Simulate"),
    "no right to delete": (_denied("iam:DeleteAccessKey"), f"iam:DeleteAccessKey {HUB}", "by Simulate"),
    "no right to delete, tried": (_untold("iam:DeleteAccessKey"), f"iam:DeleteAccessKey {HUB}", "DeleteAccessKey"),
    "no right to see the root user": (_denied("iam:GetAccountSummary"), f"iam:GetAccountSummary {HUB}", "Summary"),
    "itself among the managed": (_own_identity, f"aws identity {HUB}", "rekeyd's own identity"),
    "no place for the journal": (_no_folder, "journal", "journal"),
}


@pytest.mark.parametrize("case", BROKEN.items(), ids=lambda case: case[0])
def test_what_is_broken_is_named_and_fails(stand: Stand, case: tuple[str, Any]) -> None:
    break_it, name, said = case[1]
    stand.user("ci")
    break_it(stand)
    ran = stand.run("doctor", "--json")
    assert ran.code == 1
    failures = [check for check in ran.document["checks"] if check["verdict"] == "failed"]
    assert [check for check in failures if check["name"] == name and said in check["message"]], failures
    assert ran.document["ok"] is False


@pytest.mark.parametrize(
    ("plan", "allowed", "verdict", "said"),
    [
        (True, True, "ok", "it knows of 1 exposed"),
        (False, True, "warning", "below Business"),
        (True, False, "failed", "health:DescribeEvents"),
    ],
    ids=["answered", "without a support plan", "denied"],
)
def test_whether_aws_health_can_be_asked_is_told(
    stand: Stand, plan: bool, allowed: bool, verdict: str, said: str
) -> None:
    user = stand.user("ci")
    config = stand.write_config()
    config.write_text(config.read_text().replace("[scan]\n", "[scan]\nhealth = true\n"))
    stand.aws.report_exposed(HUB, user.key.access_key_id)
    if plan:
        stand.aws.subscribe_health(HUB)
    if not allowed:
        stand.aws.deny(HUB, "DescribeEvents")
    checks = {check["name"]: check for check in stand.run("doctor", "--json").document["checks"]}
    health = checks[f"health:DescribeEvents {HUB}"]
    assert health["verdict"] == verdict
    assert said in health["message"]


def test_a_sealed_vault_is_said_to_be_sealed(stand: Stand) -> None:
    from rekeyd.demo.openbao import OpenBaoServer

    with OpenBaoServer() as other:
        remember(other.root_token)
        other.seal()
        ran = stand.run("doctor", "--json", env={"REKEYD_VAULT__ADDRESS": other.address})
    assert ran.code == 1
    assert "is sealed" in message(ran, "vault")


def test_a_wrapped_secret_id_is_left_for_the_daemon(stand: Stand) -> None:
    role = stand.bao.create_app_role(f"doctor-{stand.mount}", [])
    with stand.bao.client() as client:
        wrapped = client.auth.approle.generate_secret_id(role.name, wrap_ttl="5m")["wrap_info"]["token"]
    file = write_secret(stand.folder / "wrapped", remember(wrapped))
    text = stand.config.read_text()
    begin, end = text.index("[vault.auth]"), text.index("[[policies]]")
    auth = f'[vault.auth]\nmethod = "approle"\nrole_id = "{role.role_id}"\n'
    auth += f'secret_id_file = "{file}"\nsecret_id_wrapped = true\n\n'
    stand.config.write_text(text[:begin] + auth + text[end:])
    ran = stand.run("doctor", "--json")
    assert (ran.code, verdicts(ran)["vault login"]) == (0, "skipped")
    with stand.bao.client(wrapped) as client:
        assert remember(client.sys.unwrap()["data"]["secret_id"])


def test_a_role_whose_tokens_live_shorter_than_a_rotation_is_warned_of(stand: Stand) -> None:
    stand.user("ci")
    name = f"brief-{stand.mount}"
    stand.bao.write_policy(name, f'path "{stand.mount}/*" {{ capabilities = ["create", "read", "update", "patch"] }}')
    role = stand.bao.create_app_role(name, [name], token_ttl="20s")
    file = write_secret(stand.folder / "secret-id", remember(role.secret_id))
    token_file = f'method = "token_file"\ntoken_file = "{stand.token_file}"'
    approle = f'method = "approle"\nrole_id = "{role.role_id}"\nsecret_id_file = "{file}"'
    stand.config.write_text(stand.config.read_text().replace(token_file, approle))
    ran = stand.run("doctor", "--json")
    assert (ran.code, verdicts(ran)["vault login"]) == (0, "warning")
    assert "tokens of this role live for" in ran.out
    assert "longer token_ttl" in ran.out


def _configure(stand: Stand, *, mail_port: int, hook_port: int) -> list[Path]:
    """A mail server, a webhook and a heartbeat that nobody may fetch. The files with the addresses."""
    mail, hook, secret, beat = (stand.folder / name for name in ("urls", "hook-url", "hook-secret", "beat-url"))
    write_secret(mail, f"mailto://127.0.0.1:{mail_port}?from=rekeyd@example.org&to=ops@example.org&mode=insecure")
    write_secret(hook, f"http://127.0.0.1:{hook_port}/alarms")
    write_secret(secret, SECRET)
    write_secret(beat, f"http://127.0.0.1:{hook_port}/beat")
    files = {"urls_file": mail, "webhook_url_file": hook, "webhook_secret_file": secret, "heartbeat_url_file": beat}
    lines = "\n".join(f'{name} = "{path}"' for name, path in files.items())
    stand.config.write_text(stand.config.read_text().replace("[alarms]", f"[alarms]\n{lines}"))
    return list(files.values())


def _channel(ran: Ran, name: str) -> dict[str, Any]:
    (found,) = [check for check in ran.document["checks"] if check["name"].startswith(f"channel {name}")]
    return dict(found)


def test_every_channel_is_sent_a_message_that_is_marked_as_a_test(stand: Stand) -> None:
    box = Mailbox()
    with stand.daemon() as daemon:
        daemon.wait_for_event("pass.finished")
        stand.aws.add_root_key(HUB)  # so that there is an alarm that could be touched
        eventually(lambda: stand.run("alarms", "list", "--json").document["alarms"], "the alarm")
    before = stand.run("alarms", "list", "--json").document
    with smtp_server(box) as mail_port, receiving() as server:
        _configure(stand, mail_port=mail_port, hook_port=server.server_port)
        ran = stand.run("doctor", "--json")
    assert ran.code == 0, ran.out
    assert _channel(ran, "mailto-")["verdict"] == "ok"
    assert _channel(ran, "webhook")["verdict"] == "ok"
    assert verdicts(ran)["heartbeat"] == "ok"
    (mail,) = box.mails
    assert mail["Subject"] == "rekeyd default: test of this channel"
    assert "This is a test message, no alarm." in mail.as_string()
    (told,) = server.messages
    assert (told["test"], told["alarms"], told["severity"]) == (True, [], "resolved")
    after = stand.run("alarms", "list", "--json").document
    assert before["alarms"] == after["alarms"] != []
    assert after["channels"] == before["channels"] == [], "the outbox knows nothing of it"


def _with_owners(stand: Stand, *, mail_port: int, url: str | None = None) -> None:
    file = write_secret(
        stand.folder / "owner-urls",
        url or f"mailto://127.0.0.1:{mail_port}?from=rekeyd@example.org&to={{owner}}&mode=insecure",
    )
    stand.config.write_text(stand.config.read_text() + f'\n[owners]\nurls_file = "{file}"\n')


def _tag(stand: Stand, user: str, owner: str) -> None:
    stand.aws.client("iam").tag_user(UserName=user, Tags=[{"Key": "Owner", "Value": owner}])


def test_owners_are_checked_without_a_message_to_any(stand: Stand) -> None:
    for name in ("ci", "batch", "lonely"):
        stand.user(name)
    _tag(stand, "ci", "alice@example.org")
    box = Mailbox()
    with smtp_server(box) as mail_port:
        _with_owners(stand, mail_port=mail_port)
        check = next(each for each in stand.run("doctor", "--json").document["checks"] if each["name"] == "owners")
        assert (check["verdict"], "1 of 3 managed users" in check["message"]) == ("ok", True)
        _tag(stand, "batch", "somebody: ask around")
        check = next(each for each in stand.run("doctor", "--json").document["checks"] if each["name"] == "owners")
        assert (check["verdict"], f"reaches nobody for {HUB}/batch" in check["message"]) == ("warning", True)
    assert box.mails == []


def test_owners_whom_a_mistake_keeps_from_being_told_fail(stand: Stand) -> None:
    _with_owners(stand, mail_port=1, url="mailto://127.0.0.1:1?to=everybody@example.org")
    ran = stand.run("doctor", "--json")
    (check,) = [each for each in ran.document["checks"] if each["name"] == "owners"]
    assert (ran.code, check["verdict"]) == (1, "failed")
    assert "{owner}" in check["message"]
    tried = stand.run("alarms", "test", "--json")
    (way,) = tried.document["channels"]
    assert (tried.code, way["name"], way["taken"]) == (1, "owners", False)
    assert "{owner}" in way["error"]


def test_one_owner_is_sent_a_test_message_and_nobody_else_is(stand: Stand) -> None:
    box = Mailbox()
    with smtp_server(box) as mail_port, receiving() as server:
        _configure(stand, mail_port=mail_port, hook_port=server.server_port)
        _with_owners(stand, mail_port=mail_port)
        stand.config.write_text(stand.config.read_text().replace("[owners]\n", "[owners]\nwebhook = true\n"))
        ran = stand.run("alarms", "test", "--owner", "alice@example.org", "--json")
        odd = stand.run("alarms", "test", "--owner", "a: b", "--json")
    assert (ran.code, [each["taken"] for each in ran.document["channels"]]) == (0, [True, True])
    (mail,) = box.mails
    assert mail["To"] == "alice@example.org"
    assert "what rekeyd has to tell alice@example.org comes through here" in mail.as_string().replace("=\n", "")
    (told,) = server.messages
    assert (told["test"], told["owner"], told["alarms"]) == (True, "alice@example.org", [])
    assert odd.code == 2
    assert "nothing reaches the owner" in odd.document["error"]["message"]


def test_a_channel_that_is_dead_fails_with_its_reason_and_the_others_are_tried(stand: Stand) -> None:
    dead = free_port()
    with receiving() as server:
        _configure(stand, mail_port=dead, hook_port=server.server_port)
        ran = stand.run("doctor", "--json")
        plain = stand.run("doctor")
    assert (ran.code, plain.code) == (1, 1)
    mail = _channel(ran, "mailto-")
    assert mail["verdict"] == "failed"
    assert mail["message"].endswith("cannot be reached: nobody listens there")
    assert "rekeyd alarms test" in mail["hint"]
    assert _channel(ran, "webhook")["verdict"] == "ok"
    assert len(server.messages) == 2
    assert f":{dead}" not in ran.out + ran.err


def test_a_webhook_that_refuses_and_an_address_that_cannot_be_read_fail(stand: Stand) -> None:
    with serving(Scripted(403)) as server:
        assert isinstance(server, Scripted)
        mail, _, _, beat = _configure(stand, mail_port=free_port(), hook_port=server.server_port)
        mail.write_text("nonsense://T0KEN\n")
        beat.unlink()
        ran = stand.run("doctor", "--json")
        assert server.asked == ["/alarms"], "the heartbeat is the daemon's to fetch"
    assert ran.code == 1
    assert _channel(ran, "webhook")["message"] == "the webhook answered 403"
    assert 'begins with "nonsense:"' in _channel(ran, "apprise")["message"]
    assert verdicts(ran)["heartbeat"] == "failed"
    assert "T0KEN" not in ran.out + ran.err


def test_the_policies_of_a_role_are_asked_for_and_not_of_its_session() -> None:
    assert (
        policy_source("arn:aws-cn:sts::111122223333:assumed-role/rekeyd/rekeyd-default")
        == "arn:aws-cn:iam::111122223333:role/rekeyd"
    )
    assert policy_source("arn:aws:iam::111122223333:user/rekeyd") == "arn:aws:iam::111122223333:user/rekeyd"
