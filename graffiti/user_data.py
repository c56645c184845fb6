"""What users pass as data, read in one place: arrays, dicts, lists and datasets become arrays in the order of a
network's inputs.

Knows numpy only; datasets are recognised by what they can do, so that nothing is imported for their sake.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np

ENDLESS = "the dataset is endless; pass dataset.take(count)"


@dataclasses.dataclass(frozen=True)
class Inputs:
    """The inputs of a network, in order.

    Attributes:
        names: as the user knows them.
        shapes: with the batch axis in front; ``None`` for sizes that are open.
        dtypes: Keras' words for them; ``string`` is text.
    """

    names: tuple[str, ...]
    shapes: tuple[tuple[int | None, ...], ...]
    dtypes: tuple[str, ...]

    def parts(self, x: Any, *, steps: int | None = None, endless: str = ENDLESS) -> Iterator[list[np.ndarray]]:
        """All of plain data at once, or a dataset's batches.

        Args:
            x: an array; a dict by input name or a list of arrays for several inputs; or a ``tf.data.Dataset``,
                ``keras.utils.PyDataset``, generator, list or other iterable of batches, each ``x``, ``(x, y)`` or
                ``(x, y, sample_weight)`` (only ``x`` is used).
            steps: how many batches of a dataset to take; all by default.
            endless: the sentence for a dataset without end and no ``steps``.

        Yields:
            Arrays in the order of the inputs, each ``(examples, ...)``, all of equal length.

        Raises:
            ValueError: where the data has another number, shape, dtype or length of inputs, or never ends.
            TypeError: for something else than data.
        """
        if is_plain(x):
            yield self.arrays(x)
            return
        for batch in itertools.islice(elements(x, steps is not None, endless), steps):
            yield self.arrays(inputs_of(batch))

    def arrays(self, x: Any) -> list[np.ndarray]:
        """One batch, or all the data, as checked arrays.

        Args:
            x: an array, a dict by input name, or lists and dicts of arrays within each other, as Keras takes them.

        Raises:
            ValueError: as ``parts``.
        """
        values = self._values(x)
        if len(values) != len(self.names):
            raise ValueError(f"the network has {len(self.names)} inputs ({', '.join(self.names)}), got "
                             f"{len(values)} arrays")
        arrays = [_checked(*each) for each in zip(self.names, self.shapes, self.dtypes, values)]
        lengths = [len(array) for array in arrays]
        if len(set(lengths)) > 1:
            raise ValueError(
                "all inputs need the same number of examples, got "
                f"{', '.join(f'{n} for {name!r}' for n, name in zip(lengths, self.names))}")
        return arrays

    def _values(self, x: Any) -> list[Any]:
        names = self.names
        if isinstance(x, Mapping):
            if set(names) <= set(x):
                return [x[name] for name in names]
            if not any(isinstance(part, (Mapping, list, tuple)) for part in x.values()):
                missing = ", ".join(name for name in names if name not in x)
                raise ValueError(f"the network has the inputs {', '.join(names)}, missing {missing}; got "
                                 f"{', '.join(map(str, x))}")
        leaves = flatten(x)
        rank = len(self.shapes[0]) - 1 if self.shapes else 0
        examples = all(is_array(leaf) and len(leaf.shape) == rank for leaf in leaves) or not any(map(is_array, leaves))
        # one array for each example, or numbers
        return [x] if len(names) == 1 and isinstance(x, (list, tuple)) and examples else leaves


def is_array(x: Any) -> bool:
    """Whether ``x`` is one tensor of any library."""
    return hasattr(x, "shape") and hasattr(x, "dtype")


def is_plain(x: Any) -> bool:
    """Whether ``x`` is arrays already, not batches of them; a list of ``(x, y)`` or of dicts is batches."""
    if isinstance(x, (list, tuple)) and x and any(map(is_array, flatten(x))):
        return not any(all(isinstance(part, kind) for part in x) for kind in (tuple, Mapping))
    return is_array(x) or isinstance(x, (Mapping, list, tuple))


def inputs_of(batch: Any) -> Any:
    """``x`` of a dataset's element ``x``, ``(x, y)`` or ``(x, y, sample_weight)``, as Keras reads it."""
    return batch[0] if isinstance(batch, tuple) and len(batch) <= 3 else batch


