"""What characters mean: no character has two meanings, and those that can be looked up are as they are known."""

from __future__ import annotations

import unicodedata

import pytest

from lines_pipeline.zoo.glyphs import conventions
from lines_pipeline.zoo.glyphs.tasks import MEANING_TASKS


@pytest.mark.parametrize("task", MEANING_TASKS)
def test_no_character_has_two_meanings(task: str) -> None:
    letters = "".join(MEANING_TASKS[task].meaning().values())
    assert len(letters) == len(set(letters))


def test_alphabets_are_in_the_order_of_their_code_points() -> None:
    for alphabet in (conventions.LATIN, conventions.GREEK, conventions.CYRILLIC, conventions.ARMENIAN):
        assert list(alphabet) == sorted(alphabet)
    assert len(conventions.ARMENIAN) == 38 and len(conventions.GEORGIAN) == 33


def test_quarters_are_of_one_size() -> None:
    assert [len(letters) for letters in conventions.quarter(conventions.ARMENIAN).values()] == [20, 18, 20, 18]
    assert conventions.quarter(conventions.LATIN)["first"][:4] == "AaBb"


def test_numerals_by_their_leading_digit() -> None:
    greek, armenian, georgian = (conventions.numeral(script) for script in ("greek", "armenian", "georgian"))
    assert set("αιρ") < set(greek["1"]) and set("Θϟϡ") < set(greek["9"]) and "Ϛ" in greek["6"]
    assert set("ԱԺՃՌ") < set(armenian["1"]) and set("ԹՂՋՔ") < set(armenian["9"])
    assert set("აირჩ") < set(georgian["1"]) and set("თჟშჰ") < set(georgian["9"])


def test_sounds_agree_with_the_names_of_letters() -> None:
    for letters in conventions.sound_of_caucasus().values():
        assert {unicodedata.name(letter).split()[0] for letter in letters} == {"ARMENIAN", "GEORGIAN"}
    sounds = conventions.sound_of_europe()
    assert all(name in letters for name, letters in sounds.items())


def test_scripts_cases_and_accents_are_those_of_unicode() -> None:
    for script, letters in conventions.script().items():
        expected = {"asomtavruli": "GEORGIAN"}.get(script, script.upper())
        assert {unicodedata.name(letter).split()[0] for letter in letters} == {expected}
    case = conventions.case()
    assert {unicodedata.category(letter) for letter in case["upper"]} == {"Lu"}
    assert {unicodedata.category(letter) for letter in case["lower"]} == {"Ll"}
    assert all("SMALL CAPITAL" in unicodedata.name(letter) for letter in case["small capital"])
    assert {unicodedata.category(letter) for letter in case["raised"]} == {"Lm"}
    for accent, letters in conventions.accent().items():
        assert all(accent.upper() in unicodedata.name(letter) for letter in letters)
