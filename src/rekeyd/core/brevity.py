"""The words of a message that a channel with little room can take: the worst first, and a count of the rest."""

from collections.abc import Callable, Sequence

ALL_OF_THEM = "All of them: rekeyd alarms list"


def written(paragraphs: Sequence[str], left: int) -> str:
    """`left`: so many more are not written out."""
    return "\n\n".join((*paragraphs, *_rest(left)))


def shortened(paragraphs: Sequence[str], left: int, fits: Callable[[str], bool]) -> str:
    """As many paragraphs as fit, from the first on; else the first lines of the first; else the first words.

    Empty: nothing fits.
    """
    for kept in range(len(paragraphs), 0, -1):
        text = written(paragraphs[:kept], left + len(paragraphs) - kept)
        if fits(text):
            return text
    if not paragraphs:
        return ""
    rest = left + len(paragraphs) - 1
    lines = paragraphs[0].split("\n")
    for kept in range(len(lines) - 1, 0, -1):
        text = written(["\n".join([*lines[:kept], "…"])], rest)
        if fits(text):
            return text
    return cut(lines[0], fits)


def cut(line: str, fits: Callable[[str], bool]) -> str:
    """The longest beginning of it that fits, marked as cut unless it is whole."""
    if fits(line):
        return line
    most, too_many = 0, len(line)
    while most + 1 < too_many:
        middle = (most + too_many) // 2
        if fits(f"{line[:middle]}…"):
            most = middle
        else:
            too_many = middle
    return f"{line[:most].rstrip()}…" if most else ""


def _rest(left: int) -> tuple[str, ...]:
    return (f"and {left} more. {ALL_OF_THEM}",) if left else ()
