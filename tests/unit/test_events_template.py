"""deploy/aws/events.yaml, as far as it can be judged without AWS: what may write to the queue, and what comes there."""

import json
from pathlib import Path
from typing import Any

import yaml

from rekeyd.adapters.queue_name import queue_name
from rekeyd.core.cloudtrail import EXPOSURE_CODES, QUARANTINE_POLICY
from tests.unit.test_cloudtrail import SEEN

TEMPLATE = Path(__file__).parents[2] / "deploy" / "aws" / "events.yaml"


class _Loader(yaml.SafeLoader):  # type: ignore[misc]  # published without types
    """CloudFormation's short forms, each as its long one."""


def _long(loader: _Loader, tag: str, node: yaml.Node) -> dict[str, Any]:
    name = tag if tag in ("Ref", "Condition") else f"Fn::{tag}"
    match node:
        case yaml.SequenceNode():
            return {name: loader.construct_sequence(node, deep=True)}
        case yaml.ScalarNode():
            value = loader.construct_scalar(node)
            return {name: value.split(".") if tag == "GetAtt" else value}
        case _:
            raise AssertionError(f"!{tag} of a mapping")


_Loader.add_multi_constructor("!", _long)


def _template() -> dict[str, Any]:
    loaded = yaml.load(TEMPLATE.read_text(), _Loader)  # noqa: S506 - a SafeLoader
    assert isinstance(loaded, dict)
    return loaded


def _properties(name: str) -> dict[str, Any]:
    properties = _template()["Resources"][name]["Properties"]
    assert isinstance(properties, dict)
    return properties


def _names_within(value: object) -> set[str]:
    """Everything that is referred to."""
    match value:
        case dict():
            own = {str(value["Ref"])} if "Ref" in value else set()
            got = {str(value["Fn::GetAtt"][0])} if "Fn::GetAtt" in value else set()
            return own.union(got, *(_names_within(inner) for inner in value.values()))
        case list():
            return set().union(*(_names_within(inner) for inner in value))
        case _:
            return set()


def test_everything_that_is_referred_to_is_there() -> None:
    template = _template()
    known = {*template["Resources"], *template["Parameters"]}
    named = {name for name in _names_within(template) if not name.startswith("AWS::")}
    assert named <= known
    conditions = {each.get("Condition") for each in template["Resources"].values()} - {None}
    assert conditions <= set(template["Conditions"])


def test_only_these_rules_may_write_to_the_queue_and_nobody_in_the_clear() -> None:
    allow, deny = _properties("QueuePolicy")["PolicyDocument"]["Statement"]
    assert (allow["Effect"], allow["Action"]) == ("Allow", "sqs:SendMessage")
    assert allow["Principal"] == {"Service": "events.amazonaws.com"}
    sources = allow["Condition"]["ArnEquals"]["aws:SourceArn"]
    rules = [name for name, each in _template()["Resources"].items() if each["Type"] == "AWS::Events::Rule"]
    assert sources == [{"Fn::GetAtt": [rule, "Arn"]} for rule in rules]
    assert len(rules) == 4
    assert deny["Effect"] == "Deny"
    assert deny["Condition"] == {"Bool": {"aws:SecureTransport": "false"}}


def test_the_queue_is_encrypted_and_gives_up_on_what_cannot_be_deleted() -> None:
    queue = _properties("Queue")
    assert queue["SqsManagedSseEnabled"] is True
    assert _properties("DeadLetters")["SqsManagedSseEnabled"] is True
    assert queue["RedrivePolicy"]["deadLetterTargetArn"] == {"Fn::GetAtt": ["DeadLetters", "Arn"]}
    # Far longer than a batch takes, so that a message is handed out once.
    assert queue["VisibilityTimeout"] >= 30