def elements(x: Any, bounded: bool = False, endless: str = ENDLESS) -> Iterator[Any]:
    """The batches of a dataset.

    Args:
        x: as in ``Inputs.parts``.
        bounded: whether the caller stops by itself; else a dataset without end is refused.
        endless: the sentence for that.

    Raises:
        ValueError: for a dataset without end.
        TypeError: for something else than data.
    """
    if x is None or not (isinstance(x, Iterable) or hasattr(x, "__getitem__")) or isinstance(x, (str, bytes)):
        raise TypeError(
            "inputs are an array, a dict or list of arrays, or a dataset of batches (tf.data, keras.utils.PyDataset, "
            f"generator), got {type(x).__name__}"
        )
    if hasattr(x, "num_batches"):  # keras.utils.PyDataset: its items do not end by themselves
        if x.num_batches is None and not bounded:
            raise ValueError(endless)
        return (x[index] for index in (itertools.count() if x.num_batches is None else range(x.num_batches)))
    if hasattr(x, "cardinality") and int(x.cardinality()) == -1 and not bounded:  # tf.data.INFINITE_CARDINALITY
        raise ValueError(endless)
    return iter(x)


def flatten(x: Any) -> list[Any]:
    """Nested lists and dicts in Keras' order; arrays and everything else are leaves."""
    parts = (
        [x[key] for key in sorted(x)] if isinstance(x, Mapping) else list(x) if isinstance(x, (list, tuple)) else None
    )
    return [x] if parts is None else list(itertools.chain.from_iterable(map(flatten, parts)))


def labels_of(y: Any) -> np.ndarray | None:
    """One array of labels, of any library or as numbers; ``None`` for anything else."""
    return (
        np.asarray(y) if is_array(y) or (isinstance(y, (list, tuple)) and not any(map(is_array, flatten(y)))) else None
    )


def _checked(name: str, shape: tuple[int | None, ...], dtype: str, x: Any) -> np.ndarray:
    """One input. Whole numbers come in the input's dtype; reals as they are, but for those of fewer than 32 bits."""
    try:
        array = np.asarray(x)
    except ValueError as error:
        raise ValueError(f"input {name!r} takes one array, the examples have different shapes ({error})") from error
    if (array.dtype.kind in "OSUT") != (dtype == "string"):
        raise ValueError(
            f"input {name!r} takes {'text' if dtype == 'string' else f'{dtype} numbers'}, got dtype {array.dtype}"
        )
    if dtype != "string" and array.dtype.kind not in "fiub" and array.dtype.name != "bfloat16":
        raise ValueError(f"input {name!r} takes {dtype} numbers, got dtype {array.dtype}")
    if array.ndim != len(shape) or any(size is not None and size != n for size, n in zip(shape[1:], array.shape[1:])):
        hint = "; add the batch axis (x[None]) or dataset.batch(n)" if array.shape == tuple(shape[1:]) else ""
        raise ValueError(
            f"input {name!r} has shape ({', '.join(['batch', *map(str, shape[1:])])}), got {array.shape}{hint}"
        )
    if dtype.startswith(("int", "uint")) and array.dtype != dtype:
        with np.errstate(invalid="ignore"):
            cast = array.astype(dtype)
        if not np.array_equal(cast, array):  # Keras would cut them off; nobody wants that
            raise ValueError(
                f"input {name!r} takes {dtype} values, got {array.dtype} with other ones; convert them first"
            )
        return cast
    if array.dtype.name == "bfloat16" or dtype in ("float16", "bfloat16"):
        return array.astype(np.float16 if dtype == "float16" else np.float32)
    return array
