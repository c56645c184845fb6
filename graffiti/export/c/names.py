"""C identifiers and text from names that users chose freely."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable

KEYWORDS = frozenset(
    "auto break case char const continue default do double else enum extern float for goto if inline int long register "
    "restrict return "
    # C99, then C++ for those who include the header there
    "short signed sizeof static struct switch typedef union unsigned void volatile while "
    "alignas alignof and asm bool catch class constexpr decltype delete explicit export false friend mutable namespace "
    "new noexcept not nullptr "
    "concept constinit co_await co_return co_yield requires thread_local typeof operator or private protected public "
    "static_assert template this throw true try typeid typename using virtual wchar_t xor".split()
)
# File names that mean something else beside the model's own .c and .h.
RESERVED_FILES = frozenset(
    "main makefile vectors semihosting arm_mve arm_acle assert complex ctype errno fenv float inttypes iso646 limits "
    "locale math setjmp signal stdarg stdbool stddef stdint stdio "
    "stdlib string tgmath time wchar wctype".split()
)


def identifier(text: str, empty: str = "value") -> str:
    """``text`` with letters, digits and underscores only, not starting with a digit or an underscore.

    Accents go (``é`` → ``e``), anything else foreign becomes ``_``.
    """
    plain = "".join(char for char in unicodedata.normalize("NFKD", text) if not unicodedata.combining(char))
    plain = re.sub(r"_+", "_", re.sub(r"[^0-9A-Za-z_]", "_", plain)).strip("_")
    if not plain:
        return empty
    return f"n{plain}" if plain[0].isdigit() else plain


def model_identifier(text: str) -> str:
    """The prefix of all symbols of a model and the name of its files: an identifier that collides with no keyword,
    standard header, file of the export or symbol of the runtime."""
    name = identifier(text, "model")
    if name in KEYWORDS or name.lower() in RESERVED_FILES or name.lower().startswith("graffiti"):
        name = f"model_{name}"
    return name


class Names:
    """Hands out identifiers, each once: ``x``, ``x_2``, ``x_3`` ..."""

    def __init__(self, prefix: str = "", reserved: Iterable[str] = ()) -> None:
        self.prefix = prefix
        self._taken = {name.lower() for name in reserved}

    def unique(self, text: str, suffix: str = "") -> str:
        """A fresh identifier ``<prefix><text><suffix>``, compared without regard to case (macros are upper case)."""
        base = f"{self.prefix}{identifier(text)}{suffix}"
        name, number = base, 1
        while name.lower() in self._taken or name in KEYWORDS:
            number += 1
            name = f"{base}_{number}"
        self._taken.add(name.lower())
        return name


def comment(text: str) -> str:
    """``text`` as it may stand in a C comment on one line: no end of comment, no trigraph, ASCII only."""
    return re.sub(
        r"[^ 0-9A-Za-z_.,:;=+@()\[\]<>/-]", "_", text
    ).replace("*/", "* /").replace("/*", "/ *").replace("//", "/ /")


def string_literal(text: str) -> str:
    """``text`` as a C string literal of its UTF-8 bytes."""
    out = []
    for byte in text.encode():
        char = chr(byte)
        out.append(char if 32 <= byte < 127 and char not in '"\\?' else f"\\{byte:03o}")
    return '"' + "".join(out) + '"'
