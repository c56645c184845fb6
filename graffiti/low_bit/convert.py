"""``quantize_training`` and ``strip``: an ordinary model into one that trains in low bits, and back."""

from __future__ import annotations

import dataclasses
import zlib
from collections.abc import Callable, Mapping, Sequence

import keras

from graffiti import schemes
from graffiti.calibration import data as calibration_data
from graffiti.config import LayerInfo, ReportLine, Rule
from graffiti.keras_io import compat
from graffiti.low_bit import engine as engines
from graffiti.low_bit import statistics
from graffiti.low_bit.layers import (
    LOW_BIT_LAYERS,
    AbsorbedBatchNormalization,
    AbsorbedLayer,
    AbsorbedReLU,
    FusedBatchNormalization,
    LowBitLayer,
    QuantizedBatchNormalization,
    ResidualBatchNormalization,
    inner_layers,
    low_bit_class,
    rewrap,
)
from graffiti.low_bit.network import Place, analyse
from graffiti.low_bit.product_layer import Settings
from graffiti.reports import QuantizationReport
from graffiti.training_config import TrainingScheme


def quantize_training(
    model: keras.Model, scheme: str | TrainingScheme, *, rules: Sequence[Rule] | None = None, engine: str = "auto", seed: int = 0,
) -> keras.Model:
    """A Keras model → one that trains with low-bit weights, activations and gradients.

    Each compute layer becomes three products with quantized operands: ``Y = q(X)·q(W)``, ``dX = q(dY)·q(W)ᵀ``, ``dW = q(X)ᵀ·q(dY)``, with one and the same ``q(dY)``.
    Master weights, losses and the optimizer stay float32, and so does what a layer of a ``mixed_float16`` or ``mixed_bfloat16`` model computes beside its products.
    Train it with plain ``compile`` and ``fit``; the quantizers' state moves on with each training step and
    is saved with the model.

    Args:
        model: a built Sequential or Functional model, nested ones included. It is not changed.
        scheme: a preset (``graffiti.schemes.training_names()``) or a ``TrainingScheme``.
        rules: exceptions for single layers, first match wins; ``Rule(match, None)`` keeps a layer in float.
        engine: ``native`` computes on int8 kernels, ``emulated`` with float products of the quantized values, to the same bits; ``auto`` is native where the op library
            is and the scheme's numbers fit int8.
        seed: of stochastic rounding. The bits of a layer follow from it and the layer's path.

    Returns:
        A new model with the same weights, inputs and outputs. Its attribute ``quantization_report`` says what each layer does.

    Raises:
        ValueError: where the model is not built, is subclassed, or holds no layer to train in low bits; where a rule matches nothing or an argument is unknown.
        TypeError: where ``model`` is not a Keras 3 model, or ``scheme`` is one of static quantization.

    Example:
        >>> t = graffiti.quantize_training(model, "adaptive_precision")
        >>> t.compile("sgd", "mse"); t.fit(x, y)
        >>> plain = graffiti.strip(t)
    """
    compat.check_model(model)
    if not compat.is_functional(model):
        raise ValueError(f"model {model.name!r} is subclassed; low-bit training rewrites its layers and takes Sequential and Functional models: rebuild it as one of these")
    chosen = schemes.get_training(scheme)
    engines.check(engine)
    rules = list(rules or ())
    places = analyse(model)
    matched: set[int] = set()
    lines: list[ReportLine] = []
    absorbed: set[int] = set()
    partners: dict[int, keras.layers.Layer] = {}  # a batch norm and the Add that computes it, each by the id of the other

    def scheme_of(layer, place: Place) -> tuple[TrainingScheme | None, str]:
        kind = _kind(layer)
        info = LayerInfo(place.path, (type(layer).__name__,), kind)
        for index, rule in enumerate(rules):
            if rule.matches(info):
                matched.add(index)
                return (None, "a rule keeps it in float") if rule.scheme is None else (schemes.get_training(rule.scheme), f"by the rule {rule}")
        if kind not in chosen.kinds and kind != "batch_norm":
            return None, f"{chosen.name} leaves {kind} layers in float"
        if place.first and not chosen.first_layer:
            return None, f"{chosen.name} leaves the first layer in float"
        if place.last and not chosen.last_layer:
            return None, f"{chosen.name} leaves the last layer in float"
        return chosen, f"trains by {chosen.name}"

    def replace(layer):
        place = places.get(id(layer), Place(layer.name, signed=True))
        if id(layer) in absorbed:
            return AbsorbedReLU(original=keras.saving.serialize_keras_object(layer), name=layer.name, dtype=layer.dtype_policy)
        if type(layer) is keras.layers.Add and id(layer) in partners:
            norm = partners[id(layer)]
            place = places[id(norm)]
            config = {**norm.get_config(), "name": layer.name, "relu": place.relu is not None, "normalized": place.residual[1]}
            return ResidualBatchNormalization.from_config({**config, "original": keras.saving.serialize_keras_object(layer)})
        if type(layer) is keras.layers.BatchNormalization:
            own, why = scheme_of(layer, place)
            if own is not None and own.batch_norm is not None:
                lines.append(ReportLine(place.path, "quantized", why))
                settings = Settings(own, engine, True, layer_seed(seed, place.path))
                return QuantizedBatchNormalization.from_config(settings.low_bit_config(layer.get_config()))
            if place.relu is not None:
                absorbed.add(id(place.relu))
            if place.residual is not None:
                addition = place.residual[0]
                partners.update({id(layer): addition, id(addition): layer})
                return AbsorbedBatchNormalization(
                    original=keras.saving.serialize_keras_object(layer), computed_by=addition.name, name=layer.name, dtype=layer.dtype_policy)
            return FusedBatchNormalization.from_config({**layer.get_config(), "relu": place.relu is not None})
        inner = {name: low_bit(part, dataclasses.replace(place, path=f"{place.path}/{part.name}")) for name, part in inner_layers(layer).items()}
        if any(inner.values()):
            return rewrap(layer, {name: part for name, part in inner.items() if part is not None})
        return low_bit(layer, place)

    def low_bit(layer, place: Place):
        if type(layer) not in LOW_BIT_LAYERS:
            return None
        if low_bit_class(layer) is None:
            lines.append(ReportLine(place.path, "float", f"{type(layer).__name__} over a {type(layer.cell).__name__} is not trained in low bits"))
            return None
        own, why = scheme_of(layer, place)
        lines.append(ReportLine(place.path, "float" if own is None else "quantized", why))
        if own is None:
            return None
        settings = Settings(own, engine, place.signed, layer_seed(seed, place.path))
        return LOW_BIT_LAYERS[type(layer)].from_config(settings.low_bit_config(layer.get_config()))

    trained = rebuild(model, replace, partners)
    unused = [str(rule) for index, rule in enumerate(rules) if index not in matched]
    if unused:
        raise ValueError(f"these rules match no layer: {', '.join(unused)}; the layers are {', '.join(sorted(p.path for p in places.values()))}")
    if not any(line.what == "quantized" for line in lines):
        raise ValueError(f"model {model.name!r} holds no layer that {chosen.name} trains in low bits: {'; '.join(f'{line.layer}: {line.why}' for line in lines) or 'no compute layer'}")
    trained.quantization_report = QuantizationReport(lines)
    return trained


