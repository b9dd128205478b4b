"""The stage of the demo: an AWS and an OpenBao on loopback, the users in them, and rekeyd's configuration.

Everything lies in one folder. Its `credentials/` is what an operator would give to
rekeyd and to the consumers (AWS credentials, an external id, an AppRole's secret id,
a token); no pair of any rotated user is ever in a file.
"""

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

from rekeyd.demo.cast import AWAY, CAST, COPIED, HOME, Actor, Start
from rekeyd.demo.emulator import Delays, EmulatedAws, SeededKey
from rekeyd.demo.openbao import OpenBaoServer
from rekeyd.demo.ports import free_port

# Where the job that clings to an old key keeps its copy: a place that rekeyd does not know.
COPY_PATH = f"copies/{COPIED.name}"

_MOUNT = "secret"

# A slow world, so that there is something to see and to wait for, but one whose minutes are seconds.
_DELAYS = Delays(
    propagation=timedelta(seconds=1.5),
    revocation=timedelta(seconds=0.8),
    list_lag=timedelta(seconds=0.4),
    last_used_lag=timedelta(seconds=0.5),
    cloudtrail_lag=timedelta(seconds=5),
    report_build=timedelta(seconds=0.3),
    report_lifetime=timedelta(seconds=3),
)

_CONSUMER_POLICY = f"""
path "{_MOUNT}/data/aws/*" {{ capabilities = ["read"] }}
path "{_MOUNT}/data/copies/*" {{ capabilities = ["read"] }}
"""

# The life cycle of a key in seconds; its age stays as it is in life, so that nothing falls due a second time.
_CONFIG = """\
[fleet]
mode = "enforce"
max_parallel = 8
max_rotations_per_hour = 100
brake_retry = "10s"
stop_timeout = "15s"

[aws]
region = "us-east-1"
endpoint_url = "{aws}"
settle = "1s"

[[aws.accounts]]
id = "{home}"

[[aws.accounts]]
id = "{away}"
role_arn = "{role}"
external_id_file = "credentials/external-id"

[vault]
address = "{vault}"

[vault.auth]
method = "approle"
role_id = "{role_id}"
secret_id_file = "credentials/vault-secret-id"

[[policies]]
name = "managed"
match = {{ tags = {{ key-rotation = "managed" }} }}
exclude = {{ users = ["break-glass-*"] }}
{clocks}

[[policies]]
name = "at-once"
match = {{ tags = {{ key-rotation = "at-once" }} }}
adopt = "at-once"
{clocks}

[orphans]
attribution = "cloudtrail"
wait = "20s"
quarantine = "5s"

[scan]
every = "2s"
drift_every = "4s"

[root]
check_every = "2s"

[alarms]
repeat_every = "15s"

[journal]
url = "sqlite:///{journal}"
instance = "demo"

[http]
listen = "127.0.0.1:{port}"
"""
_CLOCKS = """\
max_age = "90d"
overlap = "12s"
quarantine = "8s"
unused_for = "5s"
verify_first = "0.3s"
verify_probes = 3
verify_spacing = "0.2s"
verify_timeout = "20s"
publish_timeout = "10s"
max_hold = "5m"
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    aws: EmulatedAws
    bao: OpenBaoServer
    folder: Path
    http_port: int
    seeded: dict[str, tuple[SeededKey, ...]] = field(default_factory=dict, repr=False)
    """By user: the keys at the beginning, the held one first."""
    logins: list[str] = field(default_factory=list, repr=False)
    """Tokens and ids that the credentials folder holds, to search for elsewhere."""

    @property
    def config(self) -> Path:
        return self.folder / "config.toml"

    @property
    def credentials(self) -> Path:
        return self.folder / "credentials"

    @property
    def logs(self) -> Path:
        return self.folder / "logs"

    @property
    def journal(self) -> Path:
        return self.folder / "journal" / "journal.db"

    @property
    def environment(self) -> dict[str, str]:
        """Of every process of the demo; nothing in it is secret."""
        kept = {name: os.environ[name] for name in ("REKEYD_STRICT_EVENTS",) if name in os.environ}
        return {
            "HOME": str(self.folder),
            "PATH": os.defpath,
            "LANG": "C.UTF-8",
            "REKEYD_CONFIG": str(self.config),
            "AWS_SHARED_CREDENTIALS_FILE": str(self.credentials / "aws"),
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_EC2_METADATA_DISABLED": "true",
        } | kept

    def first_key_of(self, actor: Actor) -> str:
        """The access key ID that the user had at the beginning."""
        return self.seeded[actor.name][0].access_key_id

    def grant(self, policy: str) -> None:
        """Gives rekeyd's AppRole what this Vault policy says, and nothing else."""
        self.bao.write_policy("rekeyd", policy)


