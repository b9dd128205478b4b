"""Proving a pair: does AWS accept it, as this very principal, where consumers use it?"""

from collections.abc import Sequence
from dataclasses import dataclass

from rekeyd.core.decide import REFUSALS_FOR_DEAD
from rekeyd.core.model import AccessKeyId, HeldProof, Principal, Proof, Used
from rekeyd.core.policy import Policy
from rekeyd.errors import Error
from rekeyd.ports import Clock, Iam, Pair, Sts

# IAM's spelling for a use without a Region (S3 and other global services).
_NO_REGION = "N/A"


@dataclass(frozen=True, slots=True, kw_only=True)
class Prover:
    sts: Sts
    clock: Clock
    region: str
    """`aws.region`."""

    def regions(self, policy: Policy, iam: Iam, old_key_id: AccessKeyId | None) -> tuple[str, ...]:
        """Where a new pair must be accepted before it is published."""
        if policy.verify_regions is not None:
            return policy.verify_regions
        found = [self.region]
        if old_key_id is not None:
            use = iam.last_use(old_key_id)
            if isinstance(use, Used) and use.region not in (_NO_REGION, "", *found):
                found.append(use.region)
        return tuple(found)

    def until_accepted(self, pair: Pair, principal: Principal, policy: Policy, regions: Sequence[str]) -> Proof:
        """Probe until AWS honours the pair `verify_probes` times in a row in every Region, or time is out.

        The first probe waits: IAM caches, and asking about a key too early may itself delay it. ACCEPTED,
        OTHER_PRINCIPAL at once, else the last answer. StoppingError when the process shall stop.
        """
        gives_up_at = self.clock.now() + policy.verify_first + policy.verify_timeout
        self.clock.sleep(policy.verify_first)
        last = Proof.UNAVAILABLE
        for region in regions:
            in_a_row = 0
            while in_a_row < policy.verify_probes:
                last = self.sts.prove(pair, principal, region=region)
                if last is Proof.OTHER_PRINCIPAL:
                    return last
                # A denied or throttled probe is neither success nor failure.
                if last is Proof.ACCEPTED:
                    in_a_row += 1
                elif last is not Proof.UNAVAILABLE:
                    in_a_row = 0
                if in_a_row >= policy.verify_probes:
                    break
                if self.clock.now() + policy.verify_spacing > gives_up_at:
                    return last if last is not Proof.ACCEPTED else Proof.NOT_HONOURED
                self.clock.sleep(policy.verify_spacing)
        return Proof.ACCEPTED

    def once(self, pair: Pair, principal: Principal, policy: Policy, *, version: int) -> HeldProof:
        """Sign once with what Vault serves; a refusal is checked with a second, fresh signature."""
        refusals = 0
        while True:
            result = self.sts.prove(pair, principal)
            if result is Proof.WRONG_SECRET and not self._own_calls_pass(principal):
                result = Proof.UNAVAILABLE  # a clock or an endpoint is off, not the pair
            if result not in (Proof.WRONG_SECRET, Proof.NOT_HONOURED):
                break
            refusals += 1
            if refusals >= REFUSALS_FOR_DEAD:
                break
            self.clock.sleep(policy.verify_spacing)
        return HeldProof(version=version, access_key_id=pair.access_key_id, result=result, refusals=refusals)

    def _own_calls_pass(self, principal: Principal) -> bool:
        try:
            self.sts.caller_identity(principal.account_id)
        except Error:
            return False
        return True
