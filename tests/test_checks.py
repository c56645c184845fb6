"""Checks of single arguments: what is taken, and the sentence for what is not."""

from __future__ import annotations

import numpy as np
import pytest

from graffiti import checks


@pytest.mark.parametrize("value", [3, 3.0, np.int64(3), np.float32(3), np.array(3)])
def test_whole_numbers_become_ints(value):
    found = checks.whole("n", value, 1, 5)
    assert found == 3 and type(found) is int


@pytest.mark.parametrize("value", [True, "3", b"3", None, 2.5, float("nan"), float("inf"), [3], 0, 6])
def test_the_rest_is_refused(value):
    with pytest.raises(ValueError, match="n is a whole number from 1 to 5, got "):
        checks.whole("n", value, 1, 5)


def test_the_sentence_names_unit_and_range():
    with pytest.raises(ValueError, match=r"^interval is a whole number of steps, at least 1, got 0$"):
        checks.whole("interval", 0, 1, of="steps")
    with pytest.raises(ValueError, match=r"^threads is a whole number of at least 1, got 'many'$"):
        checks.whole("threads", "many", 1)