@contextmanager
def built(aws: EmulatedAws, bao: OpenBaoServer, folder: Path) -> Iterator[Stage]:
    """Everything but rekeyd's rights in Vault (`grant`): those are printed by rekeyd itself. Both servers run."""
    stage = Stage(aws=aws, bao=bao, folder=folder, http_port=free_port())
    for each in (stage.credentials, stage.logs, stage.journal.parent, folder / "consumers"):
        each.mkdir(mode=0o700, parents=True)
    aws.delays = aws.world.delays = _DELAYS
    _credentials(stage)
    for actor in CAST:
        _seed(stage, actor)
    root = aws.add_root_key(AWAY, last_used_at=aws.clock.now() - timedelta(days=400))
    aws.set_create_date(root.access_key_id, aws.clock.now() - timedelta(days=900))
    yield stage


def _credentials(stage: Stage) -> None:
    aws, bao = stage.aws, stage.bao
    external_id = secrets.token_hex(16)
    role = aws.add_role(AWAY, "rekeyd", external_id=external_id)
    own = aws.daemon_environment(user_name="rekeyd")
    app_role = bao.create_app_role("rekeyd", ["rekeyd"], token_ttl="30m")  # noqa: S106 - a duration
    bao.write_policy("consumer", _CONSUMER_POLICY)
    consumer = bao.create_token(["consumer"], ttl="24h")
    _write_secret(stage.credentials / "external-id", external_id)
    _write_secret(stage.credentials / "vault-secret-id", app_role.secret_id)
    _write_secret(stage.credentials / "consumer-token", consumer)
    _write_secret(
        stage.credentials / "aws",
        f"[default]\naws_access_key_id = {own['AWS_ACCESS_KEY_ID']}\n"
        f"aws_secret_access_key = {own['AWS_SECRET_ACCESS_KEY']}",
    )
    stage.logins.extend((external_id, app_role.secret_id, consumer, own["AWS_SECRET_ACCESS_KEY"], bao.root_token))
    stage.config.write_text(
        _CONFIG.format(
            aws=aws.url,
            vault=bao.address,
            home=HOME,
            away=AWAY,
            role=role,
            role_id=app_role.role_id,
            clocks=_CLOCKS,
            journal=stage.journal,
            port=stage.http_port,
        ),
        encoding="utf-8",
    )


def _seed(stage: Stage, actor: Actor) -> None:
    aws = stage.aws
    tags = {"key-rotation": actor.tag}
    age = None if actor.start is Start.NO_KEY else actor.key_age
    user = aws.create_user(actor.account_id, actor.name, path="/service/", tags=tags, key_age=age)
    stage.seeded[actor.name] = user.keys
    if actor.start is Start.NO_KEY:
        return
    now = aws.clock.now()
    aws.set_last_used(user.key.access_key_id, now - timedelta(minutes=10))
    if actor.start is Start.NOT_IN_VAULT:
        return
    stage.bao.write(actor.vault_path, _pair(user.key))
    match actor.start:
        case Start.STRAY:
            stray = aws.add_key(actor.account_id, actor.name, age=timedelta(days=400))
            aws.set_last_used(stray.access_key_id, now - timedelta(days=2), service="s3", region="eu-west-1")
            stage.seeded[actor.name] = (user.key, stray)
        case Start.DEAD:
            aws.deactivate_key(user.key.access_key_id)
        case Start.SECRET_DELETED:
            with stage.bao.client() as client:
                client.secrets.kv.v2.delete_latest_version_of_secret(actor.vault_path, mount_point=_MOUNT)
        case _:
            pass
    if actor is COPIED:
        stage.bao.write(COPY_PATH, _pair(user.key))


def _pair(key: SeededKey) -> dict[str, object]:
    return {"access_key_id": key.access_key_id, "secret_access_key": key.secret_access_key}


def _write_secret(path: Path, text: str) -> None:
    path.touch(mode=0o600)
    path.write_text(text + "\n", encoding="utf-8")
