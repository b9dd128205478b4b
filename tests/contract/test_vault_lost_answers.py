"""Whatever happens to the answers of Vault, a pair is published exactly once, or rekeyd knows that it does not know."""

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from rekeyd.demo.emulator.faults import Call, Delay, Drop, Effect, HoldBack, Http, LateDuplicate, Throttle, Truncate
from rekeyd.demo.emulator.vault_proxy import Redirect, Sealed, StaleRead, VaultError, VaultProxy
from rekeyd.demo.openbao import OpenBaoServer
from rekeyd.errors import (
    AccessDeniedError,
    ConflictError,
    LeaseLostError,
    OutcomeUnknownError,
    RefusedError,
    StoppingError,
    TemporaryError,
)
from rekeyd.ports import Mark
from tests.contract.vault_stand import NEW, OLD, STRANGE, OpenBaoStand, fields, note, pair, unguarded

pytestmark = pytest.mark.slow

WRITE = "POST kv*/data/*"


@pytest.fixture
def proxy(openbao: OpenBaoServer) -> Iterator[VaultProxy]:
    with VaultProxy(openbao.address) as started:
        yield started


@pytest.fixture
def stand(openbao: OpenBaoServer, proxy: VaultProxy, kv_mount: str, tmp_path: Path) -> Iterator[OpenBaoStand]:
    """A pair is held in version 1; rekeyd reaches the server through the proxy only."""
    made = OpenBaoStand(openbao, kv_mount, tmp_path, address=proxy.address, timeout=1)
    made.put(fields(OLD, owner="payments"))
    yield made
    proxy.clear_faults()
    made.close()


_LOSSES: dict[str, tuple[str, Effect]] = {
    "the request is dropped": ("before", Drop()),
    "the answer is dropped": ("after", Drop()),
    "the answer comes too late": ("after", Delay(3)),
    "the request hangs and is never delivered": ("before", HoldBack()),
    "a balancer says 502 after forwarding": ("after", Http(502, "html")),
    "a balancer says 504 after forwarding": ("after", Http(504, "html")),
    "leadership is lost after the commit": ("after", VaultError(500, ("leadership lost while committing log",))),
    "the audit disk is full after the commit": ("after", VaultError(500, ("internal error",))),
    "Vault is sealed": ("before", Sealed()),
    "the answer is cut": ("after", Truncate()),
    "the answer is cut without a length": ("after", Truncate(announce_length=False)),
    "the answer is a web page": ("after", Http(200, "html")),
    "the answer is empty": ("after", Http(204, "html")),
    "the answer is JSON and not Vault's": ("after", Http(200, "json")),
    "the request arrives after its retry": ("before", LateDuplicate()),
    "a rate limit": ("before", Throttle()),
    "a standby that is behind": ("before", VaultError(412)),
    "a mount that is being made": ("before", VaultError(400, ("Upgrading from non-versioned to versioned data",))),
}


@pytest.mark.parametrize("loss", _LOSSES)
def test_a_write_ends_with_exactly_one_version_although(stand: OpenBaoStand, proxy: VaultProxy, loss: str) -> None:
    when, effect = _LOSSES[loss]
    proxy.fault(WRITE, when=when, do=effect)  # type: ignore[arg-type]  # the table's strings
    assert stand.publish(cas=1) == 2
    assert stand.fields() == fields(NEW, owner="payments")
    assert stand.version() == 2


@pytest.mark.parametrize("loss", _LOSSES)
def test_three_losses_in_a_row_end_with_exactly_one_version_although(
    stand: OpenBaoStand, proxy: VaultProxy, loss: str
) -> None:
    when, effect = _LOSSES[loss]
    proxy.fault(WRITE, when=when, do=effect, times=3)  # type: ignore[arg-type]  # the table's strings
    assert stand.publish(cas=1) == 2
    assert stand.version() == 2


def test_a_request_that_arrives_after_everything_changes_nothing(stand: OpenBaoStand, proxy: VaultProxy) -> None:
    rule = proxy.fault(WRITE, do=HoldBack())
    assert stand.publish(cas=1) == 2
    assert [answer.status for answer in rule.deliver()] == [400]
    assert stand.version() == 2


def test_the_same_body_goes_out_with_the_same_number(stand: OpenBaoStand, proxy: VaultProxy) -> None:
    first = proxy.fault(WRITE, do=HoldBack(), times=2)
    stand.publish(cas=1)
    stand.delete_all()
    stand.put(fields(OLD))
    # Both held requests are still for version 2, with one content: the first lands, the second is refused.
    assert [answer.status for answer in first.deliver()] == [200, 400]
    assert stand.fields() == fields(NEW, owner="payments")


