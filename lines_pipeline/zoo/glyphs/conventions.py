"""Says what characters mean by conventions of writing: sound, place in the alphabet, number, case, script, accent."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Mapping

Meaning = Mapping[str, str]
"""Class to the characters that belong to it."""

LATIN = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
GREEK = "ΑΒΓΔΕΖΗΘΙΚΛΜΝΞΟΠΡΣΤΥΦΧΨΩ"
CYRILLIC = "АБВГДЕЖЗИЙКЛМНОПРСТУФХЦЧШЩЪЫЬЭЮЯ"
ARMENIAN = "ԱԲԳԴԵԶԷԸԹԺԻԼԽԾԿՀՁՂՃՄՅՆՇՈՉՊՋՌՍՎՏՐՑՒՓՔՕՖ"
GEORGIAN = "აბგდევზთიკლმნოპჟრსტუფქღყშჩცძწჭხჯჰ"
_GREEK_NUMERALS = "αβγδεϛζηθ" + "ικλμνξοπϟ" + "ρστυφχψωϡ"
_GEORGIAN_NUMERALS = "აბგდევზჱთ" + "იკლმნჲოპჟ" + "რსტუფქღყშ" + "ჩცძწჭხჴჯჰ"

_MANNERS: Mapping[str, Meaning] = {
    "latin": {"vowel": "AEIOUY", "sonorant": "LMNRW", "stop": "BCDGKPQT", "fricative": "FHSVZ"},
    "greek": {"vowel": "ΑΕΗΙΟΥΩ", "sonorant": "ΛΜΝΡ", "stop": "ΚΠΤΞΨ", "fricative": "ΒΓΔΖΘΣΦΧ"},
    "cyrillic": {"vowel": "АЕИОУЫЭЮЯ", "sonorant": "ЛМНРЙ", "stop": "БГДКПТЦЧ", "fricative": "ВЖЗСФХШЩ"},
    "armenian": {
        "vowel": "ԱԵԷԸԻՈՕ",
        "sonorant": "ԼՄՅՆՌՐ",
        "stop": "ԲԳԴԹԿՊՏՔՓ",
        "affricate": "ԾՁՃՉՋՑ",
        "fricative": "ԶԺԽՀՂՇՍՎՖ",
    },
    "georgian": {
        "vowel": "აეიოუ",
        "sonorant": "ლმნრ",
        "stop": "ბგდთკპტფქყ",
        "affricate": "ცძწჭჩჯ",
        "fricative": "ვზჟსღშხჰ",
    },
    "ipa": {
        "vowel": "ɐɑɒɔɘəɛɜɞɤɨɪɯɵɶʉʊʌʏ",
        "stop": "ɓɖɗɠɡʄɟʈɢʛʔʡ",
        "fricative": "ɕɣɦɧʁɸʂʃʐʑʒʕʝɬɮʜʢ",
        "sonorant": "ɱɲɳɴɫɭɹɺɻɼɽɾʀʎʟʋɰɥʙ",
    },
}
_CASED = ("latin", "greek", "cyrillic", "armenian")
_SOUNDS_OF_EUROPE: Meaning = {
    "b": "BbБб",
    "d": "DdΔδДд",
    "f": "FfΦφФф",
    "g": "GgΓγг",
    "i": "IiιИи",
    "k": "Kkκ",
    "l": "LlΛλЛл",
    "m": "Mmμм",
    "n": "NnνНн",
    "p": "PpΠπп",
    "r": "Rrρ",
    "s": "SsΣσς",
    "t": "TtτТт",
    "z": "ZzζЗз",
}
_SOUNDS_OF_CAUCASUS: Meaning = {
    "a": "Աա",
    "b": "Բբ",
    "g": "Գգ",
    "d": "Դդ",
    "e": "Եե",
    "z": "Զզ",
    "i": "Իի",
    "l": "Լլ",
    "m": "Մմ",
    "n": "Նն",
    "o": "Ոո",
    "p": "Պպ",
    "r": "Րր",
    "s": "Սս",
    "t": "Տտ",
    "k": "Կկ",
}
_GEORGIAN_SOUNDS = dict(zip("abgdezilmnoprstk", "აბგდეზილმნოპრსტკ", strict=True))
_CATEGORIES: Meaning = {
    "letter": "ABGHKMRTadefghknprty" + "ΓΔΛΠΣΨαλμξ" + "БЖИЛФЯвгжи",
    "number": "0123456789²³¹¼½¾⅓⅔⅛⅜⅝⅞",
    "sign": "!\"#%&'()*,-./:;?@[]{}«»¿¡‹›†‡•…‰§¶+<=>±×÷∂∏∑√∞∫≈≠≤≥¬∆∈∉∋∩∪⊂⊃",
}
_SMALL_CAPITALS = "ᴀʙᴄᴅᴇɢʜɪᴊᴋʟᴍɴᴘʀᴛᴜʏᴢᴦᴧᴨᴩᴪ"
_RAISED = "ᴬᴮᴰᴱᴳᴴᴵᴶᴷᴸᴹᴺᴾᴿᵀᵁᵂᵃᵇᵈᵉᵍʰʲᵏˡᵐⁿᵖʳᵗᵘᵛʷʸ"
_ACCENTS: Mapping[str, str] = {
    "0300": "grave",
    "0301": "acute",
    "0302": "circumflex",
    "0303": "tilde",
    "0304": "macron",
    "0307": "dot above",
    "0308": "diaeresis",
    "030C": "caron",
    "0323": "dot below",
}


def manner(script: str) -> Meaning:
    """Return the letters of a script by the manner in which their sound is made."""
    manners = _MANNERS[script]
    return {name: _both_cases(letters) for name, letters in manners.items()} if script in _CASED else manners


def quarter(alphabet: str) -> Meaning:
    """Return the letters of an alphabet by the quarter of its order."""
    quarters = dict.fromkeys(("first", "second", "third", "last"), "")
    for index, letter in enumerate(alphabet):
        quarters[list(quarters)[4 * index // len(alphabet)]] += _both_cases(letter)
    return quarters


def leading_digit(letters: str) -> Meaning:
    """Return letters by the leading digit of the number that each stands for, nine a decimal place."""
    return {str(digit + 1): _both_cases(letters[digit::9]) for digit in range(9)}


def sound_of_europe() -> Meaning:
    """Return Latin, Greek and Cyrillic letters by their sound."""
    return _SOUNDS_OF_EUROPE


def sound_of_caucasus() -> Meaning:
    """Return Armenian and Georgian letters by their sound."""
    return {name: text + with_capitals(_GEORGIAN_SOUNDS[name]) for name, text in _SOUNDS_OF_CAUCASUS.items()}


def script() -> Meaning:
    """Return letters by their script."""
    return {
        "latin": _both_cases(LATIN),
        "greek": _both_cases(GREEK),
        "cyrillic": _both_cases(CYRILLIC),
        "armenian": _both_cases(ARMENIAN),
        "georgian": GEORGIAN,
        "asomtavruli": asomtavruli(GEORGIAN),
        "lao": "".join(chr(code) for code in range(0xE81, 0xEAF) if unicodedata.category(chr(code)) == "Lo"),
    }


def case() -> Meaning:
    """Return Latin, Greek and Cyrillic letters by their case."""
    capitals = LATIN + GREEK + CYRILLIC
    return {"upper": capitals, "lower": capitals.lower(), "small capital": _SMALL_CAPITALS, "raised": _RAISED}


def accent() -> Meaning:
    """Return Latin letters by the one accent that they have."""
    by_accent: dict[str, str] = dict.fromkeys(_ACCENTS.values(), "")
    for code in (*range(0xC0, 0x180), *range(0x1E00, 0x1F00)):
        parts = unicodedata.decomposition(chr(code)).split()
        if len(parts) == 2 and parts[1] in _ACCENTS and not unicodedata.decomposition(chr(int(parts[0], 16))):
            by_accent[_ACCENTS[parts[1]]] += chr(code)
    return by_accent


def category() -> Meaning:
    """Return characters by their kind."""
    return _CATEGORIES


def asomtavruli(letters: str) -> str:
    """Return the old Georgian capitals of Georgian letters."""
    return "".join(chr(ord(letter) - 0x10D0 + 0x10A0) for letter in letters)


def with_capitals(letters: str) -> str:
    """Return Georgian letters and their old capitals."""
    return letters + asomtavruli(letters)


def numeral(script_name: str) -> Meaning:
    """Return the letters of a script that stand for numbers, by the leading digit."""
    if script_name == "georgian":
        return {digit: with_capitals(letters) for digit, letters in leading_digit(_GEORGIAN_NUMERALS).items()}
    return leading_digit({"greek": _GREEK_NUMERALS, "armenian": ARMENIAN[:36]}[script_name])


def _both_cases(letters: Iterable[str]) -> str:
    return "".join(
        dict.fromkeys(other for letter in letters for other in (letter, *letter.swapcase()) if len(other) == 1)
    )
