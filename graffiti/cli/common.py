"""What the commands share: options, files in and out, and a sign of life where something takes long."""

from __future__ import annotations

import argparse
import contextlib
import os
import pathlib
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

Result = tuple[dict[str, Any], str, int]  # what --json prints, text, exit code
PATIENCE = 2.0  # seconds without a word


# ---- options ---------------------------------------------------------------------------------------------------------
def positive(text: str) -> int:
    """A whole number of at least 1, for ``type=``."""
    try:
        number = int(text)
    except ValueError:
        number = 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number of at least 1, got {text}")
    return number


def positive_list(text: str) -> list[int]:
    """Whole numbers of at least 1 with commas between, for ``type=``."""
    return [positive(part) for part in text.split(",")]


def add_output(parser: argparse.ArgumentParser, help: str) -> None:
    """``--output`` and ``--overwrite``."""
    parser.add_argument("--output", required=True, help=help)
    parser.add_argument("--overwrite", action="store_true", help="replace the output where it exists")


def add_data(parser: argparse.ArgumentParser, flag: str, help: str, *, required: bool = True) -> None:
    """An option that names a file of examples, and ``--limit``.

    Args:
        parser: of one command.
        flag: the option, for instance ``--data``.
        help: what the examples are; the file formats are added to it.
        required: whether the command needs it.
    """
    parser.add_argument(
        flag, required=required,
        help=f"{help}: .npy, .npz (images, labels; an array for each input where there are several) or a folder of "
             "TFRecords (folder:split)"
    )
    parser.add_argument("--limit", type=positive, help="use at most this many examples")


# ---- files in --------------------------------------------------------------------------------------------------------
def load_model(path: str) -> Any:
    """A Keras model from ``.keras``, or converted from a Keras 2 ``.h5``."""
    import keras

    import graffiti

    if not os.path.exists(path):
        raise FileNotFoundError(f"there is no file {path}; expected a .keras or .h5 model")
    if path.endswith(".graffiti"):
        raise ValueError(f"{path} is an integer graph; expected the .keras model that it was lowered from")
    try:
        with busy(f"loading {os.path.basename(path)}"):
            return (
                graffiti.tfmot.convert(path) if path.endswith(".h5") else keras.models.load_model(path, compile=False)
            )
    except Exception as error:  # whatever a damaged file makes zip, HDF5 or Keras raise
        raise ValueError(f"{path} does not load as a Keras model: {error}") from error


def load_graph(path: str, target: str | None = None) -> Any:
    """An integer graph from ``.graffiti``, or lowered from a quantized model."""
    import graffiti

    if path.endswith(".graffiti"):
        return graffiti.IntegerGraph.load(path)
    return lowered(load_model(path), target)


def lowered(model: Any, target: str | None = None) -> Any:
    """The integer graph of a quantized model."""
    import graffiti

    with busy("lowering"):
        return graffiti.to_integer(model, target=target)


def load_data(path: str, limit: int | None, network: Any = None) -> Any:
    """Examples from a file, or a folder with its split behind a colon.

    Args:
        path: what the option names.
        limit: at most so many.
        network: a Keras model or an integer graph; where it has several inputs the file has an array for each.
    """
    from graffiti import data

    folder, _, split = path.rpartition(":")
    if folder and pathlib.Path(folder).is_dir():
        return data.load(folder, split=split, limit=limit)
    return data.load(path, limit=limit, names=_input_names(network))


def _input_names(network: Any) -> list[str]:
    """What a network calls its inputs."""
    if hasattr(network, "graph"):
        return list(network.graph.inputs)
    return [tensor.name for tensor in getattr(network, "inputs", None) or ()]


def labelled(examples: Any, flag: str) -> Any:
    """The same examples, if they have labels."""
    if examples.labels is None:
        raise ValueError(
            f"{flag} needs labels beside the inputs: an .npz with images and labels, or labelled TFRecords"
        )
    return examples


# ---- files out -------------------------------------------------------------------------------------------------------
def check_output(args: argparse.Namespace, suffix: str | None = None) -> None:
    """Before any work is done: that ``--output`` may be written, and ends as it should."""
    from graffiti import files

    if suffix is not None and not args.output.endswith(suffix):
        raise ValueError(f"--output names a {suffix} file, got {args.output}")
    files.check_free(args.output, overwrite=args.overwrite)


def save_model(model: Any, args: argparse.Namespace) -> None:
    """Write a Keras model, whole or not at all."""
    from graffiti import files

    with files.atomic_file(args.output, overwrite=args.overwrite) as temporary:
        model.save(temporary)


# ---- signs of life ---------------------------------------------------------------------------------------------------
@contextlib.contextmanager
def busy(label: str, patience: float = PATIENCE) -> Iterator[None]:
    """A running clock on standard error while one long call goes on, from ``patience`` seconds on."""
    done = threading.Event()
    start = time.monotonic()

    def watch() -> None:
        if done.wait(patience):
            return
        from tqdm import tqdm

        with tqdm(desc=label, bar_format="{desc}: {elapsed} ...", file=sys.stderr, leave=False) as bar:
            bar.start_t -= time.monotonic() - start
            while not done.wait(0.5):
                bar.refresh()

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        done.set()
        watcher.join()
