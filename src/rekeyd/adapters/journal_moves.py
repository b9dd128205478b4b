"""Moved secrets: the steps of a move, and the places that were left and are not emptied yet."""

from datetime import datetime

import sqlalchemy as sa

from rekeyd.adapters import journal_schema as t
from rekeyd.adapters.journal_chain import JournalPart, Recorded, append_event
from rekeyd.adapters.journal_leased import LeasedJournal
from rekeyd.adapters.journal_schema import is_user, left_place
from rekeyd.core.model import AccessKeyId, AccountId, Place, Principal, RotationId
from rekeyd.ports import Anchored, LeftPlace

MOVED = RotationId("moved")
"""Stands for the rotation of a pair that rekeyd moved and never published."""


class MoveSteps(LeasedJournal):
    """The writing half of a move."""

    def move_intended(self, principal: Principal, key_id: AccessKeyId, *, to: Place, cas: int, at: datetime) -> None:
        with self._owned() as conn:
            self._record(
                conn,
                Recorded.KEY_MOVE_INTENDED,
                principal,
                at=at,
                access_key_id=key_id,
                detail={"mount": to.mount, "path": to.path, "cas": cas},
            )

    def moved(
        self,
        principal: Principal,
        key_id: AccessKeyId,
        *,
        before: Place,
        to: Place,
        version: int,
        version_created_at: datetime,
        at: datetime,
    ) -> None:
        stands = {
            "key_id": key_id,
            "place": t.place_text(to),
            "version": version,
            "version_created_at": version_created_at,
        }
        with self._owned() as conn:
            moved = sa.update(t.publication).where(is_user(t.publication, principal)).values(stands)
            if not conn.execute(moved).rowcount:
                self._set_managed(conn, principal)
                first = {**t.user_values(principal), **stands, "published_at": at, "rotation_id": MOVED}
                conn.execute(t.insert_of(t.publication), first)
            # Clocks go on: it is the same key, only under another number.
            self._set_anchor(
                conn,
                principal,
                Anchored(access_key_id=key_id, version=version, version_created_at=version_created_at, place=to),
            )
            self._set_principal(conn, principal, proven_version=version)
            for left in conn.execute(sa.select(left_place).where(is_user(left_place, principal))).all():
                if t.place_from(left.place) in (before, to):
                    conn.execute(sa.delete(left_place).where(left_place.c.id == left.id))
            conn.execute(
                sa.insert(left_place).values(
                    account_id=principal.account_id,
                    user_id=principal.user_id,
                    user_name=principal.user_name,
                    place=t.place_text(before),
                    left_at=at,
                )
            )
            self._record(
                conn,
                Recorded.KEY_MOVED,
                principal,
                at=at,
                access_key_id=key_id,
                detail={
                    "version": version,
                    "mount": to.mount,
                    "path": to.path,
                    "from_mount": before.mount,
                    "from_path": before.path,
                    **({} if before.address == to.address else {"from_address": before.address}),
                },
            )


class LeftPlacesPart(JournalPart):
    def left_places(self, account_id: AccountId) -> tuple[LeftPlace, ...]:
        wanted = sa.select(left_place).where(left_place.c.account_id == account_id).order_by(left_place.c.id)
        with self._store.read() as conn:
            return tuple(
                LeftPlace(
                    id=row.id,
                    account_id=row.account_id,
                    user_name=row.user_name,
                    place=t.place_from(row.place),
                    left_at=row.left_at,
                )
                for row in conn.execute(wanted)
            )

    def left_place_emptied(self, left: LeftPlace, *, actor: str, at: datetime) -> None:
        with self._store.write() as conn:
            gone = conn.execute(sa.delete(left_place).where(left_place.c.id == left.id)).rowcount
            if not gone:
                return
            append_event(
                conn,
                Recorded.LEFT_PLACE_EMPTIED,
                at=at,
                actor=actor,
                account_id=left.account_id,
                user_name=left.user_name,
                detail={"mount": left.place.mount, "path": left.place.path},
            )
