"""The rules of rekeyd: pure functions over immutable values, standard library only.

No I/O, no clock, no log and no secret value in here: `now` is a parameter, and
what IAM, Vault and the journal show arrives as values. See docs/architecture.md.
"""
