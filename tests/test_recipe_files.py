"""Recipes: by name, from YAML and JSON, round trips, refusals of one sentence, and that they do what they say."""

from __future__ import annotations

import builtins
import dataclasses
import json

import keras
import numpy as np
import pytest
import zoo

import graffiti
from graffiti import documents, recipes
from graffiti.config import QuantizerSpec, Rule, Scheme
from graffiti.recipes import AltOptions, CalibrationOptions, Recipe

FULL = """
name: mine
description: everything at once
scheme:
  base: int4
  activations: {calibration: kl_j}
  weights: {per_channel: true}
rules:
  - {match: "block1/.*", scheme: int8}
  - {match: d, scheme: null}
  - {match: e, scheme: {base: int8, weights: {bits: 6}}}
calibration: {examples: 16, weights: max}
alt: {epochs: 2, batch_size: 8, weight_learning_rate: 1e-3, threshold_learning_rate: 0.01, freeze_start: 0,
  freeze_interval: 5}
target: c99
"""


def write(folder, text, name="mine.yaml"):
    path = folder / name
    path.write_text(text)
    return path


def test_the_recipes_that_come_with_graffiti():
    assert (
        {"int8", "int8_per_channel", "int4", "w4a4", "graffitist_int8", "graffitist_int4", "cortex_m", "npu_16bit"}
        <= set(recipes.names())
    )
    for name in recipes.names():
        recipe = recipes.get(name)
        assert recipe.name == name and recipe.description and recipe.scheme in graffiti.schemes.names()
        assert Recipe.from_config(recipe.to_config()) == recipe and recipes.get(recipe) is recipe
        if recipe.target:
            assert graffiti.targets.get(recipe.target)
    assert (
        set(graffiti.schemes.names()) - {"int4_per_channel"} <= set(recipes.names())
    ), "every preset is a recipe by its name"


def test_everything_that_a_file_can_say(tmp_path):
    recipe = recipes.load(write(tmp_path, FULL))
    int4 = graffiti.schemes.get("int4")
    assert (
        recipe.scheme
        == int4.replace(
            name="int4 changed", activations=int4.activations.replace(calibration="kl_j"),
            weights=int4.weights.replace(per_channel=True)
        )
    )
    assert recipe.rules[:2] == (Rule("block1/.*", "int8"), Rule("d", None)) and recipe.rules[2].scheme.weights.bits == 6
    assert recipe.calibration == CalibrationOptions(16, "max", None)
    assert recipe.alt == AltOptions(2, 8, 1e-3, 0.01, 0, 5) and recipe.target == "c99"


@pytest.mark.parametrize("name", ["again.yaml", "again.yml", "again.json"])
def test_round_trip(tmp_path, name):
    recipe = recipes.load(write(tmp_path, FULL))
    recipe.save(tmp_path / name)
    assert recipes.load(tmp_path / name) == recipe
    with pytest.raises(FileExistsError):
        recipe.save(tmp_path / name)
    recipe.save(tmp_path / name, overwrite=True)
    own = Scheme(QuantizerSpec(5, signed=True), QuantizerSpec(9), rounding="half_up", name="own")
    again = Recipe(scheme=own, rules=(Rule("a|b", own.replace(name="other")),))
    again.save(tmp_path / name, overwrite=True)
    assert recipes.get(tmp_path / name) == again


def test_what_a_file_cannot_hold(tmp_path):
    with pytest.raises(ValueError, match="rules by regular expression; the rule 'Dense' → float matches by a class"):
        Recipe(rules=(Rule(keras.layers.Dense, None),)).to_yaml()
    with pytest.raises(ValueError, match="a recipe's file ends in .yaml, .yml, .json"):
        Recipe().save(tmp_path / "recipe.txt")


