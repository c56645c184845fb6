"""The recipes from beginning to end, as a user runs them, with tiny settings."""

from __future__ import annotations

import importlib
import itertools
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest

from graffiti.ops import loader
from graffiti.runtime import library

ROOT = pathlib.Path(__file__).resolve().parents[2]


def recipe(name: str, *words, cwd) -> subprocess.CompletedProcess:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "3"}
    return subprocess.run(
        [sys.executable, ROOT / "recipes" / name, *words], capture_output=True, text=True, cwd=cwd, env=environment
    )


def everything_is_built() -> bool:
    try:
        library.load()
    except library.KernelsNotAvailable:
        return False
    return loader.available() and shutil.which("cc") is not None and shutil.which("make") is not None


@pytest.fixture(scope="module")
def records(tmp_path_factory) -> pathlib.Path:
    """64 training and 32 validation images of ten classes, one of them all bright on the left, and so on."""
    import tensorflow as tf

    folder, rng = tmp_path_factory.mktemp("records"), np.random.RandomState(0)
    for shard, count in (("train-00000-of-00002", 40), ("train-00001-of-00002", 24), ("validation-00000-of-00001", 32)):
        with tf.io.TFRecordWriter(str(folder / shard)) as writer:
            for index in range(count):
                image = rng.randint(0, 120, (32, 32, 3))
                image[3 * (index % 10) : 3 * (index % 10) + 3] += 130
                feature = {
                    "image/encoded": tf.train.Feature(
                        bytes_list=tf.train.BytesList(value=[tf.io.encode_png(image.astype(np.uint8)).numpy()])
                    ),
                    "image/class/label": tf.train.Feature(int64_list=tf.train.Int64List(value=[index % 10])),
                }
                writer.write(tf.train.Example(features=tf.train.Features(feature=feature)).SerializeToString())
    return folder


