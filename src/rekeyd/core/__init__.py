"""The rules: pure functions and immutable values. Standard library only; no I/O, no clock, no log."""
