"""`rekeyd demo`: the whole life of access keys on this machine, in about a minute.

An emulated AWS with two accounts and a real OpenBao, both on loopback; the real
daemon and commands as processes; a program for every user that uses its pair all
the time. Exit 0 only if everything ended as it must. Whatever happens, no process
and no file is left, unless the reader asks for it (`--keep`).
"""

import json
import shlex
import shutil
import signal
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from rekeyd.demo import verdict
from rekeyd.demo.emulator import EmulatedAws
from rekeyd.demo.openbao import OpenBaoServer
from rekeyd.demo.processes import Processes
from rekeyd.demo.screen import Screen, screen_for
from rekeyd.demo.stage import Stage, built
from rekeyd.demo.story import LIMIT_SECONDS, DemoError, Story, consumer_names, status_file
from rekeyd.demo.verdict import Check, Summary
from rekeyd.demo.watch import Watch

_LOG_TAIL_LINES = 15


@dataclass(frozen=True, slots=True, kw_only=True)
class _Telling:
    """How the demo was asked for."""

    keep: bool
    as_json: bool
    limit_seconds: float
    on_secret: Callable[[str], object] | None


class _Interrupted(BaseException):
    """SIGINT or SIGTERM. Not an Exception, so that nothing on the way mistakes it for a failure."""


def run(
    *,
    keep: bool = False,
    as_json: bool = False,
    limit_seconds: float = LIMIT_SECONDS,
    on_secret: Callable[[str], object] | None = None,
) -> int:
    """The exit code: 0 as it must be, 1 not so or interrupted. To be called from the main thread.

    `as_json`: the summary as one JSON document. `on_secret` is told every secret that the emulated AWS makes.
    """
    telling = _Telling(keep=keep, as_json=as_json, limit_seconds=limit_seconds, on_secret=on_secret)
    folder = Path(tempfile.mkdtemp(prefix="rekeyd-demo-"))
    try:
        with _signals():
            return _play(folder, telling)
    except _Interrupted:
        sys.stderr.write("interrupted; everything was ended\n")
        return 1
    finally:
        # What was kept to be read needs no credentials: the servers they were for are gone.
        shutil.rmtree(folder / "credentials" if keep else folder, ignore_errors=True)


def _play(folder: Path, telling: _Telling) -> int:
    with ExitStack() as stack:
        aws = stack.enter_context(EmulatedAws(on_secret=telling.on_secret))
        bao = OpenBaoServer()
        stack.callback(bao.stop)
        stage = stack.enter_context(built(aws, bao.start(), folder))
        processes = stack.enter_context(Processes(folder, stage.environment))
        files = {name: status_file(folder, name) for name in consumer_names()}
        with screen_for() as screen, Watch(journal=stage.journal, consumers=files, show=screen.show) as watch:
            story = Story(
                stage=stage, processes=processes, watch=watch, narrator=screen, limit_seconds=telling.limit_seconds
            )
            checks = _told(story, screen)
            if not telling.keep:
                checks += verdict.of_the_daemon_end(_ended(story))
            checks += verdict.of_what_is_left(story)
        summary = _summary(story, checks, keep=telling.keep)
        _print(summary, as_json=telling.as_json)
        if telling.keep:
            _explore(stage)
    return 0 if summary.ok else 1


def _told(story: Story, screen: Screen) -> tuple[Check, ...]:
    try:
        story.stage.grant(_vault_policy(story))
        story.tell()
    except DemoError as error:
        screen.say(f"error: {error}")
        for line in _log_tail(story.stage):
            screen.say(line)
        # All other checks would say the same in more words.
        return (Check(name="the story is told to its end", wrong=str(error)), verdict.users(story))
    return verdict.of_the_live(story)


def _vault_policy(story: Story) -> str:
    """The least that rekeyd needs in Vault, as it says itself."""
    printed = story.rekeyd("policy", "vault")
    if printed.code != 0:
        raise DemoError(f"rekeyd policy vault ended with {printed.code}")
    return printed.out


