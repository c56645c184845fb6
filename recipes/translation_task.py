"""A small translation task that needs no download: English sentences about dates, times, prices and things, and their
German.

What makes it a task and not a table of words: numbers change their order (``forty seven`` → ``sieben und vierzig``),
half hours count to the next hour (``half past three`` → ``halb vier``), adjectives and articles agree with the gender
of a noun that comes later, and the verb of a subordinate clause goes to its end.
"""

from __future__ import annotations

import numpy as np

PAD, START, END = 0, 1, 2
SPECIAL = ["", "<s>", "</s>"]

_UNITS = (
    ("one", "eins"), ("two", "zwei"), ("three", "drei"), ("four", "vier"), ("five", "fünf"), ("six", "sechs"),
    ("seven", "sieben"), ("eight", "acht"), ("nine", "neun"),
    ("ten", "zehn"), ("eleven", "elf"), ("twelve", "zwölf"), ("thirteen", "dreizehn"), ("fourteen", "vierzehn"),
    ("fifteen", "fünfzehn"), ("sixteen", "sechzehn"),
    ("seventeen", "siebzehn"), ("eighteen", "achtzehn"), ("nineteen", "neunzehn"),
)
_TENS = (
    ("twenty", "zwanzig"), ("thirty", "dreißig"), ("forty", "vierzig"), ("fifty", "fünfzig"), ("sixty", "sechzig"),
    ("seventy", "siebzig"), ("eighty", "achtzig"),
    ("ninety", "neunzig"),
)
_ORDINALS = (
    ("first", "ersten"), ("second", "zweiten"), ("third", "dritten"), ("fourth", "vierten"), ("fifth", "fünften"),
    ("sixth", "sechsten"), ("seventh", "siebten"),
    ("eighth", "achten"), ("ninth", "neunten"), ("tenth", "zehnten"), ("eleventh", "elften"), ("twelfth", "zwölften"),
    ("thirteenth", "dreizehnten"),
    ("fourteenth", "vierzehnten"), ("fifteenth", "fünfzehnten"), ("sixteenth", "sechzehnten"),
    ("seventeenth", "siebzehnten"), ("eighteenth", "achtzehnten"),
    ("nineteenth", "neunzehnten"), ("twentieth", "zwanzigsten"), ("thirtieth", "dreißigsten"),
)
_MONTHS = (
    ("january", "januar"), ("february", "februar"), ("march", "märz"), ("april", "april"), ("may", "mai"),
    ("june", "juni"), ("july", "juli"), ("august", "august"),
    ("september", "september"), ("october", "oktober"), ("november", "november"), ("december", "dezember"),
)
_NOUNS = (  # English, plural, German, plural, gender
    ("house", "houses", "haus", "häuser", "n"), ("car", "cars", "auto", "autos", "n"),
    ("book", "books", "buch", "bücher", "n"), ("table", "tables", "tisch", "tische", "m"),
    ("chair", "chairs", "stuhl", "stühle", "m"), ("hat", "hats", "hut", "hüte", "m"),
    ("lamp", "lamps", "lampe", "lampen", "f"), ("bottle", "bottles", "flasche", "flaschen", "f"),
    ("clock", "clocks", "uhr", "uhren", "f"), ("picture", "pictures", "bild", "bilder", "n"),
    ("coat", "coats", "mantel", "mäntel", "m"), ("door", "doors", "tür", "türen", "f"),
)
_ADJECTIVES = (
    ("red", "rot"), ("green", "grün"), ("small", "klein"), ("old", "alt"), ("new", "neu"), ("heavy", "schwer"),
    ("beautiful", "schön"), ("cheap", "billig")
)
_ARTICLES = {"m": "der", "f": "die", "n": "das"}
_ONE = {"m": "einen", "f": "eine", "n": "ein"}
_ONE_ENDING = {"m": "en", "f": "e", "n": "es"}
_PEOPLE = (
    ("we", "wir", "haben"), ("they", "sie", "haben"), ("i", "ich", "habe"), ("my friends", "meine freunde", "haben"),
    ("the neighbours", "die nachbarn", "haben")
)
_VERBS = (
    ("bought", "gekauft"), ("sold", "verkauft"), ("found", "gefunden"), ("seen", "gesehen"), ("painted", "gemalt"),
    ("lost", "verloren")
)


