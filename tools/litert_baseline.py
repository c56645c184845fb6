"""Accuracy of LiteRT's own post-training converter on a float Keras model: what graffiti's static int8 is compared with.

    python tools/litert_baseline.py --model=resnet8.keras --data_dir=DATA/cifar10_jpeg

Static int8, per-channel and per-tensor weights, calibrated on the same images as ``recipes/cifar10_resnet8.py``; int8 in and out.
Prints a Markdown table.
"""

from __future__ import annotations

import keras
import numpy as np
import tensorflow as tf
from absl import app, flags

from graffiti import data

_MODEL = flags.DEFINE_string("model", None, "a float .keras classifier", required=True)
_DATA_DIR = flags.DEFINE_string("data_dir", None, "folder of TFRecord shards train-* and validation-*", required=True)
_CALIBRATION = flags.DEFINE_integer("calibration_images", 200, "images for calibration")
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


def main(_) -> None:
    model = keras.models.load_model(_MODEL.value, compile=False)
    train = data.load(_DATA_DIR.value, split="train")
    validation = data.load(_DATA_DIR.value, split="validation")
    chosen = np.random.RandomState(_SEED.value).permutation(len(train))[: _CALIBRATION.value]
    images = train.inputs[chosen].astype(np.float32)
    outputs = model.predict(validation.inputs.astype(np.float32), batch_size=250, verbose=0)
    rows = [("float", 100 * float(np.mean(outputs.argmax(-1) == validation.labels)))]
    for name, per_channel in (("LiteRT static int8, per channel", True), ("LiteRT static int8, per tensor", False)):
        rows.append((name, accuracy(convert(model, images, per_channel), validation)))
    print(f"\n| network | top-1 on {len(validation)} images |\n|---|---|")
    print("\n".join(f"| {name} | {value:.2f} % |" for name, value in rows))


if __name__ == "__main__":
    app.run(main)
