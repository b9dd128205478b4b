"""`python -m rekeyd.demo.emulator` from a seed."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import boto3
import pytest

pytestmark = pytest.mark.slow


def test_a_seeded_emulator_runs_until_it_is_told_to_end(tmp_path: Path) -> None:
    seed = [
        {"account": "111122223333", "name": "svc", "path": "/apps/", "tags": {"a": "b"}, "key_age_days": 100},
        {"account": "111122223333", "root": True},
    ]
    (tmp_path / "seed.json").write_text(json.dumps(seed))
    process = subprocess.Popen(
        [sys.executable, "-m", "rekeyd.demo.emulator", str(tmp_path / "seed.json")], stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    said = json.loads(process.stdout.readline())
    iam = boto3.client(
        "iam",
        endpoint_url=said["url"],
        region_name="us-east-1",
        aws_access_key_id=said["environment"]["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=said["environment"]["AWS_SECRET_ACCESS_KEY"],
    )
    assert [user["UserName"] for user in iam.list_users()["Users"]] == ["rekeyd", "svc"]
    assert iam.get_account_summary()["SummaryMap"]["AccountAccessKeysPresent"] == 1
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=30)
    assert process.returncode == 0