def number(n: int) -> tuple[str, str]:
    """1 to 9999 in words."""
    english, german = [], []
    if n >= 1000:
        english += [_UNITS[n // 1000 - 1][0], "thousand"]
        german += [_count(n // 1000), "tausend"]
    if n % 1000 >= 100:
        english += [_UNITS[n % 1000 // 100 - 1][0], "hundred"]
        german += [_count(n % 1000 // 100), "hundert"]
    rest = n % 100
    if rest:
        if english:
            english.append("and")
        if rest < 20:
            english.append(_UNITS[rest - 1][0])
            german.append(_UNITS[rest - 1][1])
        else:
            english.append(_TENS[rest // 10 - 2][0])
            if rest % 10:
                english.append(_UNITS[rest % 10 - 1][0])
                german += [_count(rest % 10), "und"]
            german.append(_TENS[rest // 10 - 2][1])
    return " ".join(english), " ".join(german)


def _count(n: int) -> str:
    return "ein" if n == 1 else _UNITS[n - 1][1]


def _ordinal(day: int) -> tuple[str, str]:
    if day <= 20:
        return _ORDINALS[day - 1]
    if day == 30:
        return _ORDINALS[20]
    ten, one = day // 10, day % 10
    return f"{_TENS[ten - 2][0]} {_ORDINALS[one - 1][0]}", f"{_count(one)} und {_TENS[ten - 2][1]}sten"


def _date(random) -> tuple[str, str]:
    (day, tag), (month, monat) = _ordinal(int(random.integers(1, 32))), _MONTHS[random.integers(12)]
    century, rest = int(random.integers(11, 20)), int(random.integers(10, 100))
    year = f"{number(century)[0]} {number(rest)[0]}"
    jahr = f"{_UNITS[century - 1][1]} hundert {number(rest)[1]}"
    english = f"on the {day} of {month} {year}" if random.random() < 0.5 else f"on {month} the {day} {year}"
    return english, f"am {tag} {monat} {jahr}"


def _time(random) -> tuple[str, str]:
    hour = int(random.integers(1, 12))
    (now, jetzt), then = _UNITS[hour - 1], _UNITS[hour][1]
    kind = random.integers(5)
    if kind == 0:
        return f"at {now} o'clock", f"um {_count(hour)} uhr"
    if kind == 1:
        return f"at half past {now}", f"um halb {then}"
    if kind == 2:
        return f"at a quarter to {_UNITS[hour][0]}", f"um viertel vor {then}"
    minutes = int(random.integers(2, 30))
    word, wort = number(minutes)
    return (
        (f"at {word} minutes past {now}", f"um {wort} minuten nach {jetzt}") if kind == 3
        else (f"at {word} minutes to {now}", f"um {wort} minuten vor {jetzt}")
    )


def _things(random) -> tuple[str, str]:
    one, many, eins, viele, gender = _NOUNS[random.integers(len(_NOUNS))]
    adjective, wort = _ADJECTIVES[random.integers(len(_ADJECTIVES))]
    n = int(random.choice([1, random.integers(2, 100)]))
    if n == 1:
        return f"one {adjective} {one}", f"{_ONE[gender]} {wort}{_ONE_ENDING[gender]} {eins}"
    return f"{number(n)[0]} {adjective} {many}", f"{number(n)[1]} {wort}e {viele}"


def _price(random) -> tuple[str, str]:
    one, _, eins, _, gender = _NOUNS[random.integers(len(_NOUNS))]
    adjective, wort = _ADJECTIVES[random.integers(len(_ADJECTIVES))]
    (euros, zahl), (cents, rest) = number(int(random.integers(2, 10000))), number(int(random.integers(2, 100)))
    return (
        f"the {adjective} {one} costs {euros} euros and {cents} cents",
        f"{_ARTICLES[gender]} {wort}e {eins} kostet {zahl} euro und {rest} cent"
    )


def _bought(random) -> tuple[str, str]:
    who, wer, haben = _PEOPLE[random.integers(len(_PEOPLE))]
    verb, partizip = _VERBS[random.integers(len(_VERBS))]
    (what, was), (when, wann) = _things(random), (_date if random.random() < 0.5 else _time)(random)
    return f"{who} have {verb} {what} {when}", f"{wer} {haben} {wann} {was} {partizip}"


def _because(random) -> tuple[str, str]:
    who, wer, haben = _PEOPLE[random.integers(len(_PEOPLE))]
    verb, partizip = _VERBS[random.integers(len(_VERBS))]
    (first, erstens), (what, was) = _price(random), _things(random)
    return f"{first} because {who} have {verb} {what}", f"{erstens} weil {wer} {was} {partizip} {haben}"


def pairs(count: int, seed: int) -> list[tuple[str, str]]:
    """So many different sentences and their translations, from the seed alone."""
    random, found = np.random.default_rng(seed), {}
    while len(found) < count:
        english, german = (_price, _bought, _bought, _because)[random.integers(4)](random)
        found.setdefault(english, german)
    return list(found.items())


class Vocabulary:
    """Words ↔ numbers; 0 is padding, 1 and 2 begin and end a sentence.

    Args:
        sentences: in which all words occur.
    """

    def __init__(self, sentences: list[str]) -> None:
        self.words = SPECIAL + sorted({word for sentence in sentences for word in sentence.split()})
        self.number = {word: index for index, word in enumerate(self.words)}

    def __len__(self) -> int:
        return len(self.words)

    def encode(self, sentences: list[str]) -> np.ndarray:
        """int32 ``[sentences, longest + 2]``: start, words, end, padding."""
        rows = [[START, *(self.number[word] for word in sentence.split()), END] for sentence in sentences]
        array = np.zeros((len(rows), max(map(len, rows))), np.int32)
        for line, row in zip(array, rows):
            line[: len(row)] = row
        return array

    def decode(self, numbers) -> str:
        """The words up to the end."""
        words = []
        for n in numbers:
            if n == END:
                break
            if n not in (PAD, START):
                words.append(self.words[n])
        return " ".join(words)
