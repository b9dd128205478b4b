"""An AWS on loopback: moto behind a layer that has what moto lacks.

    with EmulatedAws(propagation=timedelta(seconds=5)) as aws:
        aws.create_user("111122223333", "svc", key_age=timedelta(days=100))
        subprocess.run([...], env=aws.daemon_environment())

Without arguments it is a world without delays whose clock is the machine's.
moto's backends are global, so one process holds one EmulatedAws at a time.
"""

import threading
import weakref
from collections.abc import Callable, Mapping
from datetime import timedelta
from functools import cache
from typing import Any, ClassVar

from werkzeug.http import http_date

from rekeyd.demo.emulator.api import ApiCall, Result
from rekeyd.demo.emulator.clock import WorldClock
from rekeyd.demo.emulator.faults import Answer, SeenRequest
from rekeyd.demo.emulator.gate import Gate
from rekeyd.demo.emulator.health import Health
from rekeyd.demo.emulator.iam import Iam
from rekeyd.demo.emulator.organization import Organizations
from rekeyd.demo.emulator.report import Reports
from rekeyd.demo.emulator.seeding import Seeding
from rekeyd.demo.emulator.serving import FaultyServer, Received
from rekeyd.demo.emulator.sts import Sts
from rekeyd.demo.emulator.trail import Trail
from rekeyd.demo.emulator.wire import (
    JSON_SERVICES,
    AwsError,
    Signed,
    error_answer,
    json_answer,
    parse,
    xml_answer,
)
from rekeyd.demo.emulator.world import Caller, Delays, World

# Account of the daemon's own credentials, unless told otherwise.
HUB = "111122223333"


# As moto has them.
_OF_MOTO = frozenset({"sns", "sqs"})


