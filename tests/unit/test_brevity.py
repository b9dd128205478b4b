"""What is left of a message where there is little room: the worst, and how much is missing."""

from collections.abc import Callable

import pytest

from rekeyd.core.brevity import ALL_OF_THEM, cut, shortened, written

THREE = ("CRITICAL: a root key\nWho: root", "HIGH: an old key\nWho: ann", "MEDIUM: unused\nWho: bob")


def within(most: int) -> Callable[[str], bool]:
    return lambda text: len(text) <= most


def test_what_fits_stays_whole() -> None:
    whole = written(THREE, 0)
    assert shortened(THREE, 0, within(len(whole))) == whole
    assert "more" not in whole


def test_one_character_less_costs_the_last_paragraph_and_says_so() -> None:
    whole = written(THREE, 4)
    assert shortened(THREE, 4, within(len(whole) - 1)) == f"{THREE[0]}\n\n{THREE[1]}\n\nand 5 more. {ALL_OF_THEM}"


def test_of_a_paragraph_that_is_too_long_the_first_lines_stay() -> None:
    lines = "\n".join(f"line {number}" for number in range(20))
    text = shortened((lines, "HIGH: another"), 0, within(80))
    assert text.startswith("line 0\nline 1\n")
    assert text.endswith(f"\n…\n\nand 1 more. {ALL_OF_THEM}")
    assert len(text) <= 80


@pytest.mark.parametrize("most", range(60))
def test_however_little_the_room_it_is_kept(most: int) -> None:
    assert len(shortened(THREE, 0, within(most))) <= most


def test_the_first_words_are_all_that_is_left_of_a_long_line() -> None:
    assert shortened(THREE, 0, within(13)) == "CRITICAL: a…"
    assert cut("four words and more", within(11)) == "four words…"
    assert cut("four words", within(10)) == "four words"
    assert cut("four", within(0)) == ""
