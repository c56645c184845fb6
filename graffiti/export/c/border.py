"""From a graph with float borders to one of codes only: what the generated function takes and returns.

``quantize`` at the inputs and ``dequantize`` at the outputs go; the caller passes codes and gets codes. Ops that only
move values commute with both and are done on codes. A softmax at the end goes too: it does not change which class is
largest.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np

from graffiti.export.base import Problem
from graffiti.graph import affine, interpreter
from graffiti.graph.ir import Graph, Node, TensorType
from graffiti.graph.ops import OPS, attributes
from graffiti.numerics import reference
from graffiti.numerics.formats import QFormat

Stages = tuple[tuple[np.ndarray, np.ndarray], ...]


@dataclasses.dataclass(frozen=True)
class InputPort:
    """One array of codes that the caller passes: a graph input rounded to a format, behind the affine maps of the
    border.

    ``affine`` holds a scale and an offset for each map, first to last; they broadcast against one example. The product
    is rounded to float32, then the sum.
    """

    value: str      # name in the graph of codes
    source: str     # the graph input it is made of
    format: QFormat
    rounding: str
    affine: tuple[tuple[np.ndarray, np.ndarray], ...] = dataclasses.field(default=(), compare=False)

    def codes(self, real: np.ndarray) -> np.ndarray:
        """The codes of real inputs ``(examples, ...)``, by the reference."""
        real = np.asarray(real, np.float32)
        for scale, offset in self.affine:
            real = reference.rescaling(real, scale, offset)
        return reference.quantize(real, self.format, self.rounding, name=f"input {self.source!r}")


@dataclasses.dataclass(frozen=True)
class OutputPort:
    """One array of codes that comes back, for a graph output or, where the graph joins values of different scales,
    for one part of it.
    """

    value: str
    source: str
    name: str       # what the model calls it
    softmax: bool   # whether the graph applies softmax to it, which the exported network leaves out
    part: str | None = None  # the float value of the graph that this part of the output is


@dataclasses.dataclass(frozen=True)
class Border:
    """A graph of codes with its ports, inputs in the order of the model's.

    Attributes:
        passed: outputs, by their names, that are an input as it came: the caller has their reals, and no port returns
            them → the input.
        problems: what stood against it; then the graph is incomplete.
    """

    graph: Graph
    inputs: list[InputPort]
    outputs: list[OutputPort]
    passed: dict[str, str]
    problems: list[Problem]


def take_border_off(graph: Graph) -> Border:
    """Remove the float borders of an integer graph.

    1. ``quantize`` of a graph input: the input becomes codes; two formats of one input become two inputs.
    2. ``quantize`` behind moves of an input: the moves are done on its codes (zeros stay zeros, maxima stay maxima).
       Behind a ``rescaling`` of an input: the port has it; moves in front of the rescaling are done on codes as well,
       and its numbers are moved back.
    3. ``quantize`` of a dequantized value: a ``requantize``.
    4. ``dequantize`` and float moves behind it: the codes. Where a concat joins several of them for an output, each
       part is a port of its own, as it is in front of the concat: parts have scales of their own.
    5. ``softmax`` that nothing but the outputs read, perhaps through moves: left out.
    6. An output that is an input has no codes of its own: left out, the caller has it.
    7. Any other float op is a problem.
    """
    return _Remover(graph).run()


class _Remover:
    def __init__(self, graph: Graph) -> None:
        self.old = graph
        self.new = Graph("integer", name=graph.name, constants=dict(graph.constants))
        self.new.types = {name: graph.types[name] for name in graph.constants}
        # codes of old values, floats that are codes in truth included
        self.code_of: dict[str, str] = {name: name for name in graph.constants}
        self.made: dict[tuple[str, QFormat, str], str] = {}
        self.ports: list[InputPort] = []
        self.softmax: set[str] = set()
        self.problems: list[Problem] = []
        self.users = graph.users()
        self.producers = graph.producers()

    def run(self) -> Border:
        for node in self.old.nodes:
            self._node(node)
        outputs, passed = [], {}
        for name, called in zip(self.old.outputs, self.old.output_names()):
            if name in self.old.inputs and self.old.types[name].is_float:
                passed[called] = name
                continue
            if name in self.code_of:
                outputs.append(OutputPort(self.code_of[name], name, called, name in self.softmax))
                continue
            parts = self._parts(name)
            if parts:
                outputs += [OutputPort(self.code_of[part], name, called, part in self.softmax, part) for part in parts]
            elif not self.problems:
                self.problems.append(
                    Problem(
                        name, "output", "it is a float value that no quantizer made", "quantize the layer that makes it"
                    )
                )
        if not outputs and not self.problems:
            self.problems.append(
                Problem(
                    self.old.name, "graph", "every output is an input as it came, so there is nothing to compute",
                    "export a model with a layer in it"
                )
            )
        self.ports.sort(key=lambda port: self.old.inputs.index(port.source))
        self.new.outputs = [port.value for port in outputs]
        self.new.inputs = [port.value for port in self.ports]
        # else it stays whole, so that everything in it that stands against the export is found at once
        if not self.problems:
            self.new.prune()
        return Border(self.new, self.ports, outputs, passed, self.problems)

    def _node(self, node: Node) -> None:
        float_in = bool(node.inputs) and any(self.old.types[v].is_float for v in node.inputs)
        if node.op == "quantize":
            attrs = attributes(node)
            code = self._codes(node.inputs[0], attrs["format"], attrs["rounding"], node)
            if code is not None:
                self.code_of[node.output] = code
        elif node.op == "dequantize":
            if node.inputs[0] in self.code_of:
                self.code_of[node.output] = self.code_of[node.inputs[0]]
        elif node.op == "softmax":
            if not self._reaches_only_outputs(node.output):
                self._problem(
                    node, "a softmax inside the network is computed in float",
                    "keep softmax at the output, or use a table activation instead"
                )
            elif node.inputs[0] in self.code_of:
                self.code_of[node.output] = self.code_of[node.inputs[0]]
                self.softmax.add(node.output)
        elif node.op == "island":
            self._problem(
                node, f"it is kept in float ({node.attrs.get('reason') or 'no integer form'})",
                "quantize it, replace it, or leave it out of the exported model"
            )
        elif not float_in:
            if all(v in self.code_of for v in node.inputs):
                for out in node.outputs:
                    self.new.types[out] = self.old.types[out]
                    self.code_of[out] = out
                self.new.nodes.append(
                    Node(node.op, tuple(self.code_of[v] for v in node.inputs), node.outputs, dict(node.attrs))
                )
        elif node.op == "rescaling":
            pass  # waits for its quantize
        elif node.op not in OPS or not OPS[node.op].moves_codes:
            self._problem(node, "it computes in float", "quantize it or keep it outside the exported model")
        elif len(set(node.inputs)) > 1:
            pass  # joined values of different scales: see _parts; or in front of a quantize
        elif all(v in self.code_of for v in node.inputs):
            # moves behind a dequantize; those in front of a quantize wait for it
            self.code_of[node.output] = self._move(node, [self.code_of[v] for v in node.inputs], f"{node.output}/codes")
            if any(v in self.softmax for v in node.inputs):
                self.softmax.add(node.output)

    def _codes(
        self, value: str, format: QFormat, rounding: str, quantize: Node, stages: Stages = (), name: str | None = None
    ) -> str | None:
        """The codes of a float value in a format, made on demand; ``None`` where a problem was found before.
        ``stages`` are affine maps behind it.
        """
        key = (value, format, rounding)
        if key in self.made and not stages:
            return self.made[key]
        name = name or (quantize.output if value == quantize.inputs[0] else f"{value}/codes")
        name = name if name not in self.new.types else self.new.unique(name)
        shape = self.old.shape(value)
        producer = self.producers.get(value)
        if value in self.old.inputs:
            self.new.types[name] = TensorType(shape, format)
            self.ports.append(InputPort(name, value, format, rounding, stages))
        elif producer is not None and producer.op == "rescaling":
            made = self._codes(
                producer.inputs[0], format, rounding, quantize, (affine.numbers(self.old, producer), *stages), name
            )
            if made is None:
                return None
            name = made
        elif (
            not stages and value in self.code_of and value not in self.softmax and self._bits(self.code_of[value]) <= 24
        ):
            # float32 held them exactly
            self.new.nodes.append(
                Node("requantize", (self.code_of[value],), (name,), {"format": format, "rounding": rounding})
            )
            self.new.types[name] = TensorType(shape, format)
        elif producer is not None and producer.op in OPS and OPS[producer.op].moves_codes:
            behind = self._moved_back(producer, stages, format, rounding)
            if behind is None:
                self._problem(
                    producer, f"an affine map behind it, in front of {quantize.name!r}, cannot be done in front of it",
                    "put the Normalization or Rescaling right behind the input"
                )
                return None
            sources = [
                self._codes(v, format, rounding, quantize, back)
                for v, back in zip(producer.inputs, behind, strict=True)
            ]
            if any(source is None for source in sources):
                return None
            name = self._move(producer, [source for source in sources if source is not None], name)
        else:
            if not self.problems:
                self._problem(
                    quantize, "it rounds a float value that is neither an input nor made of codes",
                    "quantize the layer in front of it"
                )
            self.new.types[name] = TensorType(shape, format)  # never exported: what follows is looked at too
        if not stages:
            self.made[key] = name
        return name

    def _parts(self, value: str) -> list[str]:
        """The values of codes that a float output joins, in order; none where something else is among them."""
        if value in self.code_of:
            return [value]
        producer = self.producers.get(value)
        if producer is None or producer.op not in OPS or not OPS[producer.op].moves_codes:
            return []
        parts = [self._parts(v) for v in producer.inputs]
        return [part for found in parts for part in found] if all(parts) else []

    def _moved_back(self, move: Node, stages: Stages, format: QFormat, rounding: str) -> list[Stages] | None:
        """Affine maps behind a move as ones in front of it, for each of its inputs; ``None`` where they do not
        commute.
        """
        shapes = [tuple(int(n) for n in self.old.shape(v)[1:] if n is not None) for v in move.inputs]
        if not stages or any(len(shape) + 1 != len(self.old.shape(v)) for shape, v in zip(shapes, move.inputs)):
            return [() for _ in move.inputs] if not stages else None
        maps = [(_plainest(scale), _plainest(offset)) for scale, offset in stages]
        # a maximum stays one where the map grows and is the same over the window
        if move.op in ("max_pool", "global_max_pool"):
            grows = all((scale >= 0).all() for scale, _ in maps)
            channels = move.op == "max_pool" or (len(shapes[0]) not in attributes(move)["axes"])
            return (
                [tuple(maps)] if grows and all(number.ndim <= channels for stage in maps for number in stage) else None
            )
        marks, start = [], 1  # every element by its number, to see where it goes; what the move makes itself is 0
        for shape in shapes:
            size = math.prod(shape)
            marks.append(np.arange(start, start + size).reshape(1, *shape))
            start += size
        places = np.asarray(interpreter.RULES[move.op](self.old, move, attributes(move), *marks))[0]
        zeros = np.zeros(places.shape, np.float32)
        for scale, offset in maps:
            zeros = reference.rescaling(zeros, scale, offset)
        if reference.quantize(zeros, format, rounding)[places == 0].any():
            return None
        behind: list[list[tuple[np.ndarray, np.ndarray]]] = [[] for _ in shapes]
        for stage in maps:
            numbers = []
            for number, unread in zip(stage, (1.0, 0.0)):
                whole, back = (
                    np.broadcast_to(number, places.shape), np.full(start, unread if number.ndim else number, np.float32)
                )
                back[places] = whole
                if (back[places] != whole)[places > 0].any():
                    return None  # an element that goes to several places, where the map differs
                numbers.append(back[1:])
            first = 0
            for index, shape in enumerate(shapes):
                last = first + math.prod(shape)
                scale, offset = (_plainest(number[first:last].reshape(shape)) for number in numbers)
                behind[index].append((scale, offset))
                first = last
        return [tuple(each) for each in behind]

    def _move(self, node: Node, sources: list[str], name: str) -> str:
        name = name if name not in self.new.types else self.new.unique(name)
        self.new.nodes.append(Node(node.op, tuple(sources), (name,), dict(node.attrs)))
        self.new.types[name] = TensorType(self.old.shape(node.output), self.new.format(sources[0]))
        return name

    def _bits(self, value: str) -> int:
        format = self.new.format(value)
        return 32 if format is None else format.bits

    def _reaches_only_outputs(self, value: str) -> bool:
        return all(
            node.op in OPS and OPS[node.op].moves_codes and self._reaches_only_outputs(node.output)
            for node in self.users.get(value, [])
        )

    def _problem(self, node: Node, reason: str, fix: str) -> None:
        self.problems.append(Problem(node.name, node.op, reason, fix))


def _plainest(number: np.ndarray) -> np.ndarray:
    """An array over one example without the axes along which it does not differ: one number, a vector along the last
    axis, or itself.
    """
    number = np.asarray(number, np.float32)
    if number.size and (number == number.flat[0]).all():
        return number.flat[0].reshape(())
    row = number.reshape(-1, number.shape[-1])
    return row[0].copy() if (row == row[0]).all() else number