class EmulatedAws(Seeding, FaultyServer):
    """IAM, STS, topics and queues, and as much of CloudTrail, Health and Organizations as a rotation needs."""

    _alive: ClassVar[weakref.ref["EmulatedAws"] | None] = None
    _sessions_lock: ClassVar[threading.Lock] = threading.Lock()

    def __init__(
        self,
        *,
        clock: WorldClock | None = None,
        delays: Delays | None = None,
        propagation: timedelta = timedelta(0),
        revocation: timedelta = timedelta(0),
        hub: str = HUB,
        region: str = "us-east-1",
        page_size: int | None = None,
        key_quota: int = 2,
        on_secret: Callable[[str], object] | None = None,
    ) -> None:
        """`delays` beats `propagation` and `revocation`; `region` chooses the partition.

        `on_secret` is told every secret access key and session token made.
        `page_size` caps every page of lists. Raises RuntimeError while another one of this process runs.
        """
        super().__init__()
        other = EmulatedAws._alive() if EmulatedAws._alive is not None else None
        if other is not None:
            raise RuntimeError("another EmulatedAws of this process has not been stopped")
        EmulatedAws._alive = weakref.ref(self)
        self.clock = clock or WorldClock()
        self.delays = delays or Delays(propagation=propagation, revocation=revocation)
        self.hub = hub
        self.region = region
        self.world = World(clock=self.clock, delays=self.delays, region=region, on_secret=on_secret)
        self.gate = Gate(self.world)
        self._reports = Reports(self.world)
        self._trail = Trail(self.world)
        self._iam = Iam(self.world, self._reports, self._trail, page_size=page_size, key_quota=key_quota)
        self._sts = Sts(self.world, self._trail)
        self._organizations = Organizations(self.world, page_size=page_size)
        self._health = Health(self.world, page_size=page_size)
        self._moto: Any = None

    def stop(self) -> None:
        super().stop()
        EmulatedAws._alive = None

    # -- clients

    def daemon_environment(self, *, user_name: str = "rekeyd", as_role: bool = False) -> dict[str, str]:
        """Environment variables with which a process speaks to this AWS and to nothing of its user's own.

        Credentials are those of an IAM user of the hub (made if it is not there), or of a role session.
        """
        if as_role:
            session = self.open_admin_session(self.hub, name=user_name)
            pair = (session.access_key_id, session.secret_access_key)
            extra = {"AWS_SESSION_TOKEN": session.token}
        else:
            if self.world.find_user(self.hub, user_name) is None:
                self.create_user(self.hub, user_name, key_age=timedelta(days=1), admin=True)
            key = self.world.keys[self.keys(self.hub, user_name)[0].access_key_id]
            pair, extra = (key.id, key.secret_access_key), {}
        return {
            "AWS_ACCESS_KEY_ID": pair[0],
            "AWS_SECRET_ACCESS_KEY": pair[1],
            "AWS_ENDPOINT_URL": self.url,
            "AWS_REGION": self.region,
            "AWS_DEFAULT_REGION": self.region,
            "AWS_CONFIG_FILE": "/dev/null",
            "AWS_SHARED_CREDENTIALS_FILE": "/dev/null",
            "AWS_EC2_METADATA_DISABLED": "true",
        } | extra

    def client(self, service: str, account_id: str | None = None, *, region: str | None = None) -> Any:
        """A boto3 client that may do everything in an account (None: the hub): the "other hand" of tests.

        Never retries.
        """
        session = self.open_admin_session(account_id or self.hub)
        return self.client_with(
            service, session.access_key_id, session.secret_access_key, token=session.token, region=region
        )

    def client_with(
        self,
        service: str,
        access_key_id: str,
        secret_access_key: str,
        *,
        token: str | None = None,
        region: str | None = None,
    ) -> Any:
        """A boto3 client with this pair. Never retries."""
        from botocore.config import Config

        # One session for all: each one would read the service models again (0.2 s).
        with EmulatedAws._sessions_lock:
            return _session().client(
                service,
                endpoint_url=self.url,
                region_name=region or self.region,
                aws_access_key_id=access_key_id,
                aws_secret_access_key=secret_access_key,
                aws_session_token=token,
                config=Config(retries={"total_max_attempts": 1, "mode": "standard"}, read_timeout=10),
            )

    # -- one request

    def read(self, received: Received, seq: int) -> SeenRequest:
        signed = parse(received)
        params = signed.params
        with self.world.lock:
            signer = self.world.keys.get(signed.access_key_id or "")
            session = self.world.sessions.get(signed.access_key_id or "")
            meant = self.world.keys.get(str(params.get("AccessKeyId")))
        user_name = params.get("UserName") or next((key.user_name for key in (meant, signer) if key), None)
        return SeenRequest(
            seq=seq,
            at=self.clock.now(),
            service=signed.service,
            op=signed.action,
            method=received.method,
            path=received.path,
            account_id=next((each.account_id for each in (signer, session) if each), None),
            user_name=user_name,
            signed_by=signed.access_key_id,
            access_key_id=params.get("AccessKeyId"),
            region=signed.region,
            user_agent=received.headers.get("user-agent", ""),
        )

    def act(self, received: Received, seen: SeenRequest) -> Answer:
        signed = parse(received)
        try:
            with self.world.lock:
                answered = self._dispatch(received, signed, seen)
            # A long poll of a queue takes seconds, and the world goes on meanwhile.
            answer = answered if isinstance(answered, Answer) else self._ask_moto(received, answered, signed)
        except AwsError as error:
            seen.error = error.code
            answer = error_answer(signed.service, error)
        return _dated(answer, self.clock)

    def render_error(self, seen: SeenRequest, code: str, message: str, status: int | None) -> Answer:
        return _dated(error_answer(seen.service, AwsError(code, message, status)), self.clock)

    def _dispatch(self, received: Received, signed: Signed, seen: SeenRequest) -> Answer | Caller:
        """The caller: let in, and moto has the answer without anything of this world."""
        self.gate.throttle(seen.account_id, signed.service, signed.action)
        caller = self.gate.authenticate(received, signed)
        self.gate.authorize(caller, signed.service, signed.action, seen.user_name)
        call = ApiCall(
            service=signed.service,
            action=signed.action,
            params=signed.params,
            caller=caller,
            region=signed.region or self.region,
            user_agent=seen.user_agent,
        )
        if call.service in _OF_MOTO:
            return caller
        handler = self._handler(call)
        if handler is None:
            return self._ask_moto(received, caller, signed)
        try:
            result = handler(call)
        except ValueError as error:
            raise AwsError("ValidationError", "a parameter has the wrong form") from error
        _note_created_key(seen, result)
        if signed.service in JSON_SERVICES:
            return json_answer(result or {})
        return xml_answer(signed.service, signed.action, result)

    def _handler(self, call: ApiCall) -> Callable[[ApiCall], Result] | None:
        match call.service:
            case "iam":
                return self._iam.handler(call)
            case "sts":
                return self._sts.actions.get(call.action, _unknown_action)
            case "cloudtrail":
                return self._trail.lookup if call.action == "LookupEvents" else _unknown_action
            case "organizations":
                return self._organizations.actions.get(call.action, _unknown_action)
            case "health":
                return self._health.actions.get(call.action, _unknown_action)
            case _:
                return _unknown_action

    def _ask_moto(self, received: Received, caller: Caller, signed: Signed) -> Answer:
        from werkzeug.test import EnvironBuilder, run_wsgi_app

        if self._moto is None:
            from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app

            self._moto = DomainDispatcherApplication(create_backend_app)
        self.world.load_policy(caller.account_id, str(signed.params.get("PolicyArn")))
        # moto takes the account from this header and so needs to know no session.
        headers = [*received.headers.items(), ("x-moto-account-id", caller.account_id)]
        builder = EnvironBuilder(
            method=received.method,
            path=received.path,
            query_string=received.query,
            headers=headers,
            data=received.body,
            base_url=self.url,
        )
        chunks, status, answered = run_wsgi_app(self._moto, builder.get_environ(), buffered=True)
        code = int(status.split()[0])
        if code >= 500:
            raise AwsError("InvalidAction", f"{signed.action} is not emulated", 400)
        kept = tuple((name, value) for name, value in answered if name.lower() == "content-type")
        return Answer(status=code, headers=kept, body=b"".join(chunks))


@cache
def _session() -> Any:
    import boto3

    return boto3.Session()


def _unknown_action(call: ApiCall) -> Result:
    raise AwsError("InvalidAction", f"Could not find operation {call.action}")


def _note_created_key(seen: SeenRequest, result: Result) -> None:
    if seen.op != "CreateAccessKey" or result is None:
        return
    made = result["AccessKey"]
    if isinstance(made, Mapping):
        seen.created_access_key_id = str(made["AccessKeyId"])


def _dated(answer: Answer, clock: WorldClock) -> Answer:
    """Clients read AWS's time from the Date header."""
    headers = (*answer.headers, ("Date", http_date(clock.now())))
    return Answer(status=answer.status, headers=headers, body=answer.body)