def strip(model: keras.Model, data=None, *, steps: int | None = None, batch_size: int = 128, progress: bool = True) -> keras.Model:
    """A model of low-bit training → an ordinary Keras model with the trained float weights.

    Its batch norms hold the statistics of the network with its quantizers, which in few bits are others than without: a ResNet-20 of ⟨2,1⟩ elements loses 3 points
    by that alone (``BENCHMARKS.md``). With ``data`` they are taken anew, as the mean over the batches of one pass in training mode.

    Args:
        model: made by ``quantize_training``, trained or not, perhaps loaded from a file. It is not changed.
        data: training inputs for the batch norms' statistics, as in ``quantize``; a few thousand do. Without it they stay as trained.
        steps: how many batches of ``data`` to use; all by default. Of plain arrays one step is 32 examples.
        batch_size: examples of the batches whose statistics are taken; that of training.
        progress: show a bar where the pass takes longer than two seconds.

    Returns:
        A new model of ordinary layers with the same names; ``quantize`` takes it.

    Raises:
        ValueError: where the model holds nothing of low-bit training; for data that the model cannot take, with NaN or Inf, or endless without ``steps``; for a batch
            size under 1.
        TypeError: where it is not a Keras 3 model.

    References: Wu and Johnson, "Rethinking 'Batch' in BatchNorm", arXiv 2105.07576, section 3.
    """
    if isinstance(batch_size, bool) or int(batch_size) != batch_size or batch_size < 1:
        raise ValueError(f"batch_size is a number of examples, at least 1, got {batch_size!r}")
    compat.check_model(model)
    found = []

    def replace(layer):
        if isinstance(layer, (AbsorbedLayer, ResidualBatchNormalization)):
            return layer.plain_layer()
        inner = {name: replace(part) for name, part in inner_layers(layer).items()}
        if any(inner.values()):
            return rewrap(layer, {name: part for name, part in inner.items() if part is not None})
        if not hasattr(layer, "plain_config"):
            return None
        found.append(layer)
        return layer.plain_class().from_config(layer.plain_config())

    stripped = rebuild(model, replace, _residual_partners(model))
    if not found:
        raise ValueError(f"model {model.name!r} holds no layer of low-bit training; graffiti.strip takes what graffiti.quantize_training made")
    if data is not None:
        statistics.reestimate(stripped, calibration_data.collect(data, stripped, steps), int(batch_size), progress=progress)
    return stripped


