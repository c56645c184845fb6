"""Rerun the commands of graffiti/docs/cli on a small seeded model and rewrite their output blocks.

    python tools/cli_docs.py            # rewrite
    python tools/cli_docs.py --check    # change nothing; exit 1 where a command fails or its output has other lines
    than written

A page holds blocks that begin with ```console and lines ``$ graffiti ...``; what follows a command up to the next one
is its output. The pages run in the order of ``PAGES`` in one folder, so that one page's files are there for the next.
Times and ratios differ from run to run: the check compares the text with every number taken out.
"""

from __future__ import annotations

import difflib
import os
import pathlib
import re
import shlex
import subprocess
import sys
import tempfile

import numpy as np
from absl import app, flags

FLAGS = flags.FLAGS
flags.DEFINE_boolean("check", False, "compare instead of rewriting")
flags.DEFINE_list("pages", [], "only rewrite these; all of them run")

ROOT = pathlib.Path(__file__).resolve().parents[1]
FOLDER = ROOT / "graffiti" / "docs" / "cli"
PAGES = ("quantize", "retrain", "lower", "verify", "export", "inspect", "report", "bench")
BLOCK = re.compile(r"```console\n(.*?)```", re.DOTALL)


def prepare(folder: pathlib.Path) -> None:
    """The files that the pages start from: a small seeded convolutional network and data of three kinds of stripes."""
    import keras

    random = np.random.RandomState(0)
    labels = np.arange(512) % 3
    images = random.normal(0, 0.4, (512, 16, 16, 3)).astype(np.float32)
    for image, label in zip(images, labels):
        image[::2] += label == 0
        image[:, ::2] += label == 1
        image[4:12, 4:12] += label == 2
    np.savez(folder / "train.npz", images=images[:384], labels=labels[:384])
    np.savez(folder / "test.npz", images=images[384:], labels=labels[384:])
    keras.utils.set_random_seed(0)
    layers = keras.layers
    inputs = keras.Input((16, 16, 3), name="image")
    x = layers.ReLU(name="relu1")(
        layers.BatchNormalization(name="bn1")(
            layers.Conv2D(8, 3, 2, padding="same", use_bias=False, name="conv1")(inputs)
        )
    )
    y = layers.ReLU(name="relu2")(layers.DepthwiseConv2D(3, padding="same", name="conv2")(x))
    x = layers.GlobalAveragePooling2D(name="pool")(layers.Add(name="add")([x, y]))
    model = keras.Model(inputs, layers.Dense(3, activation="softmax", name="scores")(x), name="stripes")
    model.compile(keras.optimizers.Adam(1e-2), "sparse_categorical_crossentropy", metrics=["accuracy"])
    model.fit(images[:384], labels[:384], epochs=8, batch_size=32, verbose=0)
    model.save(folder / "stripes.keras")
    (folder / "mine.yaml").write_text(
        "name: mine\nscheme: {base: int8, weights: {bits: 6}}\nrules:\n  - {match: scores, scheme: int8}\ncalibration: "
        "{examples: 128}\n"
    )


def run(command: str, folder: pathlib.Path) -> str:
    """What a command prints, and its exit code where that is not 0."""
    words = shlex.split(command)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "3", "COLUMNS": "100"}
    if words[0] == "graffiti":
        done = subprocess.run(
            [sys.executable, "-m", "graffiti.cli", *words[1:]], cwd=folder, env=environment, capture_output=True,
            text=True
        )
    else:
        done = subprocess.run(command, shell=True, cwd=folder, env=environment, capture_output=True, text=True)
    errors = [line for line in done.stderr.splitlines() if line.startswith("graffiti ") or line.startswith("  - ")]
    if done.returncode not in (0, 1, 2) or "Traceback" in done.stderr:
        raise SystemExit(f"$ {command}\n{done.stderr[-2000:]}")
    lines = [*done.stdout.rstrip().splitlines(), *errors]
    return "\n".join(line.rstrip() for line in lines) + (f"\n[exit code {done.returncode}]" if done.returncode else "")


def rerun(text: str, folder: pathlib.Path) -> str:
    """A page with fresh output blocks."""
    def block(found: re.Match) -> str:
        commands = [line[2:] for line in found.group(1).splitlines() if line.startswith("$ ")]
        return (
            "```console\n" + "\n".join(f"$ {command}\n{run(command, folder)}".rstrip() for command in commands)
            + "\n```"
        )

    return BLOCK.sub(block, text)


def without_numbers(text: str) -> list[str]:
    """Lines with every number and hash as ``#``, and runs of blanks as one."""
    return [
        re.sub(r"\s+", " ", re.sub(r"\b[0-9a-f]{16,64}\b|[-+]?[0-9][0-9.,]*(e[-+]?[0-9]+)?", "#", line))
        for line in text.splitlines()
    ]


def main(argv: list[str]) -> None:
    """Run the pages in order."""
    if len(argv) > 1:
        raise SystemExit(f"cli_docs takes no arguments, only options, got {argv[1:]}")
    from tqdm import tqdm

    failed = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = pathlib.Path(temporary)
        prepare(folder)
        for name in tqdm(PAGES, desc="pages"):
            path = FOLDER / f"{name}.md"
            old = path.read_text(encoding="utf-8")
            new = rerun(old, folder)
            if FLAGS.check:
                a, b = without_numbers(old), without_numbers(new)
                if a != b:
                    failed.append("\n".join(difflib.unified_diff(a, b, f"{name}.md", "fresh", lineterm="")))
            elif not FLAGS.pages or name in FLAGS.pages:
                path.write_text(new, encoding="utf-8")
    if failed:
        raise SystemExit("\n".join([*failed, "the pages are out of date: run python tools/cli_docs.py"]))


if __name__ == "__main__":
    app.run(main)