def test_a_lost_write_of_somebody_who_came_first_is_a_conflict(stand: OpenBaoStand, proxy: VaultProxy) -> None:
    proxy.fault(WRITE, do=Call(lambda _: stand.put(fields(STRANGE))))
    proxy.fault(WRITE, when="after", do=Drop())
    with pytest.raises(ConflictError, match="version 2 was written by somebody else"):
        stand.publish(cas=1)
    assert stand.fields() == fields(STRANGE)


def test_a_landed_write_that_somebody_wrote_over_is_still_ours(stand: OpenBaoStand, proxy: VaultProxy) -> None:
    proxy.fault(WRITE, when="after", do=Call(lambda _: stand.put(fields(STRANGE))))
    proxy.fault(WRITE, when="after", do=Drop())
    assert stand.publish(cas=1) == 2
    assert stand.version() == 3


def test_a_landed_write_that_somebody_destroyed_is_unknown(stand: OpenBaoStand, proxy: VaultProxy) -> None:
    proxy.fault(WRITE, when="after", do=Call(lambda _: stand.destroy_current()))
    proxy.fault(WRITE, when="after", do=Drop())
    with pytest.raises(OutcomeUnknownError, match="version 2 is destroyed and may have been ours"):
        stand.publish(cas=1)


def test_numbering_that_restarted_before_the_write_is_a_conflict(stand: OpenBaoStand, proxy: VaultProxy) -> None:
    stand.put(fields(OLD))
    proxy.fault(WRITE, do=Call(lambda _: stand.delete_all()))
    with pytest.raises(ConflictError, match="is at version 0 and not at 2"):
        stand.publish(cas=2)


def test_an_outcome_that_stays_unknown_is_said_so_in_time(stand: OpenBaoStand, proxy: VaultProxy) -> None:
    proxy.fault(WRITE, when="after", do=Drop())
    proxy.fault("*", do=VaultError(500, ("internal error",)), nth=4, forever=True)
    began = stand.clock.now()
    with pytest.raises(OutcomeUnknownError, match="the time for it is over, and whether it was stored is not known"):
        stand.publish(cas=1, seconds=20)
    assert stand.clock.now() - began <= timedelta(seconds=25)
    assert stand.version() == 2


def test_a_write_that_never_left_is_known_not_to_have_happened(stand: OpenBaoStand, proxy: VaultProxy) -> None:
    stand.vault.current(stand.place)
    proxy.fault(WRITE, do=Throttle(), forever=True)
    with pytest.raises(TemporaryError, match="the time for it is over, and nothing was stored"):
        stand.publish(cas=1)
    assert stand.version() == 1


def test_a_stop_in_the_middle_leaves_the_outcome_unknown(stand: OpenBaoStand, proxy: VaultProxy) -> None:
    proxy.fault(WRITE, do=Call(lambda _: stand.clock.stop()))
    proxy.fault(WRITE, do=HoldBack(), forever=True)
    with pytest.raises(OutcomeUnknownError, match="rekeyd is stopping") as caught:
        stand.publish(cas=1)
    assert isinstance(caught.value.__cause__, StoppingError)


def test_a_stop_before_anything_was_sent_is_just_a_stop(stand: OpenBaoStand, proxy: VaultProxy) -> None:
    proxy.fault(WRITE, do=Call(lambda _: stand.clock.stop()))
    proxy.fault(WRITE, do=Throttle(), forever=True)
    with pytest.raises(StoppingError, match="asked to stop"):
        stand.publish(cas=1)


def test_the_guard_is_asked_before_each_sending(stand: OpenBaoStand, proxy: VaultProxy) -> None:
    proxy.fault(WRITE, do=HoldBack(), times=2)
    asked: list[int] = []

    def guard() -> None:
        asked.append(len(proxy.calls(WRITE)))
        if len(asked) == 3:
            raise LeaseLostError("somebody else holds the account")

    with pytest.raises(LeaseLostError, match="somebody else"):
        stand.vault.publish(stand.place, pair(NEW), cas=1, extra={}, guard=guard, give_up_at=stand.clock.in_time())
    assert asked == [0, 1, 2], "once before each request, never after one was under way"
    assert len(proxy.calls(WRITE)) == 2


