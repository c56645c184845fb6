"""One whole training step (forward, backward, SGD with momentum): float32 Keras, Keras with TensorFlow's fused batch
norm, and low bits on int8 kernels.

    python tools/bench_train_step.py --threads 1 --networks resnet20,vgg --xla

Every contender is one tf.function on the same batch; the losses of the first steps are compared before anything is
timed; contenders take turns; medians.
"""

from __future__ import annotations

import os
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import tensorflow as tf
from absl import app, flags

import graffiti

_THREADS = flags.DEFINE_integer("threads", 1, "threads of every contender; the process is pinned to as many processors")
_ROUNDS = flags.DEFINE_integer("rounds", 9, "measured steps of each contender")
_WARM_UP = flags.DEFINE_integer("warm_up", 12, "steps before the first measurement (adaptive precision updates in the "
                                               "first, as in a first epoch; then, as later, once per epoch)")
_NETWORKS = flags.DEFINE_list("networks", ["resnet20", "vgg"], "of resnet20, vgg, resnet50")
_SCHEME = flags.DEFINE_string("scheme", "adaptive_precision", "the low-bit contender")
_XLA = flags.DEFINE_bool("xla", False, "also float32 with XLA (slow to compile)")
_PROFILE = flags.DEFINE_bool("profile", False, "print where the low-bit step's time goes, by kind of op")
layers = keras.layers


class TensorFlowBatchNorm(layers.BatchNormalization):
    """Batch norm by TensorFlow's fused kernel, which Keras 3 does not use on CPUs."""

    def call(self, x, training=None, mask=None):
        """Batch statistics; the moving averages follow."""
        y, mean, variance = tf.compat.v1.nn.fused_batch_norm(
            x, self.gamma, self.beta, epsilon=self.epsilon, is_training=True
        )
        self.moving_mean.assign(self.moving_mean * self.momentum + mean * (1 - self.momentum))
        self.moving_variance.assign(self.moving_variance * self.momentum + variance * (1 - self.momentum))
        return y


def conv_bn(x, filters, size, strides=1, relu=True):
    x = layers.BatchNormalization()(layers.Conv2D(filters, size, strides, "same", use_bias=False)(x))
    return layers.ReLU()(x) if relu else x


def resnet20() -> keras.Model:
    inputs = keras.Input((32, 32, 3))
    x = conv_bn(inputs, 16, 3)
    for stage, filters in enumerate((16, 32, 64)):
        for block in range(3):
            strides = 2 if stage and not block else 1
            y = conv_bn(conv_bn(x, filters, 3, strides), filters, 3, relu=False)
            x = layers.ReLU()(layers.Add()([conv_bn(x, filters, 1, 2, relu=False) if strides == 2 else x, y]))
    return keras.Model(inputs, layers.Dense(10)(layers.GlobalAveragePooling2D()(x)))


def vgg() -> keras.Model:
    inputs = x = keras.Input((32, 32, 3))
    for filters in (64, 128, 256, 512):
        x = layers.MaxPooling2D()(conv_bn(conv_bn(x, filters, 3), filters, 3))
    return keras.Model(inputs, layers.Dense(10)(layers.Dense(512, activation="relu")(layers.Flatten()(x))))


def resnet50() -> keras.Model:
    return keras.applications.ResNet50(weights=None, classifier_activation=None, input_shape=(224, 224, 3))


CASES = {
    "resnet20": (resnet20, (128, 32, 32, 3), 10), "vgg": (vgg, (64, 32, 32, 3), 10),
    "resnet50": (resnet50, (8, 224, 224, 3), 1000)
}


def step_of(model: keras.Model, x, y, *, xla: bool = False):
    """A function that takes one step and returns the loss."""
    optimizer, loss = (
        keras.optimizers.SGD(0.01, momentum=0.9), keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    )
    optimizer.build(model.trainable_variables)

    @tf.function(jit_compile=xla)
    def step(x, y):
        with tf.GradientTape() as tape:
            value = loss(y, model(x, training=True))
        optimizer.apply_gradients(zip(tape.gradient(value, model.trainable_variables), model.trainable_variables))
        return value

    return lambda: float(step(x, y))


