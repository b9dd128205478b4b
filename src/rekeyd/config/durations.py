"""Durations as text: "90d", "12h", "1h30m", "0.2s".

Units: w, d, h, m, s, ms, each at most once and the longer first. A day is 24 hours.
"""

import re
from datetime import timedelta

_UNITS = {
    "w": timedelta(weeks=1),
    "d": timedelta(days=1),
    "h": timedelta(hours=1),
    "m": timedelta(minutes=1),
    "s": timedelta(seconds=1),
    "ms": timedelta(milliseconds=1),
}
_WHOLE = re.compile("".join(rf"(?:(?P<{unit}>\d{{1,9}}(?:\.\d{{1,6}})?){unit})?" for unit in _UNITS), re.ASCII)


def parse_duration(text: str) -> timedelta:
    """Raises `ValueError` if the text is no duration, or too long for a timedelta."""
    found = _WHOLE.fullmatch(text.strip())
    if found is None or not any(found.groupdict().values()):
        if re.fullmatch(r"\d+(\.\d+)?", text.strip()):
            raise ValueError(
                f'has no unit; write "{text.strip()}d", "{text.strip()}h", "{text.strip()}m" or "{text.strip()}s"'
            )
        raise ValueError('is not a duration such as "90d", "12h", "1h30m" or "0.2s"')
    try:
        parts = [_UNITS[unit] * float(amount) for unit, amount in found.groupdict().items() if amount is not None]
        return sum(parts, timedelta(0))
    except OverflowError:
        raise ValueError("is too long a duration") from None


def format_duration(duration: timedelta) -> str:
    """The shortest text that `parse_duration` reads back to the same; microseconds as a fraction of seconds."""
    sign = "-" if duration < timedelta(0) else ""
    rest = abs(duration)
    text = ""
    for unit in ("d", "h", "m"):
        amount, rest = divmod(rest, _UNITS[unit])
        text += f"{amount}{unit}" if amount else ""
    seconds = rest / _UNITS["s"]
    if seconds or not text:
        text += f"{seconds:.6f}".rstrip("0").rstrip(".") + "s"
    return sign + text
