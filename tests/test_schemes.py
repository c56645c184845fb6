"""The presets are what the documents say."""

import pytest

from graffiti import schemes, training_schemes
from graffiti.config import QuantizerSpec, Scheme
from graffiti.training_config import TrainingScheme


def test_names():
    assert (
        schemes.names()
        == (
            "int8", "int8_per_channel", "int8_half_up", "int8_half_up_per_channel", "int4", "int4_per_channel", "w4a4",
            "graffitist_int8", "graffitist_int4"
        )
    )


@pytest.mark.parametrize("name", schemes.names())
def test_get_takes_names_schemes_and_configs(name):
    scheme = schemes.get(name)
    assert scheme.name == name
    assert schemes.get(scheme) is scheme
    assert schemes.get(scheme.to_config()) == scheme


def test_get_refuses_the_rest():
    with pytest.raises(
        ValueError, match="there is no scheme 'int5' .did you mean 'int[48]'..; the presets are int8, int8_per_channel"
    ):
        schemes.get("int5")
    with pytest.raises(TypeError, match="a preset's name, a Scheme or its config, got 8"):
        schemes.get(8)


@pytest.mark.parametrize("name", ["int8", "int8_per_channel", "int4", "int4_per_channel", "w4a4"])
def test_default_presets_are_narrow_with_an_exact_accumulator(name):
    scheme = schemes.get(name)
    assert scheme.weights.narrow and scheme.weights.signed is True and scheme.weights.calibration == "mse"
    assert (scheme.bias_bits, scheme.accumulator_bits) == (32, 32)
    assert scheme.activations.signed == "auto"
    assert scheme.weights.per_channel == name.endswith("per_channel")
    assert scheme.rounding == "half_even"


@pytest.mark.parametrize("name", ["graffitist_int8", "graffitist_int4"])
def test_published_presets(name):
    scheme = schemes.get(name)
    assert not scheme.weights.narrow and scheme.weights.calibration == "max" and not scheme.weights.per_channel
    assert (scheme.bias_bits, scheme.accumulator_bits) == (16, 16)
    assert scheme.inputs.signed is True and scheme.inputs.bits == 8
    assert scheme.activations.bits == 8 and scheme.activations.calibration == "kl_j"
    assert (scheme.leaky_relu_bits, scheme.reciprocal_bits) == (16, 8)


@pytest.mark.parametrize("name", [name for name in schemes.names() if not name.startswith("graffitist")])
def test_other_presets_take_the_exact_mean(name):
    assert schemes.get(name).reciprocal_bits is None


@pytest.mark.parametrize("name, weights, activations, edges", [
    ("int8", 8, 8, None), ("int4", 4, 8, 8), ("int4_per_channel", 4, 8, 8), ("w4a4", 4, 4, 8),
    ("graffitist_int4", 4, 8, 8),
])
def test_widths(name, weights, activations, edges):
    scheme = schemes.get(name)
    assert (scheme.weights.bits, scheme.activations.bits) == (weights, activations)
    for spec in (scheme.first_layer, scheme.last_layer):
        assert (spec and spec.bits) == edges
    if edges:
        assert scheme.first_layer.per_channel == scheme.weights.per_channel


def test_w4a4_keeps_the_edges_of_the_network_at_8_bits():
    scheme = schemes.get("w4a4")
    assert scheme.inputs.bits == scheme.outputs.bits == 8


def test_a_copy_is_another_scheme():
    scheme = schemes.get("int8").replace(name="mine", rounding="half_up")
    assert isinstance(scheme, Scheme) and schemes.get("int8").rounding == "half_even"


def test_multi_level_scaling_rounds_gradients_alone_stochastically():
    """Decision 22; the published choice is an argument away."""
    scheme = schemes.get("multi_level_scaling")
    assert (
        [spec.arguments["stochastic"] for spec in (scheme.weights, scheme.activations, scheme.gradients)]
        == [False, False, True]
    )
    assert scheme.weights.arguments["rescale"] is True
    published = training_schemes.get("multi_level_scaling", stochastic="all", rescale=False, use_sign_bit=False)
    assert published.weights == published.gradients
    assert (
        published.weights.arguments
        == {"element": [2, 1], "group": [8, 1], "rescale": False, "use_sign_bit": False, "stochastic": True}
    )
    with pytest.raises(ValueError, match="'gradients', 'all' or 'none', got True"):
        training_schemes.get("multi_level_scaling", stochastic=True)


def test_static_and_low_bit_schemes_are_one_name_space():
    assert schemes.names("all") == (*schemes.names("static"), *schemes.names("low_bit"))
    assert schemes.names() == schemes.names("static") and schemes.training_names() == schemes.names("low_bit")
    assert len(set(schemes.names("all"))) == len(schemes.names("all")), "two presets of one name"
    for name in schemes.names("all"):
        assert isinstance(schemes.get(name), Scheme if name in schemes.names() else TrainingScheme)
    with pytest.raises(ValueError, match="of the kinds static, low_bit, all, got 'gradients'"):
        schemes.names("gradients")
    with pytest.raises(
        ValueError, match=r"there is no scheme 'large_gradients_int7' \(did you mean 'large_gradients_int\d'\?\)"
    ):
        schemes.get("large_gradients_int7")


def test_hyper_parameters_by_name():
    """Of a low-bit preset they are its method's, of everything else the scheme's fields; a preset itself stays as it
    is.
    """
    assert schemes.get("large_gradients_int4", alpha=2e-3).gradients.arguments == {"bits": 4, "alpha": 2e-3}
    assert schemes.get("large_gradients_int4", alpha=2e-3) == schemes.get_training("large_gradients_int4", alpha=2e-3)
    assert schemes.get("multi_level_scaling_2_4", rescale=False).name == "multi_level_scaling_2_4"
    assert schemes.get("int8", rounding="half_up").rounding == "half_up" and schemes.get("int8").rounding == "half_even"
    assert schemes.get_static("int8", leaky_relu_bits=12).leaky_relu_bits == 12
    assert schemes.get(schemes.get("dorefa"), last_layer=True).last_layer is True
    assert schemes.get(schemes.get("dorefa").to_config(), last_layer=True).last_layer is True
    with pytest.raises(ValueError, match="the scheme min_max_int8 takes .*gradient_rounding, got alpha"):
        schemes.get("min_max_int8", alpha=1.0)
    with pytest.raises(ValueError, match="a Scheme has the fields weights, .*, got alpha too"):
        schemes.get("int8", alpha=1.0)


def test_a_static_scheme_refuses_gradients():
    spec = QuantizerSpec(8)
    with pytest.raises(ValueError, match="gradients of a Scheme stay None.*use graffiti.quantize_training"):
        Scheme(spec, spec, gradients=spec)
    assert schemes.get("int8").to_config()["gradients"] is None