def profile(step) -> str:
    """Milliseconds of a step by op type, from the TensorFlow profiler."""
    import collections
    import glob
    import tempfile

    from tensorflow.tsl.profiler.protobuf import xplane_pb2

    times: collections.Counter = collections.Counter()
    with tempfile.TemporaryDirectory() as folder:
        tf.profiler.experimental.start(folder)
        for _ in range(3):
            step()
        tf.profiler.experimental.stop()
        space = xplane_pb2.XSpace.FromString(
            open(glob.glob(f"{folder}/**/*.xplane.pb", recursive=True)[0], "rb").read()
        )
    for plane in space.planes:
        if plane.name.startswith("/host:CPU"):
            for line in plane.lines:
                for event in line.events:
                    name, _, kind = plane.event_metadata[event.metadata_id].name.rpartition(":")
                    if (
                        name and kind.isidentifier() and "PartitionedCall" not in kind
                        and kind not in ("While", "If", "Case", "StatelessIf", "StatelessCase")
                    ):
                        times[kind] += event.duration_ps * 1e-9 / 3
    return "\n".join(f"| {kind} | {ms:.1f} |" for kind, ms in times.most_common(22))


def main(_) -> None:
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: _THREADS.value])
    tf.config.threading.set_intra_op_parallelism_threads(_THREADS.value)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    print("| network | batch | threads | contender | ms | float32 / it | fused / it |\n|---|---|---|---|---|---|---|")
    for name in _NETWORKS.value:
        build, shape, classes = CASES[name]
        keras.utils.set_random_seed(0)
        model, rng = build(), np.random.default_rng(0)
        x, y = tf.constant(rng.normal(size=shape).astype(np.float32)), tf.constant(rng.integers(0, classes, shape[0]))
        fused = keras.models.clone_model(
            model,
            clone_function=lambda layer: (
                TensorFlowBatchNorm if type(layer) is layers.BatchNormalization else type(layer)
            ).from_config(layer.get_config())
        )
        fused.set_weights(model.get_weights())
        scheme = graffiti.schemes.training_schemes.get(
            _SCHEME.value,
            **(
                {"steps_per_epoch": 2, "interval_cap": 10_000, "widths": (8,)} if _SCHEME.value == "adaptive_precision"
                else {}
            )
        )
        low = graffiti.quantize_training(model, scheme, engine="native")  # adaptive precision held at 8 bits
        contenders = {
            "float32": step_of(model, x, y), "float32, fused batch norm": step_of(fused, x, y),
            f"{scheme.name}, int8 kernels": step_of(low, x, y)
        }
        if _XLA.value:
            contenders["float32, XLA"] = step_of(keras.models.clone_model(model), x, y, xla=True)
        first = {key: step() for key, step in contenders.items() if "XLA" not in key}
        assert (
            max(first.values()) - min(first.values()) < 0.05 * max(first.values())
        ), f"the first losses differ: {first}"
        for step in contenders.values():
            for _ in range(_WARM_UP.value if step is contenders[f"{scheme.name}, int8 kernels"] else 2):
                step()
        times: dict[str, list[float]] = {key: [] for key in contenders}
        for _ in range(_ROUNDS.value):
            for key, step in contenders.items():
                start = time.perf_counter()
                step()
                times[key].append(1e3 * (time.perf_counter() - start))
        medians = {key: float(np.median(own)) for key, own in times.items()}
        for key, ms in medians.items():
            print(
                f"| {name} | {shape[0]} | {_THREADS.value} | {key} | {ms:.0f} | {medians['float32'] / ms:.2f} | "
                f"{medians['float32, fused batch norm'] / ms:.2f} |",
                flush=True
            )
        if _PROFILE.value:
            print(
                f"\n| op of {name} | ms |\n|---|---|\n{profile(contenders[f'{scheme.name}, int8 kernels'])}\n",
                flush=True
            )


if __name__ == "__main__":
    app.run(main)
