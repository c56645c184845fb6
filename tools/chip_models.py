"""The three shared MLPerf Tiny networks with real inputs, as ``chip_report.py`` and ``verify_targets.py`` take them;
``random_0`` … ``random_9`` are those of ``random_models.py``.
"""

from __future__ import annotations

import pathlib

import numpy as np
import random_models

MODELS = ("resnet8_cifar10", "mobilenet_v1_025_vww", "autoencoder_ad")


def log_mel_windows(count: int, seed: int = 0) -> np.ndarray:
    """Synthetic inputs for the anomaly detector, which takes 5 frames of 128 log-mel energies in decibels.

    A machine's sound as a spectrum that falls with frequency, a slow ripple over it, one to four narrow tones, and for
    every frame a level and the noise of a log power (Gumbel). No recording: the real data set is not among the shared
    data.

    Returns:
        ``(count, 640)`` float32, the frames one behind the other.
    """
    random, frequency = np.random.default_rng(seed), np.linspace(0, 1, 128)
    windows = []
    for _ in range(count):
        spectrum = -30 - 30 * frequency + 6 * np.sin(2 * np.pi * (frequency * random.uniform(1, 4) + random.uniform()))
        for _ in range(random.integers(1, 5)):
            spectrum = (
                spectrum
                + random.uniform(5, 25) * np.exp(-(((frequency - random.uniform()) / random.uniform(0.01, 0.06)) ** 2))
            )
        windows.append((spectrum + random.normal(0, 3, (5, 1)) + random.gumbel(0, 2.5, (5, 128))).reshape(-1))
    return np.asarray(windows, np.float32)


def inputs(name: str, shared: pathlib.Path, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Calibration inputs (200, or 100 where there are few) and ``count`` inputs to verify with, as the network takes
    them.
    """
    from graffiti import data

    if name.startswith("random_"):
        images = random_models.inputs(200 + count)
        return images[:200], images[200:]

    if name == "autoencoder_ad":
        windows = log_mel_windows(200 + count)
        return windows[:200], windows[200:]
    if name == "resnet8_cifar10":
        folder = shared / "data" / "cifar10_jpeg"
        given, real = (
            data.load(folder, split=split, limit=limit).inputs
            for split, limit in (("train", 200), ("validation", count))
        )
        return np.asarray(given, np.float32), np.asarray(real, np.float32)
    import tensorflow as tf

    images = np.asarray(data.load(shared / "data" / "natural_images_160", limit=count).inputs, np.float32)
    images = tf.image.resize(images, (96, 96), antialias=True).numpy() / 255  # the network was trained on 0...1
    return images[:100], images


def integer_graph(name: str, scheme: str, shared: pathlib.Path, calibration: np.ndarray):
    """The ``.h5`` file (or the random network) → Keras 3 → calibrated → ``IntegerGraph``."""
    import graffiti
    from graffiti import tfmot

    model = (
        random_models.network(int(name.removeprefix("random_"))) if name.startswith("random_")
        else tfmot.convert(shared / "models" / f"{name}.h5")
    )
    ig = graffiti.to_integer(graffiti.quantize(model, scheme, calibration, progress=False))
    ig.graph.name = name
    return ig