BAD = [
    ("schme: int8", r"the recipe mine.yaml has no key 'schme' \(did you mean 'scheme'\?\); its keys are name, "
                    r"description, scheme, rules"),
    (
        "scheme: int9",
        r"scheme of the recipe mine.yaml is one of int8, .*, or fields of a scheme, got 'int9' \(did you mean "
        r"'int8'\?\)"
    ),
    ("scheme: 8", "scheme of the recipe mine.yaml has the keys base, weights, .*got 8"),
    ("scheme: {weights: {bits: 4}}", "needs a base .*or weights and activations of its own"),
    (
        "scheme: {base: int8, weights: {bist: 4}}",
        r"weights of scheme of the recipe mine.yaml has no key 'bist' \(did you mean 'bits'\?\)"
    ),
    (
        "scheme: {base: int8, weights: {bits: 40}}",
        "bits of weights of scheme of the recipe mine.yaml is a whole number from 2 to 16, got 40"
    ),
    ("scheme: {base: int8, weights: {bits: '8'}}", "is a whole number from 2 to 16, got '8'"),
    (
        "scheme: {base: int8, activations: {per_channel: true}}",
        "scheme of the recipe mine.yaml: activations have one threshold"
    ),
    ("scheme: {base: int8, weights: {calibration: mes}}", r"did you mean 'mse'\?"),
    ("scheme: {base: int8, rounding: half_eevn}", r"did you mean 'half_even'\?"),
    ("scheme: {base: int8, accumulator_bits: 16}", "bias_bits and accumulator_bits are the same"),
    (
        "scheme: {base: int8, gradients: {bits: 8}}",
        "gradients of scheme of the recipe mine.yaml are for low-bit training"
    ),
    ("rules: d", "rules of the recipe mine.yaml is a list of match and scheme, got 'd'"),
    ("rules: [{match: d}]", "rule 1 of the recipe mine.yaml lacks scheme"),
    (
        "rules: [{match: d, scheme: null}, {match: '(', scheme: null}]",
        r"rule 2 of the recipe mine.yaml: the rule '\(' is not a valid regular expression"
    ),
    ("rules: [{match: 3, scheme: null}]", "match of rule 1 of the recipe mine.yaml is a text, got 3"),
    ("rules: [{match: d, scheme: int9}]", "scheme of rule 1 of the recipe mine.yaml is one of"),
    (
        "calibration: {examples: 0}",
        "examples of calibration of the recipe mine.yaml is a whole number of at least 1, got 0"
    ),
    ("calibration: {examples: many}", "is a whole number of at least 1, got 'many'"),
    ("calibration: {weights: kl}", "weights of calibration of the recipe mine.yaml is one of max"),
    ("alt: {epochs: 2.5}", "epochs of alt of the recipe mine.yaml is a whole number of at least 1, got 2.5"),
    ("alt: {epochs: null}", "epochs of alt of the recipe mine.yaml is a whole number of at least 1, got nothing"),
    (
        "alt: {weight_learning_rate: -1.0}",
        "weight_learning_rate of alt of the recipe mine.yaml is a number above 0, got -1.0"
    ),
    ("alt: {weight_learning_rate: fast}", "is a number above 0, got 'fast'"),
    ("alt: {learning_rate: 0.1}", r"has no key 'learning_rate' \(did you mean 'weight_learning_rate'\?\)"),
    ("target: c98", r"there is no target 'c98' \(did you mean 'c99'\?\)"),
    ("name: ''", "name of the recipe mine.yaml is a text, got ''"),
    ("[1, 2]", "mine.yaml holds a list; expected keys with values"),
    ("scheme: [", "mine.yaml is not valid YAML"),
    ("scheme: int8\nscheme: int4", "mine.yaml gives the key 'scheme' twice; keep one"),
    ("", "mine.yaml holds nothing; expected keys with values"),
]


@pytest.mark.parametrize(("text", "message"), BAD, ids=[text[:40] or "empty" for text, _ in BAD])
def test_bad_files_are_one_sentence(tmp_path, text, message):
    with pytest.raises(ValueError, match=message) as caught:
        recipes.get(write(tmp_path, text))
    assert "\n" not in str(caught.value)


