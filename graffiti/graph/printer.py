"""Graphs as text, and back: what tests write by hand, what ``.graffiti`` files hold, what people read.

    integer graph resnet8
    input %x:f32[_,32,32,3]
    const %c/kernel:s8n@-7[3,3,3,16]
    const %c/bias:s32@-14[2] = [3, -5]
    %x_q:u8@-8[_,32,32,3] = quantize(%x) {format=u8@-8}
    %c/product:s32@-15[_,32,32,16] = conv(%x_q, %c/kernel) {strides=(1, 1), padding='same', dilation=(1, 1)}
    output %c

- A type is ``f32``, another dtype (``int64``, ``bool``, ``string`` ...; beside islands only) or a ``QFormat``, then the
  shape (``_`` for an unknown size). Node types may be left out: they are then inferred.
- An attribute is a Python literal or a format. Names with other characters than letters, digits and ``_ . / : $ -``
  stand in double quotes, as in JSON. ``#`` starts a comment.
- A node is part of the layer that its name begins with (``%c/product`` of ``%c``, where there is a node ``%c``) unless
  it says otherwise:
  ``= conv(%x_q, %k) of %c {...}`` (``Node.layer``).
- ``training %c/kernel {'trainable': False}`` says how training treats a constant (``Graph.training``).
- A constant is only declared (its array is handed to ``parse``), or its values follow, or ``random(seed)`` (reals in
  −1…1, codes over the whole range), or ``full(value)``.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from graffiti.graph import ops
from graffiti.graph.ir import STAGES, Graph, Node, TensorType, layers_of_names, name_layers
from graffiti.numerics.formats import QFormat

INLINE = 8  # constants up to this size are written out

_PLAIN = re.compile(r"[\w./:$-]*[\w./$-]")  # never ends in a colon: that separates the type
_WORD = re.compile(r"[\w./:$-]+")
_STRING = re.compile(r'"(?:[^"\\]|\\.)*"')
_TYPE = re.compile(r"(f32|u?int(?:8|16|32|64)|bool|string|[su]\d+n?@(?:-?\d+|\[[-\d,\s]*\]))\[([\d_,\s]*)\]")
_HEADER = re.compile(rf"({'|'.join(STAGES)}) graph\b\s*(.*)")


# ---- writing ---------------------------------------------------------------------------------------------------------
def to_text(graph: Graph, *, inline: int = INLINE) -> str:
    """The graph as text; ``parse(to_text(graph), graph.constants)`` gives an equal graph.

    Args:
        graph: of any stage, with a type for every value.
        inline: constants with at most this many elements are written with their values.

    Raises:
        TypeError: where an attribute is neither a plain Python value nor a format.
    """
    lines = [f"{graph.stage} graph {_quoted(graph.name)}"]
    if graph.interface:
        lines.append(f"interface {_literal(graph.interface, 'the interface')}")
    lines += [f"input {_typed(graph, name)}" for name in graph.inputs]
    for name, array in graph.constants.items():
        values = f" = {_array_text(array)}" if array.size <= inline and array.dtype == _dtype(graph.types[name]) else ""
        lines.append(f"const {_typed(graph, name)}{values}")
    for name, settings in graph.training.items():
        lines.append(f"training {_name(name)} {_literal(settings, f'how {name!r} is trained')}")
    for node, layer in zip(graph.nodes, layers_of_names(graph)):
        outputs = ", ".join(_typed(graph, name) for name in node.outputs)
        part = f" of {_name(node.layer)}" if node.layer and node.layer != layer else ""
        attrs = ", ".join(
            f"{key}={_literal(value, f'attribute {key!r} of node {node.name!r}')}" for key, value in node.attrs.items()
        )
        lines.append(f"{outputs} = "
                     f"{node.op}({', '.join(map(_name, node.inputs))}){part}{f' {{{attrs}}}' if attrs else ''}")
    lines.append(f"output {', '.join(map(_name, graph.outputs))}".rstrip())
    return "\n".join(lines) + "\n"


def type_text(type: TensorType) -> str:
    """For instance ``f32[_,10]`` or ``s32@-14[_,8,8,16]``."""
    shape = ",".join("_" if size is None else str(size) for size in type.shape)
    return f"{type.format if type.format is not None else 'f32' if type.dtype == 'float32' else type.dtype}[{shape}]"


def _quoted(name: str) -> str:
    return name if _PLAIN.fullmatch(name) else json.dumps(name, ensure_ascii=not name.isprintable())


def _name(name: str) -> str:
    return "%" + _quoted(name)


def _typed(graph: Graph, name: str) -> str:
    return f"{_name(name)}:{type_text(graph.types[name])}"


def _dtype(type: TensorType) -> np.dtype:
    return type.storage


def _array_text(array: np.ndarray) -> str:
    if array.ndim:
        return "[" + ", ".join(map(_array_text, array)) + "]"
    if array.dtype.kind != "f":
        return str(array)
    short = str(array)  # the shortest decimal that names this float32; through float64 it must still do so
    return short if np.float32(float(short)) == array or np.isnan(array) else repr(float(array))


def _literal(value: Any, what: str) -> str:
    if isinstance(value, QFormat):
        return str(value)
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, (bool, int, float, str, bytes)):
        return repr(value)
    if isinstance(value, (tuple, list)):
        parts = ", ".join(_literal(part, what) for part in value)
        return f"[{parts}]" if isinstance(value, list) else f"({parts}{',' if len(value) == 1 else ''})"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_literal(k, what)}: {_literal(v, what)}" for k, v in value.items()) + "}"
    raise TypeError(f"{what} must be a plain Python value or a QFormat to be written as text, got "
                    f"{type(value).__name__}")


# ---- reading ---------------------------------------------------------------------------------------------------------
def parse(text: str, constants: Mapping[str, np.ndarray] | None = None) -> Graph:
    """The inverse of ``to_text``.

    Args:
        text: as in the module's docstring.
        constants: name → array, for the constants that the text only declares; it wins over values in the text.

    Raises:
        ValueError: for text that is no graph, with the line, or a declared constant without values.
    """
    graph: Graph | None = None
    finished = False
    for number, line in enumerate(text.splitlines(), 1):
        reader = _Reader(line, number)
        if reader.at_end():
            continue
        if graph is None:
            match = _HEADER.fullmatch(reader.rest())
            if not match:
                raise reader.error("expected a first line like 'integer graph name' with a stage of "
                                   f"{', '.join(STAGES)}")
            name = match[2].strip()
            graph = Graph(match[1], name=json.loads(name) if name.startswith('"') else name or "model")
        elif finished:
            raise reader.error("expected nothing after the output line")
        elif reader.keyword("interface"):
            graph.interface = _evaluate(reader.expression(reader.rest()), reader)
        elif reader.keyword("input"):
            name, type = reader.value()
            if type is None:
                raise reader.error(f"input {name!r} needs a type, for instance %{name}:f32[_,8]")
            _define(graph, name, type, reader)
            graph.inputs.append(name)
            reader.end()
        elif reader.keyword("const"):
            _constant(graph, reader, constants)
        elif reader.keyword("training"):
            name, _ = reader.value()
            graph.training[name] = _evaluate(reader.expression(reader.rest()), reader)
        elif reader.keyword("output"):
            while not reader.at_end():
                graph.outputs.append(reader.value()[0])
                if not reader.take(","):
                    break
            reader.end()
            finished = True
        else:
            _node(graph, reader)
    if graph is None or not finished:
        raise ValueError("the text of a graph starts with 'integer graph name' and ends with an output line; it is cut "
                         "off or something else")
    name_layers(graph)
    return graph


class _Reader:
    """A cursor on one line."""

    def __init__(self, line: str, number: int) -> None:
        self.line, self.number, self.at = _without_comment(line), number, 0

    def error(self, what: str) -> ValueError:
        return ValueError(f"graph text, line {self.number}: {what}; got {self.line.strip()[:200]!r}")

    def rest(self) -> str:
        self.at_end()
        return self.line[self.at :].strip()

    def at_end(self) -> bool:
        while self.at < len(self.line) and self.line[self.at].isspace():
            self.at += 1
        return self.at >= len(self.line)

    def end(self) -> None:
        if not self.at_end():
            raise self.error(f"did not expect {self.rest()!r} here")

    def take(self, token: str) -> bool:
        if self.at_end() or not self.line.startswith(token, self.at):
            return False
        self.at += len(token)
        return True

    def expect(self, token: str) -> None:
        if not self.take(token):
            raise self.error(f"expected {token!r} at {self.rest()[:40]!r}")

    def keyword(self, word: str) -> bool:
        rest = self.rest()
        return (rest == word or rest.startswith((word + " ", word + "\t"))) and self.take(word)

    def match(self, pattern: re.Pattern, what: str) -> re.Match:
        self.at_end()
        match = pattern.match(self.line, self.at)
        if not match:
            raise self.error(f"expected {what} at {self.rest()[:40]!r}")
        self.at = match.end()
        return match

    def value(self) -> tuple[str, TensorType | None]:
        """``%name`` or ``%name:type``."""
        self.expect("%")
        if self.line.startswith('"', self.at):
            name = json.loads(self.match(_STRING, "a name in double quotes")[0])
            return name, self.type() if self.take(":") else None
        start = self.at
        name = self.match(_WORD, "a name")[0]
        if name.endswith(":"):
            return name[:-1], self.type()
        if self.line[self.at : self.at + 1] in ("@", "["):  # the end of the word was the beginning of a type
            name, colon, _ = name.rpartition(":")
            if not colon:
                raise self.error("expected ':' between a name and its type")
            self.at = start + len(name) + 1
            return name, self.type()
        return name, None

    def type(self) -> TensorType:
        match = self.match(_TYPE, "a type like f32[_,10] or s8@-7[3,3,8,16]")
        sizes = [size.strip() for size in match[2].split(",") if size.strip()]
        shape, name = tuple(None if size == "_" else int(size) for size in sizes), match[1].replace(" ", "")
        return (
            TensorType(shape, QFormat.parse(name)) if "@" in name
            else TensorType(shape, dtype="float32" if name == "f32" else name)
        )

    def expression(self, text: str) -> ast.expr:
        try:
            return ast.parse(text.strip(), mode="eval").body
        except SyntaxError as error:
            raise self.error(f"expected Python literals ({error.msg})") from error


def _without_comment(line: str) -> str:
    quote = ""
    skip = False
    for index, character in enumerate(line):
        if skip:
            skip = False
        elif quote:
            skip, quote = character == "\\", "" if character == quote else quote
        elif character in "'\"":
            quote = character
        elif character == "#":
            return line[:index]
    return line


def _evaluate(node: ast.expr, reader: _Reader) -> Any:
    """A Python literal, ``inf`` and ``nan``, or a format (which Python reads as a matrix product ``s8 @ -7``)."""
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.MatMult):
        return QFormat.parse(ast.unparse(node).replace(" ", ""))
    if isinstance(node, ast.Tuple):
        return tuple(_evaluate(part, reader) for part in node.elts)
    if isinstance(node, ast.List):
        return [_evaluate(part, reader) for part in node.elts]
    if isinstance(node, ast.Dict):
        return {
            _evaluate(key, reader): _evaluate(value, reader) for key, value in zip(node.keys, node.values)
            if key is not None
        }
    if isinstance(node, ast.Name) and node.id in ("inf", "nan"):
        return float(node.id)
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        value = _evaluate(node.operand, reader)
        if isinstance(value, (int, float)):
            return -value
    if isinstance(node, ast.Constant):
        return node.value
    raise reader.error(f"expected a Python literal or a format like s8@-7, not {ast.unparse(node)!r}")


def _define(graph: Graph, name: str, type: TensorType, reader: _Reader) -> None:
    if name in graph.types:
        raise reader.error(f"the value {name!r} is defined twice")
    graph.types[name] = type


def _constant(graph: Graph, reader: _Reader, constants: Mapping[str, np.ndarray] | None) -> None:
    name, type = reader.value()
    if type is None or None in type.shape:
        raise reader.error(f"constant {name!r} needs a type with a full shape, for instance %{name}:f32[3,3,8,16]")
    _define(graph, name, type, reader)
    values = reader.rest() if reader.take("=") else ""
    if constants is not None and name in constants:
        array = np.asarray(constants[name])
    elif values:
        array = _array(reader.expression(values), type, reader)
    else:
        raise reader.error(
            f"constant {name!r} is only declared: hand its array to parse, or write '= [...]', '= random(seed)' or '= "
            "full(value)'"
        )
    if array.shape != type.shape:
        raise reader.error(f"constant {name!r} is declared with shape {type.shape}, its values have {array.shape}")
    graph.constants[name] = array


def _array(node: ast.expr, type: TensorType, reader: _Reader) -> np.ndarray:
    dtype, format, shape = _dtype(type), type.format, tuple(int(size or 0) for size in type.shape)
    if (
        isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("random", "full")
        and len(node.args) == 1
    ):
        argument = _evaluate(node.args[0], reader)
        if node.func.id == "full":
            return np.full(shape, argument, dtype)
        generator = np.random.default_rng(argument)
        if format is None:
            return generator.uniform(-1, 1, shape).astype(np.float32)
        return generator.integers(format.qmin, format.qmax, shape, np.int64, endpoint=True).astype(dtype)
    values = np.array(_evaluate(node, reader))
    if not values.size:
        return np.zeros(shape, dtype)
    if (
        format is not None
        and (values.dtype.kind not in "iu" or values.min() < format.qmin or values.max() > format.qmax)
    ):
        raise reader.error(f"expected integers from {format.qmin} to {format.qmax}")
    return values.astype(dtype)


def _node(graph: Graph, reader: _Reader) -> None:
    outputs = [reader.value()]
    while reader.take(","):
        outputs.append(reader.value())
    reader.expect("=")
    op = reader.match(re.compile(r"\w+"), "an op")[0]
    reader.expect("(")
    inputs = []
    while not reader.take(")"):
        inputs.append(reader.value()[0])
        if not reader.take(","):
            reader.expect(")")
            break
    layer = reader.value()[0] if reader.keyword("of") else ""
    attrs: dict[str, Any] = {}
    rest = reader.rest()
    if rest:
        if not (rest.startswith("{") and rest.endswith("}")):
            raise reader.error("expected attributes in braces, {key=value, ...}, after the inputs")
        call = reader.expression(f"attributes({rest[1:-1]})")
        if not isinstance(call, ast.Call) or call.args or any(keyword.arg is None for keyword in call.keywords):
            raise reader.error("expected attributes as {key=value, ...}")
        attrs = {str(keyword.arg): _evaluate(keyword.value, reader) for keyword in call.keywords}
    node = Node(op, tuple(inputs), tuple(name for name, _ in outputs), attrs, layer)
    types = [type for _, type in outputs]
    if None in types:
        try:
            inferred = ops.infer(graph, node)
        except (ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
            raise reader.error(
                f"the type of {node.name!r} does not follow from its inputs ({error!r}); write it out"
            ) from error
        if len(inferred) != len(types):
            raise reader.error(f"{op} has {len(inferred)} outputs, expected as many names")
        types = [given or found for given, found in zip(types, inferred)]
    for (name, _), type in zip(outputs, types):
        assert type is not None  # given or inferred
        _define(graph, name, type, reader)
    graph.nodes.append(node)
