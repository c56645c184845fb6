"""``quantize_training`` and ``strip``: an ordinary model into one that trains in low bits, and back."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping, Sequence

import keras

from graffiti import checks, schemes
from graffiti.calibration import data as calibration_data
from graffiti.config import Rule
from graffiti.keras_io import compat, training
from graffiti.low_bit import engine as engines
from graffiti.low_bit import model as models
from graffiti.low_bit import statistics
from graffiti.low_bit.decisions import Decision, decide, report
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
    rewrap,
)
from graffiti.low_bit.product_layer import Settings
from graffiti.training_config import TrainingScheme


def quantize_training(
    model: keras.Model, scheme: str | TrainingScheme, *, rules: Sequence[Rule] | None = None, engine: str = "auto",
    seed: int = 0,
) -> keras.Model:
    """A Keras model → one that trains with low-bit weights, activations and gradients.

    Each compute layer becomes three products with quantized operands: ``Y = q(X)·q(W)``, ``dX = q(dY)·q(W)ᵀ``, ``dW =
    q(X)ᵀ·q(dY)``, with one and the same ``q(dY)``. Master weights, losses and the optimizer stay float32, and so does
    what a layer of a ``mixed_float16`` or ``mixed_bfloat16`` model computes beside its products. Train it with plain
    ``compile`` and ``fit``; the quantizers' state moves on with each training step and is saved with the model.

    Args:
        model: a built Sequential or Functional model, nested ones included. It is not changed.
        scheme: a preset (``graffiti.schemes.training_names()``) or a ``TrainingScheme``.
        rules: exceptions for single layers, first match wins; ``Rule(match, None)`` keeps a layer in float.
        engine: ``native`` computes on int8 kernels, ``emulated`` with float products of the quantized values, to the
            same bits; ``auto`` is native where the op library is and the scheme's numbers fit int8.
        seed: of stochastic rounding. The bits of a layer follow from it and the layer's path.

    Returns:
        A new model with the same weights, inputs and outputs. Its attribute ``quantization_report`` says what each
        layer does.

    Raises:
        ValueError: where the model is not built, is subclassed, or holds no layer to train in low bits; where a rule
            matches nothing or an argument is unknown.
        TypeError: where ``model`` is not a Keras 3 model, or ``scheme`` is one of static quantization.

    Example:
        >>> t = graffiti.quantize_training(model, "adaptive_precision")
        >>> t.compile("sgd", "mse"); t.fit(x, y)
        >>> plain = graffiti.strip(t)
    """
    compat.check_model(model)
    if not compat.is_functional(model):
        raise ValueError(
            f"model {model.name!r} is subclassed; low-bit training rewrites its layers and takes Sequential and "
            "Functional models: rebuild it as one of these")
    chosen = schemes.get_training(scheme)
    engines.check(engine)
    decisions = decide(model, chosen, rules)
    lines = report(decisions)
    if not lines.of("quantized"):
        reasons = "; ".join(f"{line.layer}: {line.why}" for line in lines) or "no compute layer"
        raise ValueError(f"model {model.name!r} holds no layer that {chosen.name} trains in low bits: {reasons}")
    return apply(model, decisions, engine=engine, seed=seed)


def apply(
    model: keras.Model, decisions: Sequence[Decision], *, engine: str = "auto", seed: int = 0,
) -> keras.Model:
    """A copy of a model in which each layer is what was decided.

    Args:
        model: the one that ``decide`` looked at. It is not changed.
        decisions: what ``decide`` returned, perhaps without some of the compute layers', which then stay as they are.
        engine: see ``quantize_training``.
        seed: see ``quantize_training``.

    Returns:
        The new model with the same weights and a ``quantization_report``.

    Raises:
        ValueError: where a decision is about a layer of another model.
    """
    own = {id(layer) for layer in compat.sublayers(model)}
    foreign = next((d for d in decisions if id(d.layer) not in own), None)
    if foreign is not None:
        raise ValueError(f"{foreign.path!r} is no layer of model {model.name!r}; decide about the model that they are "
                         "applied to")
    parts: dict[int, dict[str, Decision]] = {}
    for decision in decisions:
        parts.setdefault(id(decision.layer), {})[decision.part] = decision

    def made(decision: Decision) -> keras.layers.Layer | None:
        if decision.action not in MAKERS:
            return None
        settings = None
        if decision.scheme is not None:
            settings = Settings(decision.scheme, engine, decision.signed, layer_seed(seed, decision.path))
        return MAKERS[decision.action](decision, settings)

    def replace(layer):
        inner = {part: made(decision) for part, decision in parts.get(id(layer), {}).items()}
        if "" in inner:
            return inner[""]
        inner = {part: layer for part, layer in inner.items() if layer is not None}
        return rewrap(layer, inner) if inner else None

    partners = {id(d.layer): d.partner for d in decisions if d.partner is not None}
    return models.trained(rebuild(model, replace, partners), report(decisions))


def _low_bit(decision: Decision, settings: Settings) -> keras.layers.Layer:
    return LOW_BIT_LAYERS[type(decision.target)].from_config(settings.low_bit_config(decision.target.get_config()))


def _quantized_norm(decision: Decision, settings: Settings) -> keras.layers.Layer:
    return QuantizedBatchNormalization.from_config(settings.low_bit_config(decision.layer.get_config()))


def _fused_norm(decision: Decision, settings: None) -> keras.layers.Layer:
    return FusedBatchNormalization.from_config({**decision.layer.get_config(), "relu": decision.relu})


def _residual_norm(decision: Decision, settings: None) -> keras.layers.Layer:
    assert decision.partner is not None
    own = {"name": decision.layer.name, "relu": decision.relu, "normalized": decision.normalized}
    return ResidualBatchNormalization.from_config(
        {**decision.partner.get_config(), **own, "original": keras.saving.serialize_keras_object(decision.layer)})


def _absorbed(decision: Decision, settings: None) -> keras.layers.Layer:
    layer = decision.layer
    held = {
        "original": keras.saving.serialize_keras_object(layer), "name": layer.name, "dtype": layer.dtype_policy}
    if decision.partner is None:
        return AbsorbedReLU(**held)
    return AbsorbedBatchNormalization(computed_by=decision.partner.name, **held)


MAKERS: dict[str, Callable[..., keras.layers.Layer]] = {  # action -> the new layer; the others stay as they are
    "low_bit": _low_bit,
    "quantized_norm": _quantized_norm,
    "fused_norm": _fused_norm,
    "residual_norm": _residual_norm,
    "absorbed_norm": _absorbed,
    "absorbed_relu": _absorbed,
}


def strip(
    model: keras.Model, data=None, *, steps: int | None = None, batch_size: int = 128, progress: bool = True
) -> keras.Model:
    """A model of low-bit training → an ordinary Keras model with the trained float weights.

    Its batch norms hold the statistics of the network with its quantizers, which in few bits are others than without: a
    ResNet-20 of ⟨2,1⟩ elements loses 3 points by that alone (``BENCHMARKS.md``). With ``data`` they are taken anew, as
    the mean over the batches of one pass in training mode.

    Args:
        model: made by ``quantize_training``, trained or not, perhaps loaded from a file. It is not changed.
        data: training inputs for the batch norms' statistics, as in ``quantize``; a few thousand do. Without it they
            stay as trained.
        steps: how many batches of ``data`` to use; all by default. Of plain arrays one step is 32 examples.
        batch_size: examples of the batches whose statistics are taken; that of training.
        progress: show a bar where the pass takes longer than two seconds.

    Returns:
        A new model of ordinary layers with the same names; ``quantize`` takes it.

    Raises:
        ValueError: where the model holds nothing of low-bit training; for data that the model cannot take, with NaN or
            Inf, or endless without ``steps``; for a batch size under 1.
        TypeError: where it is not a Keras 3 model.

    References: Wu and Johnson, "Rethinking 'Batch' in BatchNorm", arXiv 2105.07576, section 3.
    """
    batch_size = checks.whole("batch_size", batch_size, 1, of="examples")
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

    stripped = models.plain(rebuild(model, replace, _residual_partners(model)))
    if not found:
        raise ValueError(f"model {model.name!r} holds no layer of low-bit training; graffiti.strip takes what "
                         "graffiti.quantize_training made")
    if data is not None:
        statistics.reestimate(stripped, calibration_data.collect(data, stripped, steps), batch_size, progress=progress)
    return stripped


def _residual_partners(model: keras.Model) -> dict[int, keras.layers.Layer]:
    """Absorbed batch norms and the sums that compute them, each by the ``id`` of the other, in all nested models."""
    found: dict[int, keras.layers.Layer] = {}
    for part in (layer for layer in compat.sublayers(model) if isinstance(layer, keras.Model)):
        for layer in part.layers:
            if isinstance(layer, AbsorbedBatchNormalization):
                other = part.get_layer(layer.computed_by)
                found.update({id(layer): other, id(other): layer})
    return found


def rebuild(
    model: keras.Model, replace: Callable[[keras.layers.Layer], keras.layers.Layer | None],
    partners: Mapping[int, keras.layers.Layer] | None = None,
) -> keras.Model:
    """A copy of a model with some layers replaced, all weights carried over.

    Args:
        model: Sequential or Functional.
        replace: layer → its replacement of the same name, or ``None`` for a plain copy.
        partners: ``id`` of a layer → another, whose weights and ``trainable`` its replacement takes over instead; may
            grow while layers are replaced.
    """
    pairs: list[tuple[keras.layers.Layer, keras.layers.Layer]] = []

    def clone(layer):
        # the latter compute masks
        if isinstance(layer, keras.layers.InputLayer) or not isinstance(layer, keras.layers.Layer):
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
    training.hand_on(copy, model)
    return copy


def _named_inputs(model: keras.Model):
    """Inputs with the names of the model's, in its structure; a Sequential model keeps them by itself."""
    if isinstance(model, keras.Sequential):
        return None
    return keras.tree.map_structure(
        lambda x: keras.Input(batch_shape=x.shape, dtype=x.dtype, sparse=x.sparse, name=compat.input_name(x)),
        model.input
    )


def _copy_weights(old: keras.layers.Layer, new: keras.layers.Layer) -> None:
    sources, targets = (_plain_weights(layer) for layer in (old, new))
    if [tuple(v.shape) for v in sources] != [tuple(v.shape) for v in targets]:
        raise ValueError(
            f"the weights of layer {old.name!r} do not fit its copy: {[v.path for v in sources]} and "
            f"{[v.path for v in targets]}"
        )
    for source, target in zip(sources, targets):
        target.assign(source)


def _plain_weights(layer: keras.layers.Layer) -> list:
    own = {
        id(variable) for part in compat.sublayers(layer) if hasattr(part, "low_bit_state")
        for variable in part.low_bit_state()
    }
    return [variable for variable in layer.weights if id(variable) not in own]


def layer_seed(seed: int, path: str) -> int:
    """The seed of one layer's random bits: nothing but the user's seed and the layer's path counts."""
    return zlib.crc32(f"{seed}/{path}".encode()) & 0x0FFFFFFF  # quantizers count in eighths of 32 bits


__all__ = ["Decision", "LowBitLayer", "apply", "decide", "quantize_training", "rebuild", "report", "strip"]
