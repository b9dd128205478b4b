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


def test_paragraphs_stand_apart_and_the_rest_is_counted() -> None:
    assert written(["one", "two"], 0) == "one\n\ntwo"
    assert written(["one"], 1) == f"one\n\nand 1 more. {ALL_OF_THEM}"
    assert written([], 2) == f"and 2 more. {ALL_OF_THEM}"


def test_nothing_to_say_is_said_in_no_words() -> None:
    assert shortened((), 3, within(99)) == ""


@pytest.mark.parametrize("most", range(1, 12))
def test_a_line_is_cut_as_late_as_it_fits(most: int) -> None:
    line = "abcdefghijkl"
    assert cut(line, within(most)) == ("" if most == 1 else f"{line[: most - 1]}…")


def test_a_line_that_may_be_one_shorter_loses_two_and_gains_the_mark() -> None:
    assert cut("abcd", within(3)) == "ab…"


@pytest.mark.parametrize("most", range(8, 55))
def test_the_first_lines_are_as_many_as_fit(most: int) -> None:
    lines = [f"line {number}" for number in range(8)]
    kept = max(kept for kept in range(8) if len("\n".join([*lines[:kept], "…"])) <= most)
    assert shortened(("\n".join(lines),), 0, within(most)) == "\n".join([*lines[:kept], "…"])


def test_one_paragraph_and_the_count_are_tried_before_its_lines() -> None:
    text = written(THREE[:1], 2)
    assert shortened(THREE, 0, within(len(text))) == text