def test_the_rules_pass_on_what_rekeyd_understands() -> None:
    keys = _properties("KeyChanges")["EventPattern"]
    assert keys["detail"]["eventSource"] == ["iam.amazonaws.com"]
    assert sorted(keys["detail"]["eventName"]) == ["CreateAccessKey", "DeleteAccessKey", "UpdateAccessKey"]
    root = _properties("RootUse")
    assert root["EventPattern"]["detail"]["userIdentity"]["type"] == ["Root"]
    assert "AWS Console Sign In via CloudTrail" in root["EventPattern"]["detail-type"]
    # Otherwise EventBridge leaves out what only reads, and so most of what a thief of a root key does first.
    assert root["State"] == "ENABLED_WITH_ALL_CLOUDTRAIL_MANAGEMENT_EVENTS"
    health = _properties("Exposures")["EventPattern"]["detail"]
    assert health == {"eventTypeCode": [{"prefix": EXPOSURE_CODES}]}
    attached = _properties("Quarantines")["EventPattern"]["detail"]
    assert attached["eventName"] == ["AttachUserPolicy"]
    (arn,) = attached["requestParameters"]["policyArn"]
    assert arn["prefix"]["Fn::Sub"].endswith(f":iam::aws:policy/{QUARANTINE_POLICY}")


def _passing(body: str) -> list[str]:
    """The rules that take it, as moto understands patterns."""
    from moto.events.models import EventPattern

    rules = [name for name, each in _template()["Resources"].items() if each["Type"] == "AWS::Events::Rule"]
    event = json.loads(body)
    return [
        rule
        for rule in rules
        if EventPattern.load(json.dumps(_in_partition(_properties(rule)["EventPattern"]))).matches_event(event)
    ]


def _in_partition(value: Any) -> Any:
    match value:
        case {"Fn::Sub": str(text)}:
            return text.replace("${AWS::Partition}", "aws")
        case dict():
            return {name: _in_partition(inner) for name, inner in value.items()}
        case list():
            return [_in_partition(inner) for inner in value]
        case _:
            return value


# CIS's filter for the use of root users leaves out what a service does for it.
BY_A_SERVICE = {"a service did it for the root user"}
NOISE = {
    "a change of something else",
    "AWS Health says something else",
    "somebody asked which entities have AWS's policy",
    "somebody attached another policy",
    "another service has such a name",
}


def test_whatever_rekeyd_looks_at_passes_some_rule_and_noise_passes_none() -> None:
    missed = {name for name, (body, pointer) in SEEN.items() if pointer is not None and not _passing(body)}
    assert missed == BY_A_SERVICE
    assert set(SEEN) >= NOISE
    assert {name for name in NOISE if _passing(SEEN[name][0])} == set()


def test_every_rule_goes_to_the_queue_or_is_forwarded_by_a_role_that_can_do_only_that() -> None:
    for rule in ("KeyChanges", "RootUse", "Exposures", "Quarantines"):
        (target,) = _properties(rule)["Targets"]
        assert target["Arn"] == {"Fn::If": ["HasQueue", {"Fn::GetAtt": ["Queue", "Arn"]}, {"Ref": "TargetBusArn"}]}
    (policy,) = _properties("ForwardRole")["Policies"]
    (statement,) = policy["PolicyDocument"]["Statement"]
    assert (statement["Action"], statement["Resource"]) == ("events:PutEvents", {"Ref": "TargetBusArn"})


def test_only_the_organization_may_forward() -> None:
    statement = _properties("BusPolicy")["Statement"]
    assert statement["Condition"] == {"StringEquals": {"aws:PrincipalOrgID": {"Ref": "OrganizationId"}}}
    assert _template()["Resources"]["BusPolicy"]["Condition"] == "LetsOthersForward"


def test_the_queue_of_the_template_is_one_that_the_configuration_takes() -> None:
    name = _template()["Parameters"]["QueueName"]["Default"]
    assert queue_name(f"https://sqs.us-east-1.amazonaws.com/111122223333/{name}").name == name