def test_a_permission_that_is_taken_away_after_a_lost_answer_proves_nothing(
    stand: OpenBaoStand, proxy: VaultProxy
) -> None:
    proxy.fault(WRITE, do=HoldBack())
    proxy.fault(WRITE, do=VaultError(403, ("permission denied",)), nth=2, forever=True)
    with pytest.raises(OutcomeUnknownError, match="no permission"):
        stand.publish(cas=1)


def test_a_refused_permission_is_a_refusal_at_once(stand: OpenBaoStand, proxy: VaultProxy) -> None:
    proxy.fault(WRITE, do=VaultError(403, ("permission denied",)), forever=True)
    with pytest.raises(AccessDeniedError, match="no permission in Vault at http://127"):
        stand.publish(cas=1)
    assert stand.version() == 1


def test_a_redirect_is_never_followed(stand: OpenBaoStand, proxy: VaultProxy, openbao: OpenBaoServer) -> None:
    with VaultProxy(openbao.address) as elsewhere:
        for status in (301, 302, 303, 307, 308):
            proxy.clear_faults()
            proxy.fault(WRITE, do=Redirect(elsewhere.address, status=status), forever=True)
            # 307 and 308 are a standby's that has just lost its leader: those pass.
            kind = TemporaryError if status in {307, 308} else RefusedError
            with pytest.raises(kind, match=rf"redirect \({status}\), which is never followed") as caught:
                stand.publish(cas=1, seconds=2)
            assert caught.value.hint is not None
            assert "vault.address" in caught.value.hint
        assert elsewhere.requests == []
    assert stand.version() == 1


def test_a_stale_standby_does_not_hide_the_version_that_was_written(stand: OpenBaoStand, proxy: VaultProxy) -> None:
    proxy.fault("GET kv*/data/*", do=StaleRead(), nth=2, times=3)
    proxy.fault(WRITE, when="after", do=Drop())
    assert stand.publish(cas=1) == 2
    assert stand.version() == 2


def test_reads_ride_out_a_short_trouble(stand: OpenBaoStand, proxy: VaultProxy) -> None:
    before = stand.vault.current(stand.place)
    for effect in (Drop(), Http(502), VaultError(429), VaultError(412), VaultError(473), Sealed(), Truncate()):
        proxy.fault("GET kv*/data/*", do=effect, times=2)
        assert stand.vault.current(stand.place) == before
        proxy.clear_faults()


def test_an_election_before_the_write_does_not_give_the_key_up(stand: OpenBaoStand, proxy: VaultProxy) -> None:
    proxy.fault("GET *", do=Sealed(), times=25)
    assert stand.publish(cas=1) == 2


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_lost_burn_moves_the_version_once(stand: OpenBaoStand, proxy: VaultProxy, when: str) -> None:
    proxy.fault(WRITE, when=when, do=Drop())  # type: ignore[arg-type]  # the parameters above
    assert stand.vault.burn(stand.place, cas=1, guard=unguarded) == 2
    assert (stand.version(), stand.fields()) == (2, fields(OLD, owner="payments"))


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_lost_mark_is_raised_once(stand: OpenBaoStand, proxy: VaultProxy, when: str) -> None:
    proxy.fault(WRITE, when=when, do=Drop())  # type: ignore[arg-type]  # the parameters above
    assert stand.vault.write_mark(Mark(version=0, instance="a", incarnation="b", seq=1, event_hash="c")) == 1
    assert stand.vault.read_mark() == Mark(version=1, instance="a", incarnation="b", seq=1, event_hash="c")


def test_a_lost_note_and_a_lost_destruction_are_repeated(stand: OpenBaoStand, proxy: VaultProxy) -> None:
    stand.publish(cas=1)
    proxy.fault("PATCH *", when="after", do=Drop())
    proxy.fault("POST kv*/destroy/*", when="after", do=Drop())
    stand.vault.write_note(stand.place, note(2))
    stand.vault.destroy(stand.place, [1])
    assert stand.fields(1) is None
    assert stand.vault.read_pair(stand.place, 2) is not None


def test_a_destruction_whose_answers_are_all_lost_is_unknown(stand: OpenBaoStand, proxy: VaultProxy) -> None:
    proxy.fault("POST kv*/destroy/*", do=Drop(), forever=True)
    with pytest.raises(OutcomeUnknownError, match="no answer"):
        stand.vault.destroy(stand.place, [1])