def _residual_partners(model: keras.Model) -> dict[int, keras.layers.Layer]:
    """Absorbed batch norms and the sums that compute them, each by the ``id`` of the other, in all nested models."""
    found: dict[int, keras.layers.Layer] = {}
    for part in (model, *(layer for layer in model._flatten_layers(include_self=False) if isinstance(layer, keras.Model))):
        for layer in part.layers:
            if isinstance(layer, AbsorbedBatchNormalization):
                other = part.get_layer(layer.computed_by)
                found.update({id(layer): other, id(other): layer})
    return found


def rebuild(
    model: keras.Model, replace: Callable[[keras.layers.Layer], keras.layers.Layer | None], partners: Mapping[int, keras.layers.Layer] | None = None,
) -> keras.Model:
    """A copy of a model with some layers replaced, all weights carried over.

    Args:
        model: Sequential or Functional.
        replace: layer → its replacement of the same name, or ``None`` for a plain copy.
        partners: ``id`` of a layer → another, whose weights and ``trainable`` its replacement takes over instead; may grow while layers are replaced.
    """
    pairs: list[tuple[keras.layers.Layer, keras.layers.Layer]] = []

    def clone(layer):
        if isinstance(layer, keras.layers.InputLayer) or not isinstance(layer, keras.layers.Layer):  # the latter compute masks
            return layer.__class__.from_config(layer.get_config())
        new = replace(layer)
        new = layer.__class__.from_config(layer.get_config()) if new is None else new
        source = (partners or {}).get(id(layer), layer)
        new.trainable = source.trainable
        pairs.append((source, new))
        return new

    copy = keras.models.clone_model(model, input_tensors=_named_inputs(model), clone_function=clone, recursive=True)
    if not copy.built:
        copy.build(model.input_shape)
    for old, new in pairs:
        _copy_weights(old, new)
    return copy


def _named_inputs(model: keras.Model):
    """Inputs with the names of the model's, in its structure; a Sequential model keeps them by itself."""
    if isinstance(model, keras.Sequential):
        return None
    return keras.tree.map_structure(lambda x: keras.Input(batch_shape=x.shape, dtype=x.dtype, sparse=x.sparse, name=compat.input_name(x)), model.input)


def _copy_weights(old: keras.layers.Layer, new: keras.layers.Layer) -> None:
    sources, targets = (_plain_weights(layer) for layer in (old, new))
    if [tuple(v.shape) for v in sources] != [tuple(v.shape) for v in targets]:
        raise ValueError(f"the weights of layer {old.name!r} do not fit its copy: {[v.path for v in sources]} and {[v.path for v in targets]}")
    for source, target in zip(sources, targets):
        target.assign(source)


def _plain_weights(layer: keras.layers.Layer) -> list:
    own = {id(variable) for part in layer._flatten_layers() if hasattr(part, "low_bit_state") for variable in part.low_bit_state()}
    return [variable for variable in layer.weights if id(variable) not in own]


def layer_seed(seed: int, path: str) -> int:
    """The seed of one layer's random bits: nothing but the user's seed and the layer's path counts."""
    return zlib.crc32(f"{seed}/{path}".encode()) & 0x0FFFFFFF  # quantizers count in eighths of 32 bits


def _kind(layer: keras.layers.Layer) -> str:
    replacement = LOW_BIT_LAYERS.get(type(layer))
    return "batch_norm" if replacement is None else replacement.low_bit_kind


__all__ = ["LowBitLayer", "quantize_training", "rebuild", "strip"]
