"""LiteRT's own post-training converter beside graffiti's export to LiteRT, from the same float weights: bytes and
accuracy.

    python tools/litert_baseline.py --model=resnet8.keras --data_dir=DATA/cifar10_jpeg
    python tools/litert_baseline.py --model=autoencoder_ad.h5

Static int8, per-channel and per-tensor weights, calibrated on the same images as ``recipes/cifar10_resnet8.py``; int8
in and out, run by LiteRT with its default kernels. Prints a Markdown table. Without data: sizes only, calibrated on
noise.
"""

from __future__ import annotations

import pathlib
import tempfile

import keras
import numpy as np
import tensorflow as tf
from absl import app, flags

import graffiti
from graffiti import data
from graffiti.cli.common import load_model

_MODEL = flags.DEFINE_string(
    "model", None, "a float .keras or .h5 network; with --data_dir, a classifier", required=True
)
_DATA_DIR = flags.DEFINE_string("data_dir", None, "folder of TFRecord shards train-* and validation-*")
_CALIBRATION = flags.DEFINE_integer("calibration_images", 200, "images for calibration")
_STORED = flags.DEFINE_string("stored", None, "an int8 .tflite of the same network, run beside the others")
_SEED = flags.DEFINE_integer("seed", 0, "which calibration images")


def convert(model: keras.Model, images: np.ndarray, per_channel: bool) -> bytes:
    """An int8 flatbuffer by TensorFlow's converter."""
    converter = tf.lite.TFLiteConverter.from_keras_model(model)
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.representative_dataset = lambda: ([image[None]] for image in images)
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    converter.inference_input_type = converter.inference_output_type = tf.int8
    converter._experimental_disable_per_channel = not per_channel
    return converter.convert()


def accuracy(content: bytes, examples: data.Examples, batch: int = 100) -> float:
    """Top-1 accuracy in percent with ai-edge-litert."""
    from ai_edge_litert.interpreter import Interpreter

    engine = Interpreter(model_content=content)
    given, out = engine.get_input_details()[0], engine.get_output_details()[0]["index"]
    engine.resize_tensor_input(given["index"], [batch, *given["shape"][1:]])
    engine.allocate_tensors()
    scale, zero = given["quantization"]
    hits = 0
    for start in range(0, len(examples) - batch + 1, batch):
        codes = np.clip(np.round(examples.inputs[start : start + batch] / scale) + zero, -128, 127).astype(np.int8)
        engine.set_tensor(given["index"], codes)
        engine.invoke()
        hits += int(np.sum(engine.get_tensor(out).argmax(-1) == examples.labels[start : start + batch]))
    return 100 * hits / (len(examples) // batch * batch)


def files(model: keras.Model, images: np.ndarray) -> dict[str, bytes]:
    """The int8 files of LiteRT's converter and of graffiti, from the same float weights and calibration images."""
    made = {
        f"LiteRT static int8, per {weights}": convert(model, images, weights == "channel")
        for weights in ("channel", "tensor")
    }
    with tempfile.TemporaryDirectory() as folder:
        for scheme in ("int8_per_channel", "int8"):
            path = pathlib.Path(folder) / f"{scheme}.tflite"
            graffiti.to_integer(
                graffiti.quantize(model, scheme, calibration=images, progress=False)
            ).export(path, format="litert", border="codes")
            made[f"graffiti static `{scheme}`"] = path.read_bytes()
    return made


def main(_) -> None:
    model = load_model(_MODEL.value)
    if _DATA_DIR.value is None:
        images = np.random.RandomState(_SEED.value).normal(
            size=(_CALIBRATION.value, *model.input_shape[1:])
        ).astype(np.float32)
        print("\n| network | bytes |\n|---|---|")
        print("\n".join(f"| {name} | {len(content):,} |" for name, content in files(model, images).items()))
        return
    train = data.load(_DATA_DIR.value, split="train")
    validation = data.load(_DATA_DIR.value, split="validation")
    chosen = np.random.RandomState(_SEED.value).permutation(len(train))[: _CALIBRATION.value]
    found = files(model, train.inputs[chosen].astype(np.float32))
    if _STORED.value:
        found[f"stored {pathlib.Path(_STORED.value).name}"] = pathlib.Path(_STORED.value).read_bytes()
    outputs = model.predict(validation.inputs.astype(np.float32), batch_size=250, verbose=0)
    print(f"\n| network | bytes | top-1 on {len(validation)} images |\n|---|---|---|")
    print(f"| float | | {100 * float(np.mean(outputs.argmax(-1) == validation.labels)):.2f} % |")
    for name, content in found.items():
        print(f"| {name} | {len(content):,} | {accuracy(content, validation):.2f} % |", flush=True)


if __name__ == "__main__":
    app.run(main)
