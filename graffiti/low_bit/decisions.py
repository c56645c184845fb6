"""``decide``: what becomes of each layer of a model in low-bit training. Nothing is built or changed; the list is
the report.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence

import keras

from graffiti import schemes
from graffiti.config import LayerInfo, ReportLine, Rule
from graffiti.keras_io import compat
from graffiti.low_bit.layers import LOW_BIT_LAYERS, inner_layers, low_bit_class
from graffiti.low_bit.network import Place, analyse
from graffiti.reports import QuantizationReport
from graffiti.training_config import TrainingScheme

# action -> what a report calls it; ``None``: the layer computes what it did, so no line says anything
ACTIONS: dict[str, str | None] = {
    "low_bit": "quantized",          # a compute layer with quantized products
    "float": "float",                # a compute layer as it is
    "quantized_norm": "quantized",   # a batch norm of two quantized parts
    "fused_norm": None,              # a batch norm in one kernel, perhaps with the ReLU behind it
    "residual_norm": None,           # a sum that computes a batch norm too, perhaps with the ReLU behind it
    "absorbed_norm": None,           # a batch norm that hands its input on to the sum
    "absorbed_relu": None,           # a ReLU that the layer in front of it computes
}


@dataclasses.dataclass(frozen=True)
class Decision:
    """What becomes of one layer.

    Attributes:
        layer: of the model.
        path: its name, ``inner/layer`` in a nested model or a wrapper. Rules and random bits go by it.
        action: of ``ACTIONS``.
        why: one sentence, where a report has a line for the action.
        part: of a wrapper, the attribute that holds the layer it is about (``forward_layer``); else empty.
        scheme: how the layer is trained; ``None`` where it is not quantized.
        signed: whether its input may be negative.
        relu: whether it computes the ReLU behind it.
        partner: of ``residual_norm`` its batch norm, of ``absorbed_norm`` its sum.
        normalized: of ``residual_norm``, which of the two inputs is normalized.
    """

    layer: keras.layers.Layer
    path: str
    action: str
    why: str = ""
    part: str = ""
    scheme: TrainingScheme | None = None
    signed: bool = True
    relu: bool = False
    partner: keras.layers.Layer | None = None
    normalized: int = 0

    @property
    def target(self) -> keras.layers.Layer:
        """The layer that it is about: the model's, or the one inside it."""
        return getattr(self.layer, self.part) if self.part else self.layer


def decide(model: keras.Model, scheme: str | TrainingScheme, rules: Sequence[Rule] | None = None) -> list[Decision]:
    """What ``quantize_training`` makes of a model; the model is only read.

    Args:
        model: Sequential or Functional, nested ones included.
        scheme: a preset or a ``TrainingScheme``.
        rules: exceptions, first match wins.

    Returns:
        A decision for each layer that is replaced and each compute layer that is not, in the order of the model. Other
        layers stay as they are.

    Raises:
        ValueError: where a rule matches nothing.
    """
    choice, places = _Choice(schemes.get_training(scheme), list(rules or ())), analyse(model)
    found: list[Decision] = []
    taken: dict[int, Decision] = {}  # what a batch norm in front has decided about a layer
    for layer in _layers(model):
        place = places.get(id(layer), Place(layer.name, signed=True))
        if id(layer) in taken:
            found.append(taken[id(layer)])
        elif type(layer) is keras.layers.BatchNormalization:
            own, *others = _norm(layer, place, places, choice)
            found.append(own)
            taken.update({id(other.layer): other for other in others})
        else:
            found += _compute(layer, place, choice)
    choice.check(sorted(place.path for place in places.values()))
    return found


def report(decisions: Sequence[Decision]) -> QuantizationReport:
    """The lines of ``quantization_report``."""
    return QuantizationReport(
        ReportLine(d.path, what, d.why) for d in decisions if (what := ACTIONS[d.action]) is not None
    )


class _Choice:
    """The scheme of each layer, by rules and by where it stands; remembers which rules matched."""

    def __init__(self, scheme: TrainingScheme, rules: list[Rule]) -> None:
        self.scheme, self.rules, self.matched = scheme, rules, set[int]()

    def of(self, layer: keras.layers.Layer, place: Place) -> tuple[TrainingScheme | None, str]:
        """The scheme, ``None`` for float, and why."""
        kind = _kind(layer)
        info = LayerInfo(place.path, (type(layer).__name__,), kind)
        for index, rule in enumerate(self.rules):
            if rule.matches(info):
                self.matched.add(index)
                if rule.scheme is None:
                    return None, "a rule keeps it in float"
                return schemes.get_training(rule.scheme), f"by the rule {rule}"
        name = self.scheme.name
        if kind not in self.scheme.kinds and kind != "batch_norm":
            return None, f"{name} leaves {kind} layers in float"
        if place.first and not self.scheme.first_layer:
            return None, f"{name} leaves the first layer in float"
        if place.last and not self.scheme.last_layer:
            return None, f"{name} leaves the last layer in float"
        return self.scheme, f"trains by {name}"

    def check(self, paths: list[str]) -> None:
        """Refuse rules that matched nothing."""
        unused = [str(rule) for index, rule in enumerate(self.rules) if index not in self.matched]
        if unused:
            raise ValueError(f"these rules match no layer: {', '.join(unused)}; the layers are {', '.join(paths)}")


def _layers(model: keras.Model) -> Iterator[keras.layers.Layer]:
    """The layers of a model and of those nested in it, each once, in order."""
    seen: set[int] = set()
    stack = list(reversed(model.layers))
    while stack:
        layer = stack.pop()
        if id(layer) in seen:
            continue
        seen.add(id(layer))
        if isinstance(layer, keras.Model) and compat.is_functional(layer):
            stack.extend(reversed(layer.layers))
        else:
            yield layer


def _norm(layer, place: Place, places: dict[int, Place], choice: _Choice) -> list[Decision]:
    """A batch norm, and what it says about the sum and the ReLU behind it."""
    scheme, why = choice.of(layer, place)
    if scheme is not None and scheme.batch_norm is not None:
        return [Decision(layer, place.path, "quantized_norm", why, scheme=scheme)]
    relu = place.relu is not None
    behind = [] if place.relu is None else [Decision(place.relu, places[id(place.relu)].path, "absorbed_relu")]
    if place.residual is None:
        return [Decision(layer, place.path, "fused_norm", relu=relu), *behind]
    addition, normalized = place.residual
    total = Decision(
        addition, places[id(addition)].path, "residual_norm", relu=relu, partner=layer, normalized=normalized)
    return [Decision(layer, place.path, "absorbed_norm", partner=addition), total, *behind]


def _compute(layer, place: Place, choice: _Choice) -> list[Decision]:
    """A compute layer, or those that a wrapper calls; nothing for any other layer."""
    inner = inner_layers(layer)
    targets = {part: target for part, target in inner.items() if type(target) in LOW_BIT_LAYERS} or {"": layer}
    found = []
    for part, target in targets.items():
        if type(target) not in LOW_BIT_LAYERS:
            continue
        own = dataclasses.replace(place, path=f"{place.path}/{target.name}") if part else place
        if low_bit_class(target) is None:
            scheme, why = (
                None, f"{type(target).__name__} over a {type(target.cell).__name__} is not trained in low bits"
            )
        else:
            scheme, why = choice.of(target, own)
        action = "float" if scheme is None else "low_bit"
        found.append(Decision(layer, own.path, action, why, part, scheme, own.signed))
    return found


def _kind(layer: keras.layers.Layer) -> str:
    replacement = LOW_BIT_LAYERS.get(type(layer))
    return "batch_norm" if replacement is None else replacement.low_bit_kind
