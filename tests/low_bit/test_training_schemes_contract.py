"""Every row of ``TRAINING_SCHEMES``: the engines equal, a resumed run equal to the bit, saved with its report. A row
without a case fails.
"""

from __future__ import annotations

import keras
import numpy as np
import pytest
from engines import needs_library
from low_bit.models import compiled, examples

import graffiti
from graffiti.training_schemes import TRAINING_SCHEMES

# row -> the bits of its gradients, which say that the row is what its name says; ``None`` where they vary or are no
# integers
CASES: dict[str, int | None] = {
    "adaptive_precision": None, "dynamic_fixed_point": 8, "multi_level_scaling": None, "multi_level_scaling_2_4": None,
    "large_gradients_int4": 4, "large_gradients_int5": 5, "large_gradients_int6": 6, "large_gradients_int8": 8,
    "min_max_int8": 8, "min_max_int4": 4, "fixed_factor_int4": 4, "per_sample": 8, "dorefa": 8, "unified_int8": 8,
}
ROWS = pytest.mark.parametrize("scheme", CASES)


def test_every_row_has_a_case():
    assert set(CASES) == set(TRAINING_SCHEMES) == set(graffiti.schemes.names("low_bit"))


def network() -> keras.Model:
    """A middle convolution that every scheme trains, batch norm and ReLU, a dense layer."""
    keras.utils.set_random_seed(4)
    layers = keras.layers
    inputs = keras.Input((6, 6, 3))
    x = layers.ReLU()(layers.BatchNormalization(name="norm")(layers.Conv2D(4, 3, name="first")(inputs)))
    x = layers.Conv2D(6, 3, padding="same", name="middle")(x)
    return keras.Model(inputs, layers.Dense(3, name="last")(layers.GlobalAveragePooling2D()(x)), name="network")


def trained(scheme: str, engine: str = "auto") -> keras.Model:
    return compiled(graffiti.quantize_training(network(), scheme, engine=engine, seed=7), run_eagerly=True)


def fit(model: keras.Model, seed: int) -> None:
    x, y = examples(model, 16, seed)
    model.fit(x, y, batch_size=8, shuffle=False, verbose=0, callbacks=[graffiti.callbacks.LowBitSteps()])


def assert_same(first: keras.Model, second: keras.Model) -> None:
    for a, b in zip(first.variables, second.variables, strict=True):
        np.testing.assert_array_equal(a, b, err_msg=a.path)


@needs_library
@ROWS
def test_engines_are_equal(scheme):
    native, emulated = (trained(scheme, engine) for engine in ("native", "emulated"))
    before = [np.asarray(v) for v in native.trainable_variables]
    for model in (native, emulated):
        fit(model, 0)
    assert_same(native, emulated)
    assert all(np.isfinite(np.asarray(v)).all() for v in native.trainable_variables)
    assert (
        not any(np.array_equal(a, b) for a, b in zip(before, native.trainable_variables) if a.ndim > 1)
    ), "it did not train"


@ROWS
def test_a_resumed_run_goes_on_to_the_same_bits(scheme, tmp_path):
    model = trained(scheme)
    fit(model, 0)
    model.save(tmp_path / "net.keras")
    again = keras.models.load_model(tmp_path / "net.keras")
    again.compile(again.optimizer, again.loss, run_eagerly=True)
    assert (
        again.quantization_report == model.quantization_report
        and "middle" in {line.layer for line in again.quantization_report.of("quantized")}
    )
    for run in (model, again):
        fit(run, 1)
    assert_same(model, again)


@ROWS
def test_the_row_is_what_its_name_says(scheme):
    row = graffiti.schemes.get(scheme)
    assert (
        row.name in (scheme, scheme.replace("factor", "factor_1"))
        and graffiti.TrainingScheme.from_config(row.to_config()) == row
    )
    assert row.gradients.arguments.get("bits") == CASES[scheme]