def test_finding_a_recipe(tmp_path):
    with pytest.raises(ValueError, match=r"there is no recipe 'int88' \(did you mean 'int8'\?\); the recipes are "):
        recipes.get("int88")
    with pytest.raises(FileNotFoundError, match="there is no file .*absent.yaml"):
        recipes.get(tmp_path / "absent.yaml")
    with pytest.raises(ValueError, match="is no settings file; expected one of the suffixes .yaml, .yml, .json"):
        recipes.load(write(tmp_path, "", "recipe.toml"))
    with pytest.raises(TypeError, match="a recipe is a name, a path or a Recipe, got 3"):
        recipes.get(3)
    with pytest.raises(ValueError, match="is not valid JSON"):
        recipes.get(write(tmp_path, "{", "cut.json"))
    with pytest.raises(ValueError, match="gives the key 'scheme' twice"):
        recipes.get(write(tmp_path, '{"scheme": "int8", "scheme": "int4"}', "twice.json"))
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match="binary.yaml is not a text file in UTF-8"):
        recipes.get(tmp_path / "binary.yaml")


def test_yaml_is_read_as_people_mean_it(tmp_path):
    path = write(tmp_path, "a: 1e-3\nb: 2E5\nc: 1.5e-2\nd: 7\ne: '1e-3'\nf: null\ng: -3e2\n")
    assert documents.read(path) == {"a": 1e-3, "b": 2e5, "c": 0.015, "d": 7, "e": "1e-3", "f": None, "g": -300.0}
    with pytest.raises(ValueError, match="is not valid YAML"):
        documents.read(write(tmp_path, "a: !!python/object/apply:os.system [true]\n", "evil.yaml"))


def test_json_works_without_pyyaml(tmp_path, monkeypatch):
    path = write(tmp_path, json.dumps({"scheme": "int4", "alt": {"epochs": 9}}), "mine.json")
    real = builtins.__import__
    monkeypatch.setattr(
        builtins, "__import__",
        lambda name, *rest: (_ for _ in ()).throw(ImportError("no yaml")) if name == "yaml" else real(name, *rest)
    )
    assert recipes.load(path) == Recipe(scheme="int4", alt=AltOptions(epochs=9))
    with pytest.raises(
        ImportError, match="reading x.yaml needs the package PyYAML .*install it with pip install pyyaml, or use JSON"
    ):
        documents.read(write(tmp_path, "a: 1", "x.yaml"))
    with pytest.raises(ImportError, match="writing YAML needs the package PyYAML"):
        Recipe().to_yaml()


def small():
    keras.utils.clear_session(free_memory=False)
    layers = keras.layers
    inputs = keras.Input((6,), name="x")
    x = layers.ReLU(name="r")(layers.Dense(5, name="c")(inputs))
    return zoo.randomize(keras.Model(inputs, layers.Dense(3, name="d")(x), name="net"))


DATA = np.random.RandomState(0).normal(size=(40, 6)).astype(np.float32)


def test_a_recipe_quantizes_as_it_says():
    recipe = Recipe(
        scheme="int4", rules=(Rule("d", "int8_per_channel"),),
        calibration=CalibrationOptions(examples=16, activations="max")
    )
    q = recipe.quantize(small(), DATA, progress=False)
    expected = graffiti.quantize(small(), "int4", DATA[:16], rules=[Rule("d", "int8_per_channel")], progress=False)
    graffiti.calibrate(expected, DATA[:16], activations="max", progress=False)
    np.testing.assert_array_equal(q.predict(DATA, verbose=0), expected.predict(DATA, verbose=0))
    other = dataclasses.replace(recipe, calibration=CalibrationOptions()).quantize(small(), DATA, progress=False)
    assert any((a != b).any() for a, b in zip(q.get_weights(), other.get_weights()))
    with pytest.raises(graffiti.TargetError):
        dataclasses.replace(recipe, target="generic_npu_16bit").quantize(small(), DATA, progress=False)
    assert Recipe(target="generic_npu_16bit").quantize(small(), DATA, progress=False).quantization_report


def test_a_recipe_makes_its_optimizer():
    alt = Recipe(
        alt=AltOptions(
            batch_size=8, weight_learning_rate=0.5, threshold_learning_rate=0.25, freeze_start=7, freeze_interval=3
        )
    ).optimizer(10)
    assert float(alt.weights_optimizer.learning_rate) == 0.5 and float(alt.thresholds_optimizer.learning_rate) == 0.25
    assert (alt.freeze_start, alt.freeze_interval) == (7, 3)
