"""The least Vault policy that this configuration needs, as HCL.

User names never appear: Vault takes `+` and `*` in a policy's path as wildcards, and `+` is a legal IAM user name, so
a policy made from names could grant everybody's secrets. A placeholder becomes `+` (one whole segment); account ids,
which are digits, are written out.
"""

import itertools
import json
import re
from collections.abc import Iterator

from rekeyd.cli.policies_aws import Printed
from rekeyd.config.models import Config, FleetMode

Capabilities = tuple[str, ...]

_SELF: tuple[tuple[str, Capabilities], ...] = (
    ("auth/token/lookup-self", ("read",)),
    ("auth/token/renew-self", ("update",)),
    ("auth/token/revoke-self", ("update",)),
    ("sys/capabilities-self", ("update",)),
)


def vault_policy(config: Config) -> Printed:
    """For the token, or the role, that rekeyd logs in with."""
    observe = config.fleet.mode is FleetMode.OBSERVE
    home = config.vault.namespace or ""
    notes = ["the last four paths are in Vault's own policy `default`; they count with token_no_default_policy"]
    mark = config.vault.state_path.replace("{instance}", config.journal.instance)
    grants: dict[str, Capabilities] = {}
    elsewhere: dict[str, dict[str, Capabilities]] = {}
    wide: list[str] = []
    for namespace, mount, path in _places(config):
        below = _below(home, namespace)
        if below is None:
            notes.append(
                f'namespace "{namespace}" is not below that of the login: the rights for it are printed as a comment, '
                "for a policy of that namespace"
            )
            elsewhere.setdefault(namespace, {}).update(_grants_on(mount, path, observe=observe))
            continue
        grants |= _grants_on(f"{below}{mount}", path, observe=observe)
        if below:
            # A token is asked what it may do in the namespace that it is to write to; no policy `default` covers that.
            grants[f"{below}sys/capabilities-self"] = ("update",)
        if path[0] in "+*":
            wide.append(
                f"a path begins with a placeholder, so this policy reaches {_reach(path)} of the mount {below}{mount}, "
                f"whosesoever they are; begin the path with a word, such as aws/"
            )
        if (below, mount) == ("", config.vault.mount) and _covers(path, mark):
            # What is spelled out counts before a pattern: the mark is written, and never destroyed.
            grants[f"{mount}/destroy/{mark}"] = ("deny",)
    grants[f"{config.vault.mount}/data/{mark}"] = ("read",) if observe else ("create", "read", "update")
    grants[f"{config.vault.mount}/metadata/{mark}"] = ("read",)
    if observe:
        notes.append('fleet.mode is "observe": this policy only reads')
    wide = list(dict.fromkeys(f"WARNING: {told}" for told in wide))
    lines = [f"# {told}" for told in wide]
    lines += [_stanza(path, capabilities) for path, capabilities in (*grants.items(), *_SELF)]
    for namespace, there in elsewhere.items():
        lines.append(f"# in a policy of namespace {json.dumps(namespace)}:")
        lines += [f"# {_stanza(path, capabilities)}" for path, capabilities in there.items()]
    return Printed(document="\n".join(lines) + "\n", notes=(*wide, *dict.fromkeys(notes)))


def _grants_on(mount: str, path: str, *, observe: bool) -> dict[str, Capabilities]:
    data, metadata, destroy = (f"{mount}/{kind}/{path}" for kind in ("data", "metadata", "destroy"))
    if observe:
        return {data: ("read",), metadata: ("read",)}
    return {
        data: ("create", "read", "update"),
        metadata: ("create", "read", "update", "patch"),
        destroy: ("update",),
    }


def _reach(pattern: str) -> str:
    return "all secrets" if pattern.startswith("*") else f"all secrets at {pattern}"


def _covers(pattern: str, path: str) -> bool:
    wanted = "/".join("[^/]+" if segment == "+" else re.escape(segment) for segment in pattern.split("/"))
    return re.fullmatch(wanted.removesuffix(r"\*") + (".*" if pattern.endswith("*") else ""), path) is not None


def _places(config: Config) -> Iterator[tuple[str, str, str]]:
    """Namespace, mount and path of every place where pairs can lie, as patterns."""
    vault = config.vault
    seen = set()
    for policy in config.policies:
        place = (
            policy.namespace or vault.namespace or "",
            policy.mount or vault.mount,
            policy.path or vault.path,
        )
        accounts = policy.match.accounts or tuple(account.id for account in config.aws.accounts)
        for pattern in _patterns(place[2], accounts):
            found = (place[0], place[1], pattern)
            if found not in seen:
                seen.add(found)
                yield found


def _patterns(template: str, accounts: tuple[str, ...]) -> list[str]:
    """`aws/{account_id}/{user_name}` as `aws/111122223333/+`; without known accounts `aws/+/+`."""
    choices: list[list[str]] = []
    for segment in template.split("/"):
        if segment == "{account_id}" and accounts:
            choices.append(list(dict.fromkeys(accounts)))
        elif segment == "{user_path}":
            # Any number of segments, none included: everything from here on.
            choices.append(["*"])
            break
        elif "{" in segment:
            choices.append(["+"])
        else:
            choices.append([segment])
    return ["/".join(segments) for segments in itertools.product(*choices)]


def _below(home: str, namespace: str) -> str | None:
    """How the paths of a namespace are spelled in a policy of `home`; None: it is not below it."""
    if namespace == home:
        return ""
    if not home:
        return f"{namespace}/"
    return f"{namespace.removeprefix(f'{home}/')}/" if namespace.startswith(f"{home}/") else None


def _stanza(path: str, capabilities: Capabilities) -> str:
    # The configuration lets no other signs into a path; a policy is worth a second look.
    if not re.fullmatch(r"[\w.@=,:+*/-]+", path, re.ASCII):
        raise ValueError(f"{path!r} cannot stand in a Vault policy")
    return f"path {json.dumps(path)} {{ capabilities = {json.dumps(list(capabilities))} }}"
