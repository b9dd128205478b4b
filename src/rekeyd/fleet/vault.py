"""What people are told when Vault cannot be used."""

from dataclasses import dataclass, replace

from rekeyd.core.findings import Finding, FindingReason, found
from rekeyd.errors import Error, InterceptedError


@dataclass(frozen=True, slots=True, kw_only=True)
class VaultLook:
    findings: tuple[Finding, ...]
    undecided: frozenset[FindingReason]
    """What may be so all the same."""


def look_of(problem: Error | None) -> VaultLook:
    """`problem`: of the look at the token. The error knows better than a page what is to be done."""
    if problem is None:
        return VaultLook(findings=(), undecided=frozenset())
    # A Vault that does not answer now takes no interception back, and one of the two is enough to be told at a time.
    reason, other = FindingReason.VAULT_UNREACHABLE, FindingReason.SECRET_ID_INTERCEPTED
    if isinstance(problem, InterceptedError):
        reason, other = other, reason
    finding = found(reason, detail=problem.message)
    return VaultLook(
        findings=(finding if problem.hint is None else replace(finding, remedy=problem.hint),),
        undecided=frozenset({other}),
    )
