"""The programs and build files that come with an export, as templates: ``@word@`` stands for a text of the
network's.
"""

from __future__ import annotations

import pathlib
import re

_WORD = re.compile("@([a-z_]+)@")


def fill(template: str, **texts: str) -> str:
    """A template of this folder with every ``@word@`` replaced.

    Raises:
        KeyError: for a word of the template without a text.
        ValueError: for a text whose word the template does not have.
    """
    source = (pathlib.Path(__file__).parent / template).read_text(encoding="ascii")
    if unknown := sorted(set(texts) - set(_WORD.findall(source))):
        raise ValueError(f"{template} has no @{unknown[0]}@; take it out of the call, or put it into the template")
    return _WORD.sub(lambda match: texts[match.group(1)], source)
