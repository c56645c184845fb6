"""The dense products among einsum equations: how to turn ``x`` and the kernel so that one product over the last axis
is all there is.
"""

from __future__ import annotations

import dataclasses

# letters for the axes that ``...`` stands for; Keras' equations are in small ones
ELLIPSIS = "ZYXWVUTSRQPONMLKJIHGFEDCBA"


class NotDense(ValueError):
    """Why an equation is no dense product."""


@dataclasses.dataclass(frozen=True)
class Dense:
    """One equation, taken apart.

    Attributes:
        x: letters of the input, the batch first.
        kernel, out: letters of the kernel and of the output.
        kept: letters that the input hands on to the output, the batch left out, in the input's order.
        contracted: letters that are summed over, in the input's order.
        new: letters that only the kernel and the output have, in the output's order.
    """

    x: str
    kernel: str
    out: str
    kept: str
    contracted: str
    new: str


def parse(equation: str, rank: int) -> Dense:
    """An equation ``x,kernel->out`` as a dense product.

    Args:
        equation: as ``EinsumDense`` takes it.
        rank: of the input, the batch included.

    Raises:
        NotDense: where it is none, with the reason.
    """
    try:
        inputs, out = equation.replace(" ", "").split("->")
        x, kernel = inputs.split(",")
    except ValueError:
        raise NotDense(f"the equation {equation!r} is not of the form 'x,kernel->out'") from None
    if "..." in kernel:
        raise NotDense(f"the kernel of {equation!r} has an ellipsis")
    dots = ELLIPSIS[: rank - len(x.replace("...", ""))]
    x, out = x.replace("...", dots), out.replace("...", dots)
    if any(len(set(letters)) != len(letters) for letters in (x, kernel, out)) or len(x) != rank:
        raise NotDense(f"the equation {equation!r} names an axis twice")
    if not out or x[0] != out[0] or x[0] in kernel:
        raise NotDense(f"the equation {equation!r} moves or sums the batch")
    if set(x) & set(kernel) & set(out):
        raise NotDense(f"the equation {equation!r} has another kernel at every position")
    kept = "".join(letter for letter in x[1:] if letter in out)
    contracted = "".join(letter for letter in x if letter in kernel)
    new = "".join(letter for letter in out if letter in kernel)
    if set(x) != {x[0], *kept, *contracted} or set(kernel) != {*contracted, *new} or not contracted:
        raise NotDense(f"the equation {equation!r} sums one operand alone")
    return Dense(x, kernel, out, kept, contracted, new)