@pytest.mark.slow
def test_cifar10(records, tmp_path):
    done = recipe(
        "cifar10_resnet8.py", f"--data_dir={records}", "--limit=64", "--batch_size=16", "--float_epochs=1",
        "--epochs=1", "--calibration_images=16",
        "--targets=reference,python", "--scheme=int8_per_channel", "--out=out", cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    out = tmp_path / "out"
    assert (
        {p.name for p in out.iterdir()}
        == {
            "float.keras", "quantized.keras", "retrained.keras", "net.graffiti", "verification.json", "net_c",
            "results.json"
        }
    )
    results = json.loads((out / "results.json").read_text())
    assert results["unequal_integers"] == 0 and results["compared_integers"] > 1_000_000
    assert (results["training_images"], results["validation_images"], results["scheme"]) == (64, 32, "int8_per_channel")
    assert (
        list(results["accuracy"])
        == [
            "float", "static int8_per_channel", "float, 1 more epochs", "ALT int8_per_channel, 1 epochs",
            "integer graph"
        ]
    )
    assert results["accuracy"]["integer graph"] == results["accuracy"]["ALT int8_per_channel, 1 epochs"]
    assert "| integer graph | " in done.stdout and "unequal integers: 0 of" in done.stdout
    again = recipe("cifar10_resnet8.py", f"--data_dir={records}", "--out=out", cwd=tmp_path)
    assert again.returncode != 0 and "out exists already; choose another path" in again.stderr


@pytest.mark.slow
def test_cifar10_refuses_before_it_writes(records, tmp_path):
    for words, message in (
        ((f"--data_dir={tmp_path / 'absent'}",), "there is no .*absent"),
        ((f"--data_dir={records}", "--scheme=int9"), "int9"),
        (
            (f"--data_dir={records}", "--limit=8"),
            "8 training images are fewer than one batch of 128; give a smaller --batch_size"
        ),
        ((), "data_dir"),
    ):
        done = recipe("cifar10_resnet8.py", *words, cwd=tmp_path)
        assert done.returncode != 0 and re.search(message, done.stderr + done.stdout), done.stderr
        assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.skipif(
    not everything_is_built(), reason="needs the kernels, the op library, cc and make: the recipe proves all of them"
)
def test_quickstart(tmp_path):
    done = recipe("quickstart.py", "--out=out", "--float_epochs=2", "--epochs=1", cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    out = tmp_path / "out"
    assert (
        {p.name for p in out.iterdir()}
        == {
            "float.keras", "quantized.keras", "retrained.keras", "net.graffiti", "verification.json", "report.html",
            "net_c"
        }
    )
    report = json.loads((out / "verification.json").read_text())
    assert (
        report["ok"] and report["mismatches"] == 0
        and {"keras", "native", "ops", "python", "c"} <= {r["target"].split(":")[0] for r in report["results"]}
    )
    rows = [
        line.strip("| ").split(" | ") for line in done.stdout.splitlines() if line.startswith("| ") and " % | " in line
    ]
    accuracy = {name: float(value.split()[0]) for name, value, _ in rows}
    assert all(0 < float(loss) < 5 for *_, loss in rows)
    assert set(accuracy) == {"float", "static int8", "after ALT", "integer graph"}
    assert (
        accuracy["after ALT"] == accuracy["integer graph"] and accuracy["integer graph"] > accuracy["float"] - 10 > 20
    )
    assert f"unequal integers: 0 of {report['compared']:,}" in done.stdout
    assert recipe("quickstart.py", "--out=out", cwd=tmp_path).returncode != 0


def test_train_low_bit_resumes_to_the_same_bits_and_prints_one_table(records, tmp_path):
    words = (
        f"--data_dir={records}", "--network=resnet8", "--batch_size=16", "--images=32", "--validation_images=16",
        "--verbose=0"
    )
    whole = recipe(
        "train_low_bit.py", *words, "--scheme=float32,large_gradients_int4", "--epochs=2", "--out=whole", cwd=tmp_path
    )
    assert whole.returncode == 0, whole.stderr[-3000:]
    assert re.search(r"\| resnet8 \| 2 × 32 \| float32 \| 1 \| [\d.]+ % \| ±0.00 \| 0.00 \|", whole.stdout)
    assert re.search(
        r"\| resnet8 \| 2 × 32 \| large_gradients_int4 \| 1 \| [\d.]+ % \| ±0.00 \| [-\d.]+ \| [\d.]+ % / [\d.]+ % \|",
        whole.stdout
    )
    folder = tmp_path / "whole" / "resnet8" / "large_gradients_int4-0"
    record = json.loads((folder / "results.json").read_text())
    assert len(record["history"]) == 2 and record["images"] == 32
    # take the second epoch away and go on from the first epoch's checkpoint
    first = recipe(
        "train_low_bit.py", *words, "--scheme=large_gradients_int4", "--epochs=2", "--stop_after=1", "--out=parts",
        cwd=tmp_path
    )
    assert first.returncode == 0, first.stderr[-3000:]
    second = recipe(
        "train_low_bit.py", *words, "--scheme=large_gradients_int4", "--epochs=2", "--out=parts", cwd=tmp_path
    )
    assert second.returncode == 0, second.stderr[-3000:]
    parts = json.loads((tmp_path / "parts" / "resnet8" / "large_gradients_int4-0" / "results.json").read_text())
    drop = [{key: value for key, value in epoch.items() if key != "seconds"} for epoch in parts["history"]]
    assert drop == [{key: value for key, value in epoch.items() if key != "seconds"} for epoch in record["history"]]
    assert parts["finished"] == record["finished"] and set(record["finished"]) == {"stripped", "stripped_as_trained"}
    other = recipe(
        "train_low_bit.py", *words, "--scheme=large_gradients_int4", "--epochs=3", "--out=parts", cwd=tmp_path
    )
    assert other.returncode != 0 and "was made with other settings" in other.stderr + other.stdout


def test_train_low_bit_refuses_unknown_schemes(records, tmp_path):
    done = recipe("train_low_bit.py", f"--data_dir={records}", "--scheme=int3", cwd=tmp_path)
    assert (
        done.returncode != 0 and "--scheme takes float32, adaptive_precision" in done.stderr + done.stdout
        and list(tmp_path.iterdir()) == []
    )


TRANSLATION = ("--pairs=96", "--test_pairs=8", "--units=16", "--batch_size=32", "--beam=2", "--verbose=0")


@pytest.mark.slow
def test_train_translation_prints_one_table(tmp_path):
    done = recipe(
        "train_translation.py", *TRANSLATION, "--scheme=dynamic_fixed_point", "--epochs=1", "--out=out", cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert re.search(r"\| 1 × 96 \| dynamic_fixed_point \| 1 \| [\d.]+ \| ±0.00 \|", done.stdout)


@pytest.mark.slow
def test_train_translation_resumes_to_the_same_bits(tmp_path):
    words = TRANSLATION
    whole = recipe(
        "train_translation.py", *words, "--scheme=float32,dynamic_fixed_point", "--epochs=2", "--out=whole",
        cwd=tmp_path
    )
    assert whole.returncode == 0, whole.stderr[-3000:]
    assert (
        re.search(r"\| 2 × 96 \| float32 \| 1 \| [\d.]+ \| ±0.00 \| 0.00 \|", whole.stdout)
        and "| 2 × 96 | dynamic_fixed_point | 1 |" in whole.stdout
    )
    for more in ("--stop_after=1", "--stop_after=2"):
        part = recipe(
            "train_translation.py", *words, "--scheme=dynamic_fixed_point", "--epochs=2", more, "--out=parts",
            cwd=tmp_path
        )
        assert part.returncode == 0, part.stderr[-3000:]
    first, second = (
        json.loads((tmp_path / out / "dynamic_fixed_point-0" / "results.json").read_text())["history"]
        for out in ("whole", "parts")
    )
    assert (
        len(first) == 2 and [e["loss"] for e in first] == [e["loss"] for e in second]
        and [e["bleu"] for e in first] == [e["bleu"] for e in second]
    )


@pytest.fixture(scope="module")
def translation():
    """The recipe as a module."""
    sys.path.insert(0, str(ROOT / "recipes"))
    try:
        return importlib.import_module("train_translation"), importlib.import_module("translation_task")
    finally:
        sys.path.remove(str(ROOT / "recipes"))


def test_the_translation_task(translation):
    _, task = translation
    assert (
        task.number(9999)
        == ("nine thousand nine hundred and ninety nine", "neun tausend neun hundert neun und neunzig")
    )
    assert (
        task.number(1021) == ("one thousand and twenty one", "ein tausend ein und zwanzig")
        and task.number(80) == ("eighty", "achtzig")
    )
    pairs = task.pairs(3000, seed=1)
    assert pairs == task.pairs(3000, seed=1) and len({english for english, _ in pairs}) == 3000
    german = task.Vocabulary([german for _, german in pairs])
    rows = german.encode([german for _, german in pairs])
    assert [german.decode(row) for row in rows] == [german for _, german in pairs]


def test_beam_search_finds_what_it_should(translation):
    """A wide beam finds the most likely of all sentences, a beam of one the greedy sentence."""
    import keras

    recipe_module, task = translation
    keras.utils.set_random_seed(4)
    words, longest = 5, 3
    model = recipe_module.network(7, words, 8)
    for variable in model.trainable_variables:
        variable.assign(variable * 3.0)
    source = np.array([[1, 4, 5, 2], [1, 6, 2, 0]], np.int32)
    translate = recipe_module.Translator(model)

    def log_p(row, sentence):
        logits = model(
            [source[row:row + 1], np.array([[task.START, *sentence[:-1]]], np.int32)]
        ).numpy()[0].astype(np.float64)
        each = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
        return sum(each[t, word] for t, word in enumerate(sentence))

    for alpha in (0.0, 1.0):
        found = translate(source, 64, alpha, longest)
        for row in range(2):
            complete = [
                (*middle, task.END) for length in range(longest)
                for middle in itertools.product((1, 3, 4), repeat=length)
            ]
            best = max(complete, key=lambda s: log_p(row, s) / ((5 + len(s)) / 6) ** alpha)
            assert tuple(found[row][: len(best)]) == best
    greedy = translate(source, 1, 0.0, longest)
    for row in range(2):
        sentence = ()
        while len(sentence) < longest and task.END not in sentence:
            sentence = max(((*sentence, word) for word in range(1, words)), key=lambda s: log_p(row, s))
        assert tuple(greedy[row][: len(sentence)]) == sentence
