"""Reading examples from files: ``.npy``, ``.npz`` and folders of image TFRecords. For the command line and the
recipes.
"""

from __future__ import annotations

import dataclasses
import os
import pathlib
import zipfile
import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from graffiti import checks

_IMAGE_KEYS, _LABEL_KEYS = ("images", "x", "inputs"), ("labels", "y", "targets")


@dataclasses.dataclass(frozen=True)
class Examples:
    """Inputs and, where the file has them, labels.

    Attributes:
        inputs: array ``(examples, ...)``, or a dict of such by the network's input names.
        labels: integer array ``(examples,)``, or ``None``.
    """

    inputs: Any
    labels: np.ndarray | None = None

    def __len__(self) -> int:
        return len(next(iter(self.inputs.values())) if isinstance(self.inputs, dict) else self.inputs)

    def take(self, count: int | None) -> Examples:
        """The first ``count`` examples."""
        if count is None:
            return self
        inputs = (
            {name: array[:count] for name, array in self.inputs.items()} if isinstance(self.inputs, dict)
            else self.inputs[:count]
        )
        return Examples(inputs, None if self.labels is None else self.labels[:count])


def load(
    path: str | os.PathLike, *, split: str | None = None, limit: int | None = None, names: Sequence[str] = ()
) -> Examples:
    """Read examples.

    Args:
        path: a ``.npy`` array of inputs; a ``.npz`` with ``images`` (or ``x``), or with an array for each of ``names``,
            and perhaps ``labels`` (or ``y``); or a folder of TFRecord shards named ``<split>-00000-of-00005`` with
            ``image/encoded`` JPEG or PNG bytes and ``image/class/label``.
        split: which shards of a folder: ``train``, ``validation`` ...; all by default.
        limit: at most this many examples.
        names: the network's inputs; a file with several must have an array of each name.

    Raises:
        FileNotFoundError: where nothing is there.
        ValueError: where the file holds something else.
    """
    limit = None if limit is None else checks.whole("limit", limit, 1, of="examples")
    path = pathlib.Path(path)
    if not path.exists():
        raise FileNotFoundError(f"there is no {path}; expected a .npy or .npz file or a folder of TFRecords")
    if path.is_dir():
        return _load_records(path, split, limit)
    try:
        content = np.load(path, allow_pickle=False)
        arrays = (
            {key: content[key] for key in content if key in (*_IMAGE_KEYS, *_LABEL_KEYS, *names)}
            if isinstance(content, np.lib.npyio.NpzFile) else None
        )
    except (ValueError, OSError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(
            f"{path} is neither .npy nor .npz, or is cut off ({error}); write it again with numpy.save or numpy.savez"
        ) from error
    if arrays is None:
        return _checked(path, content, None).take(limit)
    with content:
        labels = next((arrays[key] for key in _LABEL_KEYS if key in arrays and key not in names), None)
        if len(names) > 1:
            if missing := [name for name in names if name not in arrays]:
                raise ValueError(
                    f"{path} has the arrays {', '.join(content)}; expected one for each input of the network, missing "
                    f"{', '.join(missing)}"
                )
            return _checked(path, {name: arrays[name] for name in names}, labels).take(limit)
        images = next((arrays[key] for key in (*names, *_IMAGE_KEYS) if key in arrays), None)
        if images is None:
            raise ValueError(
                f"{path} has the arrays {', '.join(content)}; expected one named {' or '.join((*names, *_IMAGE_KEYS))}"
            )
    return _checked(path, images, labels).take(limit)


def _checked(path: pathlib.Path, inputs: Any, labels: np.ndarray | None) -> Examples:
    arrays = [*(inputs.values() if isinstance(inputs, dict) else [inputs]), *([] if labels is None else [labels])]
    if not all(array.ndim for array in arrays) or len({len(array) for array in arrays}) > 1:
        count = len(arrays) - (labels is not None)
        shapes = (
            ", ".join(str(array.shape) for array in arrays[:count])
            + ("" if labels is None else f" and labels of shape {labels.shape}")
        )
        raise ValueError(
            f"{path} holds inputs of shape {shapes}; expected examples along the first axis and as many labels"
        )
    return Examples(inputs, labels)


def _load_records(folder: pathlib.Path, split: str | None, limit: int | None) -> Examples:
    import tensorflow as tf
    from tqdm import tqdm

    shards = sorted(str(p) for p in folder.glob(f"{split}-*-of-*" if split else "*-of-*"))
    if not shards:
        raise FileNotFoundError(f"{folder} has no TFRecord shards named {split or '<split>'}-00000-of-00001")
    features = {
        "image/encoded": tf.io.FixedLenFeature([], tf.string),
        "image/class/label": tf.io.FixedLenFeature([], tf.int64, -1)
    }

    def decode(record):
        example = tf.io.parse_single_example(record, features)
        return (
            tf.io.decode_image(example["image/encoded"], channels=3, expand_animations=False),
            example["image/class/label"]
        )

    records = tf.data.TFRecordDataset(shards).map(decode, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
    records = records.take(limit) if limit is not None else records
    images, labels = [], []
    for image, label in tqdm(records.prefetch(64), desc=f"reading {folder.name}", unit="image", delay=2):
        images.append(image.numpy())
        labels.append(int(label))
    if not images:
        raise ValueError(f"{folder} holds no examples; expected TFRecords with image/encoded")
    labelled = min(labels) >= 0
    return Examples(np.stack(images), np.asarray(labels, np.int64) if labelled else None)
