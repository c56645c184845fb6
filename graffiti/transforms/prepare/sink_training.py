"""Dropout and its kind: what acts in training only stands where it hides no pattern."""

from __future__ import annotations

from graffiti.graph.ir import Graph, Node
from graffiti.graph.match import only_reader, walk_up
from graffiti.graph.ops import PRODUCTS, attr
from graffiti.graph.passes import Note, Pass, PassResult

AFFINE = ("batch_norm", "rescaling")
RECTIFIERS = ("relu", "leaky_relu")
ACTIVITY = ("ActivityRegularization", "ActivityLoss")  # these add a loss and change nothing


class SinkTraining(Pass):
    """``f(t(x)) → t(f(x))`` for a ``training_only`` node ``t`` and an ``f`` that belongs to the layer in front.

    At inference ``t`` is nothing, so every order computes the same; in training a quantizer comes between ``f`` and
    ``t``.

    1. Batch norm or ``rescaling`` behind it, as its only reader: ``t`` goes behind, so that they fold into the layer in
       front.
    2. ReLU or leaky ReLU: the same; dropout commutes with them exactly.
    3. Several of either in a row, several ``t`` in a row: all of them.
    4. An activity regularizer between a layer with a kernel and ReLU: into the settings of that kernel, for the layer's
       own output is what it measures.
    5. A ``t`` that the model calls with ``training=True``: it acts in training from now on, with a note.
    6. Other readers, several readers, an output of the graph: left alone.

    References: Jain et al., arXiv 1903.08066; Graffitist, ``remove_training_nodes`` (which drops them).
    """

    stage = "float"

    def run(self, graph: Graph) -> PassResult:
        graph, modified, notes = graph.copy(), False, []
        for node in [node for node in graph.nodes if node.op == "training_only"]:
            if attr(node, "always"):
                node.attrs = {key: value for key, value in node.attrs.items() if key != "always"}
                notes.append(
                    Note(
                        node.name,
                        "the model calls it with training=True; here it acts while training only, as an integer "
                        "network has no randomness",
                        "training"
                    )
                )
                modified = True
        waiting = True
        while waiting:
            waiting = False
            for node in [node for node in graph.nodes if node.op == "training_only"]:
                reader = only_reader(graph, node.output)
                if reader is None or reader.op not in (*AFFINE, *RECTIFIERS) or node.output in reader.inputs[1:]:
                    continue
                kernel = _kernel(graph, node) if reader.op in RECTIFIERS and attr(node, "layer") in ACTIVITY else None
                if kernel is not None:
                    graph.training[kernel] = {**graph.training.get(kernel, {}), "activity": _regularizer(node)}
                    graph.replace_uses(node.output, node.inputs[0])
                    graph.remove(node)
                else:
                    graph.replace_uses(reader.output, node.output)
                    reader.inputs = (node.inputs[0], *reader.inputs[1:])
                    node.inputs = (reader.output,)
                    graph.types[node.output] = graph.types[reader.output]
                    graph.sort()
                waiting = modified = True
                break
        return PassResult(graph, modified, tuple(notes))


def _kernel(graph: Graph, node: Node) -> str | None:
    """The kernel of the layer whose output a node reads alone; ``None`` where it is none, or not this call's alone."""
    if only_reader(graph, node.inputs[0]) is not node:
        return None
    product = graph.producer(walk_up(graph, node.inputs[0], ("bias_add",)))
    if product is None or product.op not in PRODUCTS or len(graph.consumers(product.inputs[1])) != 1:
        return None
    kernel = product.inputs[1]
    return kernel if graph.is_constant(kernel) and "activity" not in graph.training.get(kernel, {}) else None


def _regularizer(node: Node) -> dict:
    config = dict(attr(node, "config"))
    if "regularizer" in config:
        return config["regularizer"]
    return {
        "module": "keras.regularizers", "class_name": "L1L2", "config": {"l1": config["l1"], "l2": config["l2"]},
        "registered_name": None
    }
