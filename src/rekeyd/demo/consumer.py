"""A consumer of rotated keys: reads the pair from Vault and uses it, again and again.

    python -m rekeyd.demo.consumer --vault-addr URL --token-file FILE \
        --path secret/data/aws/1/svc --sts-endpoint URL --status FILE --failures FILE

It stands for every program that rekeyd must never hurt (promise P1), so it knows
nothing of rekeyd. Each path is read and used on its own thread:

    failure       STS refused the pair that Vault served just now
    disturbance   Vault or STS could not be asked (down, throttled, cut off): a kept
                  pair is tried all the same, but nobody is blamed if it is refused

Counters go to the status file (replaced atomically), one JSON line per failure to
the failures file. SIGTERM ends it with final counters; neither secret nor token is ever written.
"""

import argparse
import http.client
import json
import signal
import sys
import threading
import time
import urllib.error
import urllib.request
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType

from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

_TIMEOUT_SECONDS = 10.0
_BODY = b"Action=GetCallerIdentity&Version=2011-06-15"
# Answers that say nothing about the pair.
_NOT_ABOUT_THE_PAIR = frozenset({"Throttling", "ThrottlingException", "RequestLimitExceeded", "ServiceUnavailable"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Arguments:
    vault_addr: str
    token_file: Path
    paths: tuple[str, ...]
    sts_endpoint: str
    region: str
    interval: float
    """Seconds between the end of one use and the next read."""
    status: Path
    failures: Path
    id_field: str
    secret_field: str


@dataclass(slots=True, kw_only=True)
class Counters:
    """What one path has seen."""

    calls: int = 0
    """Answers of STS about the pair."""
    failures: int = 0
    disturbances: int = 0
    absent: int = 0
    """Reads that found no pair."""
    key_ids: list[str] = field(default_factory=list)
    """Distinct, in order of appearance."""
    versions: list[int] = field(default_factory=list)
    arns: list[str] = field(default_factory=list)
    last_error: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    access_key_id: str
    secret_access_key: str = field(repr=False)
    version: int | None


class Consumer:
    """All paths of one process; counters are read while they run."""

    def __init__(self, arguments: Arguments) -> None:
        self._arguments = arguments
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self.counters = {path: Counters() for path in arguments.paths}
        # Neither proxies nor .netrc of this machine.
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    def stop(self) -> None:
        self._stop.set()

    def run(self) -> None:
        """Until stopped; writes the status four times a second at most, and at the end."""
        threads = [threading.Thread(target=self._consume, args=(path,), daemon=True) for path in self.counters]
        for thread in threads:
            thread.start()
        while not self._stop.wait(min(max(self._arguments.interval, 0.05), 0.25)):
            self._write_status(done=False)
        for thread in threads:
            thread.join(timeout=2 * _TIMEOUT_SECONDS)
        self._write_status(done=True)

    def _consume(self, path: str) -> None:
        pair: Pair | None = None
        while not self._stop.is_set():
            read_at = time.monotonic()
            try:
                pair, fresh = self._read(path), True
            except (OSError, http.client.HTTPException, ValueError) as error:
                fresh = False
                self._disturbed(path, f"vault: {type(error).__name__}")
            if pair is not None:
                self._use(path, pair, read_at if fresh else None)
            self._stop.wait(self._arguments.interval)

    def _read(self, path: str) -> Pair | None:
        """None: nothing there, or no pair in it."""
        # A token file is replaced while we run.
        token = self._arguments.token_file.read_text(encoding="utf-8").strip()
        url = f"{self._arguments.vault_addr.rstrip('/')}/v1/{path}"
        request = urllib.request.Request(url, headers={"X-Vault-Token": token, "X-Vault-Request": "true"})  # noqa: S310
        try:
            with self._opener.open(request, timeout=_TIMEOUT_SECONDS) as response:
                document = json.load(response)
        except urllib.error.HTTPError as error:
            with error:
                if error.code != 404:
                    raise
            document = {}
        return self._pair(path, document)

    def _pair(self, path: str, document: object) -> Pair | None:
        data = document.get("data") if isinstance(document, dict) else None
        version = None
        if isinstance(data, dict) and isinstance(data.get("metadata"), dict):
            version = data["metadata"].get("version")
            data = data.get("data")
        access_key_id = data.get(self._arguments.id_field) if isinstance(data, dict) else None
        secret = data.get(self._arguments.secret_field) if isinstance(data, dict) else None
        counters = self.counters[path]
        if not access_key_id or not secret:
            with self._lock:
                counters.absent += 1
            return None
        with self._lock:
            if access_key_id not in counters.key_ids:
                counters.key_ids.append(access_key_id)
            if version is not None and version not in counters.versions:
                counters.versions.append(version)
        return Pair(access_key_id=access_key_id, secret_access_key=secret, version=version)

    def _use(self, path: str, pair: Pair, read_at: float | None) -> None:
        """`read_at`: when the read of this pair began (monotonic); None: it is an older one."""
        try:
            status, text = self._ask_sts(pair)
        except (OSError, http.client.HTTPException) as error:
            self._disturbed(path, f"sts: {type(error).__name__}")
            return
        found = _texts(text)
        counters = self.counters[path]
        if status == 200 and "Arn" in found:
            with self._lock:
                counters.calls += 1
                if found["Arn"] not in counters.arns:
                    counters.arns.append(found["Arn"])
            return
        code = found.get("Code", str(status))
        if read_at is None or status == 200 or status >= 500 or code in _NOT_ABOUT_THE_PAIR:
            self._disturbed(path, f"sts: {code}")
            return
        self._failed(path, pair, code, time.monotonic() - read_at)

    def _ask_sts(self, pair: Pair) -> tuple[int, str]:
        url = self._arguments.sts_endpoint.rstrip("/") + "/"
        signed = AWSRequest(
            method="POST",
            url=url,
            data=_BODY,
            headers={"Content-Type": "application/x-www-form-urlencoded; charset=utf-8"},
        )
        credentials = Credentials(pair.access_key_id, pair.secret_access_key)
        SigV4Auth(credentials, "sts", self._arguments.region).add_auth(signed)
        request = urllib.request.Request(  # noqa: S310
            url, data=_BODY, headers=dict(signed.headers.items()) | {"User-Agent": "consumer"}, method="POST"
        )
        try:
            with self._opener.open(request, timeout=_TIMEOUT_SECONDS) as response:
                return response.status, response.read().decode("utf-8", "replace")
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode("utf-8", "replace")

    def _failed(self, path: str, pair: Pair, code: str, seconds_since_read: float) -> None:
        line = {
            "at": datetime.now(UTC).isoformat(),  # noqa: TID251 (a stranger to rekeyd's clock)
            "path": path,
            "access_key_id": pair.access_key_id,
            "vault_version": pair.version,
            "code": code,
            "seconds_since_read": round(seconds_since_read, 3),
        }
        with self._lock:
            self.counters[path].calls += 1
            self.counters[path].failures += 1
            self.counters[path].last_error = code
            with self._arguments.failures.open("a", encoding="utf-8") as failures:
                failures.write(json.dumps(line) + "\n")

    def _disturbed(self, path: str, what: str) -> None:
        with self._lock:
            self.counters[path].disturbances += 1
            self.counters[path].last_error = what

    def _write_status(self, *, done: bool) -> None:
        with self._lock:
            each = {path: _document(counters) for path, counters in self.counters.items()}
            every = self.counters.values()
            document = {
                "done": done,
                "calls": sum(counters.calls for counters in every),
                "failures": sum(counters.failures for counters in every),
                "disturbances": sum(counters.disturbances for counters in every),
                "paths": each,
            }
        draft = self._arguments.status.with_name(self._arguments.status.name + ".new")
        draft.write_text(json.dumps(document), encoding="utf-8")
        draft.replace(self._arguments.status)


def parse(argv: Sequence[str]) -> Arguments:
    described = (__doc__ or "").partition("\n")[0]
    parser = argparse.ArgumentParser(prog="python -m rekeyd.demo.consumer", description=described)
    parser.add_argument("--vault-addr", required=True)
    parser.add_argument("--token-file", required=True, type=Path)
    parser.add_argument("--path", required=True, action="append", help="below /v1/, such as secret/data/aws/1/svc")
    parser.add_argument("--sts-endpoint", required=True)
    parser.add_argument("--region", default="us-east-1")
    parser.add_argument("--interval", type=float, default=0.2, help="seconds")
    parser.add_argument("--status", required=True, type=Path)
    parser.add_argument("--failures", required=True, type=Path)
    parser.add_argument("--id-field", default="access_key_id")
    parser.add_argument("--secret-field", default="secret_access_key")
    given = parser.parse_args(argv)
    return Arguments(
        vault_addr=given.vault_addr,
        token_file=given.token_file,
        paths=tuple(given.path),
        sts_endpoint=given.sts_endpoint,
        region=given.region,
        interval=given.interval,
        status=given.status,
        failures=given.failures,
        id_field=given.id_field,
        secret_field=given.secret_field,
    )


def main(argv: Sequence[str]) -> int:
    consumer = Consumer(parse(argv))

    def finish(signum: int, frame: FrameType | None) -> None:  # noqa: ARG001
        consumer.stop()

    signal.signal(signal.SIGTERM, finish)
    signal.signal(signal.SIGINT, finish)
    consumer.run()
    return 0


def _document(counters: Counters) -> dict[str, object]:
    return {
        "calls": counters.calls,
        "failures": counters.failures,
        "disturbances": counters.disturbances,
        "absent": counters.absent,
        "key_ids": counters.key_ids,
        "versions": counters.versions,
        "arns": counters.arns,
        "last_error": counters.last_error,
    }


def _texts(document: str) -> dict[str, str]:
    """Text of each element by local name; empty for what is not XML."""
    try:
        # Only answers of the emulated AWS are read here.
        root = ET.fromstring(document)  # noqa: S314
    except ET.ParseError:
        return {}
    return {element.tag.rpartition("}")[2]: element.text or "" for element in root.iter()}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