def _ended(story: Story) -> int | None:
    """The daemon's exit code. It ends first: the consumers see that this hurts nobody."""
    daemon = story.daemon
    if daemon is not None and daemon.poll() is None:
        daemon.terminate()
        daemon.wait(timeout=30)
    story.processes.end()
    return None if daemon is None else daemon.returncode


def _summary(story: Story, checks: tuple[Check, ...], *, keep: bool) -> Summary:
    sight = story.watch.latest
    trail = str(story.stage.journal) if keep else "removed with the demo; `rekeyd demo --keep` keeps it"
    return Summary(
        seconds=story.watch.elapsed(),
        rotated=tuple(verdict.rotated(story)),
        refused=tuple(verdict.refused(sight)),
        consumers=sight.consumers,
        checks=checks,
        audit_trail=trail,
    )


def _print(summary: Summary, *, as_json: bool) -> None:
    if as_json:
        sys.stdout.write(json.dumps(summary.document(), indent=2, ensure_ascii=False) + "\n")
        return
    lines = ["", f"rotations done: {len(summary.rotated)}"]
    lines += [f"  {r.user_name:<18} {r.old_key_id} ({r.old_is}) -> {r.new_key_id}" for r in summary.rotated]
    lines += ["", "left alone, and why:"]
    lines += [f"  {r.user_name:<18} {r.state}: {r.message}" for r in summary.refused]
    lines += ["", "checks:"]
    for check in summary.checks:
        mark, detail = ("ok ", check.detail) if check.wrong is None else ("NOT", check.wrong)
        lines.append(f"  {mark} {check.name}" + (f": {detail}" if detail else ""))
    calls = sum(usage.calls for usage in summary.consumers.values())
    failed = sum(usage.failures for usage in summary.consumers.values())
    lines += ["", f"consumer calls: {calls} made, {failed} failed", f"audit trail: {summary.audit_trail}"]
    lines.append(f"{'all as it must be' if summary.ok else 'NOT as it must be'}, after {summary.seconds:.0f} s")
    sys.stdout.write("\n".join(lines) + "\n")
    sys.stdout.flush()


def _explore(stage: Stage) -> None:
    """Until Ctrl-C or SIGTERM."""
    program = Path(sys.executable).with_name("rekeyd")
    rekeyd = shlex.quote(str(program)) if program.exists() else "rekeyd"
    shown = ("REKEYD_CONFIG", "AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE", "AWS_EC2_METADATA_DISABLED")
    exports = " ".join(f"{name}={shlex.quote(stage.environment[name])}" for name in shown)
    web = f"http://127.0.0.1:{stage.http_port}"
    text = f"""
Everything goes on running until Ctrl-C. To look around from another terminal:

  export {exports}
  {rekeyd} status
  {rekeyd} explain partner-api
  {rekeyd} history --verify
  {rekeyd} audit
  {rekeyd} rotate-now web-frontend
  {rekeyd} rollback web-frontend
  curl -s {web}/metrics | grep ^rekeyd_

  daemon         {web}/readyz, /healthz, /metrics, /api/v1/status
  emulated AWS   {stage.aws.url}
  OpenBao        {stage.bao.address}
  configuration  {stage.config}
  audit trail    {stage.journal}
  logs           {stage.logs}
"""
    sys.stderr.write(text)
    sys.stderr.flush()
    try:
        threading.Event().wait()
    except _Interrupted:
        sys.stderr.write(f"\nended; what was written is in {stage.folder}\n")


def _log_tail(stage: Stage) -> list[str]:
    """The end of what was logged last: the folder may be gone before anybody could read it."""
    logs = sorted(stage.logs.iterdir(), key=lambda file: file.stat().st_mtime)
    return logs[-1].read_text(encoding="utf-8").splitlines()[-_LOG_TAIL_LINES:] if logs else []


@contextmanager
def _signals() -> Iterator[None]:
    """SIGINT and SIGTERM unwind the stack, once; a second one does not disturb the clean-up."""

    def interrupt(signum: int, frame: FrameType | None) -> None:  # noqa: ARG001
        for each in (signal.SIGINT, signal.SIGTERM):
            signal.signal(each, signal.SIG_IGN)
        raise _Interrupted

    before = {each: signal.signal(each, interrupt) for each in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)
