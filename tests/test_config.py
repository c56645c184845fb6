"""Schemes, specs and rules as values: validation, round trips, matching."""

import dataclasses

import numpy as np
import pytest

from graffiti.config import LayerInfo, QuantizerSpec, ReportLine, Rule, Scheme

SPEC = QuantizerSpec(8)
SCHEME = Scheme(SPEC, SPEC, first_layer=SPEC.replace(bits=6), inputs=SPEC.replace(signed=True), name="mine")


def test_a_whole_number_of_another_type_is_held_as_an_int():
    for bits in (8.0, np.int64(8)):
        assert type(QuantizerSpec(bits).bits) is int and QuantizerSpec(bits) == QuantizerSpec(8)


@pytest.mark.parametrize("bits", [1, 17, 0, -8, 8.5, "8", True, None])
def test_bits_outside_2_to_16_are_refused(bits):
    with pytest.raises(ValueError, match="whole number from 2 to 16"):
        QuantizerSpec(bits)


@pytest.mark.parametrize("bits", [2, 16])
def test_limits_of_bits_are_taken(bits):
    assert QuantizerSpec(bits).bits == bits


@pytest.mark.parametrize("changes, message", [
    ({"signed": "yes"}, "True, False or 'auto', got 'yes'"),
    ({"signed": False, "narrow": True}, "cannot be narrow"),
    ({"rounding": "round"}, "half_even, half_up, half_away, floor, got 'round'"),
    ({"calibration": ""}, "calibration is a registry name"),
    ({"quantizer": 3}, "quantizer is a registry name"),
])
def test_a_spec_says_what_is_wrong(changes, message):
    with pytest.raises(ValueError, match=message):
        SPEC.replace(**changes)


@pytest.mark.parametrize("changes, message", [
    ({"weights": 8}, "weights of a scheme is a QuantizerSpec, got 8"),
    ({"activations": None}, "activations of a scheme is a QuantizerSpec, got None"),
    ({"activations": SPEC.replace(per_channel=True)}, "per_channel is for weights only"),
    ({"inputs": SPEC.replace(per_channel=True)}, "inputs have one threshold"),
    ({"weights": SPEC.replace(signed=False)}, "weights hold negative values"),
    ({"accumulator_bits": 16}, "bias_bits and accumulator_bits are the same"),
    ({"bias_bits": 24}, "bias_bits and accumulator_bits are the same"),
    ({"bias_bits": 20, "accumulator_bits": 20}, "from 2 to 16, got 20"),
    ({"rounding": "nearest"}, "rounding mode"),
    ({"leaky_relu_bits": 32}, "leaky_relu_bits is a whole number"),
])
def test_a_scheme_says_what_is_wrong(changes, message):
    with pytest.raises(ValueError, match=message):
        SCHEME.replace(**changes)


def test_narrow_accumulator_with_equal_bias_is_taken():
    assert SCHEME.replace(bias_bits=16, accumulator_bits=16).accumulator_bits == 16


def test_configs_are_plain_and_round_trip():
    import json

    config = SCHEME.to_config()
    assert json.loads(json.dumps(config)) == config
    assert Scheme.from_config(config) == SCHEME
    assert QuantizerSpec.from_config(SPEC.to_config()) == SPEC
    assert Scheme.from_config(config).first_layer.bits == 6


def test_unknown_fields_of_a_config_are_named():
    with pytest.raises(ValueError, match="got bitz too"):
        QuantizerSpec.from_config({"bits": 8, "bitz": 4})


def test_values_are_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        SCHEME.bias_bits = 16
    with pytest.raises(dataclasses.FrozenInstanceError):
        SPEC.bits = 4


class Conv2D:
    """Stands for a layer class; rules look at its name only."""


CONV = LayerInfo("block1/conv", ("Conv2D",), "conv")


@pytest.mark.parametrize("match, expected", [
    ("block1/conv", True), ("block1/.*", True), ("conv", False), ("block1", False), (".*conv.*", True),
    (Conv2D, True), (int, False), (lambda layer: layer.op == "conv", True), (lambda layer: False, False),
])
def test_rules_match_whole_paths_classes_and_functions(match, expected):
    assert Rule(match).matches(CONV) is expected


def test_rules_refuse_what_they_cannot_use():
    with pytest.raises(ValueError, match="not a valid regular expression"):
        Rule("(")
    with pytest.raises(TypeError, match="a regular expression, a class or a function, got 3"):
        Rule(3)
    with pytest.raises(TypeError, match="a Scheme, a preset's name or None"):
        Rule("x", 8)


def test_a_rule_shows_itself():
    assert str(Rule("a.*", None)) == "'a.*' → float"
    assert str(Rule(Conv2D, SCHEME)) == "'Conv2D' → mine"
    assert str(Rule("a", "int4")) == "'a' → int4"


def test_report_kinds_are_closed():
    assert ReportLine("c", "quantized", "why").layer == "c"
    with pytest.raises(
        ValueError, match="quantized, folded, shared, float, frozen, dropped, warning, training, got 'done'"
    ):
        ReportLine("c", "done", "why")
