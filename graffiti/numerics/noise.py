"""The counter-based generator of stochastic rounding: sixteen bits for each (key, index), the same in every engine.

A key is two uint32, ``(seed, step)``. It is mixed to two words ``k0, k1`` once; then, with all sums and products modulo
2^32 and ``m`` the mixer below,

    word(j) = m(j + k0, k1)
    u(i)    = 2^-16 * (low or high half of word(16*floor(i/32) + i mod 16))     low for i mod 32 < 16,  in [0, 1)

so one word serves two elements that lie sixteen apart: a vector of words is two vectors of numbers. An element's number
is independent of how a tensor is cut into threads. Stochastic rounding with 16 bits is biased by at most 2^-17 of a
step. The constants stand here and in ``ops/kernels/noise.h``; all else imports them.
"""

from __future__ import annotations

import numpy as np

# The multiplications and shifts of "triple32" (Wellons), a bijection of 32-bit words with a low measured bias.
STEPS = ((17, 0xED5AD4BB), (11, 0xAC4C1B51), (15, 0x31848BAB))
LAST_SHIFT = 14
GOLDEN = 0x9E3779B9  # odd, 2**32 over the golden ratio
SECOND = 0x5BD1E995  # tells the second word of a key from the first
_MASK = 0xFFFFFFFF


def mix(word: np.ndarray, extra: np.ndarray | int = 0) -> np.ndarray:
    """``m``: scramble 32-bit words; ``extra`` is added after the first product. uint64 arrays below 2^32 in and out."""
    word = np.asarray(word, np.uint64)
    for index, (shift, factor) in enumerate(STEPS):
        word = (word ^ (word >> np.uint64(shift))) * np.uint64(factor) & np.uint64(_MASK)
        if index == 0:
            word = word + np.asarray(extra, np.uint64) & np.uint64(_MASK)
    return word ^ (word >> np.uint64(LAST_SHIFT))


def keys(seed: tuple[int, int]) -> tuple[int, int]:
    """``(k0, k1)`` of a key: two words that differ in about half of their bits for keys that differ in one."""
    first = int(mix(np.uint64((seed[0] + GOLDEN) & _MASK), seed[1]))
    return first, int(mix(np.uint64((first + GOLDEN) & _MASK), (seed[1] ^ SECOND) & _MASK))


def uniform(count: int, seed: tuple[int, int]) -> np.ndarray:
    """``u(0) … u(count-1)`` as float32."""
    k0, k1 = keys(seed)
    index = np.arange(count, dtype=np.uint64)
    words = mix(
        ((index >> np.uint64(5)) * np.uint64(16) + (index & np.uint64(15)) + np.uint64(k0)) & np.uint64(_MASK), k1
    )
    half = words >> (((index >> np.uint64(4)) & np.uint64(1)) * np.uint64(16)) & np.uint64(0xFFFF)
    return half.astype(np.float32) * np.float32(2.0**-16)
