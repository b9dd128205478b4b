"""Secrets that a person put into files: addresses that hold a token, signing secrets."""

from pathlib import Path

from rekeyd.core.secret import Secret
from rekeyd.errors import ConfigError


def read_secret_lines(path: Path, setting: str) -> tuple[Secret, ...]:
    """Without blank lines and comments (`#`). ConfigError naming setting and file, never a line of it."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{setting}: {path} cannot be read ({type(error).__name__})") from None
    lines = (line.strip() for line in text.splitlines())
    return tuple(Secret(line) for line in lines if line and not line.startswith("#"))


def read_secret_line(path: Path, setting: str) -> Secret:
    """The only line."""
    lines = read_secret_lines(path, setting)
    if len(lines) != 1:
        raise ConfigError(f"{setting}: {path} must have exactly one line, and has {len(lines)}")
    return lines[0]
