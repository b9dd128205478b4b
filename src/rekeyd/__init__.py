"""rekeyd keeps the access keys of AWS IAM users young, and proves every step of it."""

__version__ = "0.1.0"
