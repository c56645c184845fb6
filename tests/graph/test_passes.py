"""Pass, Pipeline and the pattern helpers."""

from __future__ import annotations

import numpy as np
import pytest

from graffiti.graph.ir import Graph
from graffiti.graph.match import chain, only_reader, splice_out, walk_up
from graffiti.graph.passes import Note, Pass, PassError, PassResult, Pipeline, snapshot
from graffiti.graph.printer import parse

TEXT = """
    float graph g
    input %x:f32[_,4]
    const %k:f32[4,4] = random(1)
    const %b:f32[4] = random(2)
    %p = dense(%x, %k)
    %c = bias_add(%p, %b)
    %r = relu(%c)
    %s = add(%r, %r)
    output %s
"""


class Relabel(Pass):
    """Gives the graph another name; with ``lie`` it misreports, with ``spoil`` it works on its input."""

    stage = "float"

    def __init__(self, name="other", lie=False, spoil=False):
        self.new, self.lie, self.spoil = name, lie, spoil

    def run(self, graph):
        graph = graph if self.spoil else graph.copy()
        modified = graph.name != self.new
        graph.name = self.new
        return PassResult(graph, modified != self.lie, (Note("c", "kept"),))


class Broken(Pass):
    """Leaves a graph that reads a value nobody makes."""

    stage = "float"

    def run(self, graph):
        graph = graph.copy()
        graph.node("r").inputs = ("nothing",)
        return PassResult(graph, True)


class Raises(Pass):
    """Raises what it is given."""

    def __init__(self, error):
        self.error = error

    def run(self, graph):
        raise self.error


class ToFakequant(Pass):
    """float → fakequant, or not."""

    stage, result_stage = "float", "fakequant"

    def __init__(self, keep=False):
        self.keep = keep

    def run(self, graph):
        graph = graph.copy()
        graph.stage = graph.stage if self.keep else "fakequant"
        return PassResult(graph, not self.keep)


class Contract(Pass):
    """Needs a relu, and promises a subtract that it never makes."""

    def requires(self, graph):
        if not any(node.op == "relu" for node in graph.nodes):
            yield "there is no relu"

    def ensures(self, graph):
        if not any(node.op == "subtract" for node in graph.nodes):
            yield "there is no subtract"

    def run(self, graph):
        return PassResult(graph.copy(), False)


def pipeline(*passes, debug=True):
    return Pipeline("test", passes, debug=debug)


def test_a_pipeline_runs_in_order_and_collects():
    graph = parse(TEXT)
    before = snapshot(graph)
    result = pipeline(Relabel("a"), Relabel("b"), Relabel("b"))(graph)
    assert result.graph.name == "b" and result.modified and result.notes == (Note("c", "kept"),)
    assert snapshot(graph) == before and result.graph is not graph
    again = pipeline(Relabel("b"))(result.graph)
    assert not again.modified


def test_an_empty_pipeline_copies():
    graph = parse(TEXT)
    result = pipeline()(graph)
    assert not result.modified and result.graph is not graph and snapshot(result.graph) == snapshot(graph)


def test_pipelines_nest_and_know_their_stages():
    inner = pipeline(Relabel("a"), ToFakequant())
    assert (inner.stage, inner.result_stage) == ("float", "fakequant")
    outer = Pipeline("outer", (Relabel("b"), inner), debug=True)
    assert outer(parse(TEXT)).graph.stage == "fakequant"
    with pytest.raises(PassError, match="pipeline 'outer', test, after Relabel: pipeline 'test', ToFakequant, after "
                                        "Relabel: "
                                        "ToFakequant promises a graph of stage fakequant, made one of stage float"):
        Pipeline("outer", (Relabel("b"), pipeline(Relabel("a"), ToFakequant(keep=True))))(parse(TEXT))


def test_a_wrong_stage_names_both():
    graph = parse(TEXT)
    graph.stage = "integer"
    with pytest.raises(PassError, match="Relabel takes a graph of stage float, got one of stage integer"):
        Relabel()(graph)
    with pytest.raises(ValueError, match="one of the stages float, fakequant, integer, Odd names 'odd'"):
        pipeline(type("Odd", (Pass,), {"stage": "odd"})())


def test_requires_and_ensures():
    graph = parse(TEXT)
    with pytest.raises(PassError, match="Contract did not keep its word: there is no subtract"):
        Contract()(graph)
    graph.node("r").op = "identity"
    with pytest.raises(PassError, match="Contract cannot run: there is no relu"):
        Contract()(graph)


def test_errors_name_the_pass_and_those_before():
    with pytest.raises(
        PassError,
        match=r"(?s)pipeline 'test', Broken, after Relabel, Relabel: .*node 'r' \(relu\) reads 'nothing', which "
              r"nothing defines"
    ):
        pipeline(Relabel("a"), Relabel("b"), Broken())(parse(TEXT))
    with pytest.raises(PassError, match="pipeline 'test', Raises, as the first pass: 'k'") as caught:
        pipeline(Raises(KeyError("k")), debug=False)(parse(TEXT))
    assert isinstance(caught.value.__cause__, KeyError)


def test_what_a_pass_refuses_for_the_users_sake_goes_through():
    class Refusal(ValueError):
        pass

    error = Refusal("layer 'c' could overflow")
    with pytest.raises(Refusal) as caught:
        pipeline(Relabel(), Raises(error))(parse(TEXT))
    assert caught.value is error


@pytest.mark.parametrize("step, message", [
    (Relabel(spoil=True), "it changed the graph it was given"),
    (Relabel(lie=True), "it changed the graph and reports modified=False"),
    (Relabel("g", lie=True), "it reports modified=True and changed nothing"),
])
def test_dishonest_passes_are_caught_in_debug_mode_only(step, message):
    with pytest.raises(PassError, match=f"pipeline 'test', Relabel, as the first pass: {message}"):
        pipeline(step)(parse(TEXT))
    pipeline(step, debug=False)(parse(TEXT))


def test_a_broken_input_is_not_blamed_on_a_pass():
    graph = parse(TEXT)
    graph.node("r").inputs = ("nothing",)
    with pytest.raises(PassError, match="(?s)pipeline 'test' was given a broken graph: .*'nothing'"):
        pipeline(Relabel())(graph)


def test_the_environment_switches_debugging(monkeypatch):
    for value, caught in (("1", True), ("0", False), ("", False), (None, False)):
        if value is None:
            monkeypatch.delenv("GRAFFITI_DEBUG", raising=False)
        else:
            monkeypatch.setenv("GRAFFITI_DEBUG", value)
        if caught:
            with pytest.raises(PassError):
                Pipeline("test", [Broken()])(parse(TEXT))
        else:
            assert Pipeline("test", [Broken()])(parse(TEXT)).modified


def test_snapshot_sees_every_change():
    def changed(change) -> bool:
        graph = parse(TEXT)
        change(graph)
        return snapshot(graph) != snapshot(parse(TEXT))

    def constant(graph: Graph):
        graph.constants["b"] = graph.constants["b"] + np.float32(1e-6)

    def order(graph: Graph):
        graph.insert("relu", ("x",), "q", before=graph.nodes[0])
        graph.nodes[0], graph.nodes[1] = graph.nodes[1], graph.nodes[0]

    assert not changed(lambda graph: None)
    for change in (
        constant, order, lambda g: setattr(g, "stage", "fakequant"), lambda g: g.outputs.append("r"),
        lambda g: g.rename("r", "q"),
        lambda g: g.node("r").attrs.update(max_value=6.0),
        lambda g: g.constants.update(b=g.constants["b"].astype(np.float64)),
        lambda g: g.interface.update(inputs=[0]),
    ):
        assert changed(change)


def test_only_reader():
    graph = parse(TEXT)
    assert only_reader(graph, "c").name == "r"
    assert only_reader(graph, "r").name == "s"      # reads it twice, but is one node
    assert only_reader(graph, "s") is None          # an output
    graph.insert("relu", ("c",), "second")
    assert only_reader(graph, "c") is None


def test_chain():
    graph = parse(TEXT)
    assert [node.name for node in chain(graph, "r", ("conv", "dense"), "bias_add", "relu")] == ["p", "c", "r"]
    assert [node.name for node in chain(graph, "c", "bias_add")] == ["c"]
    assert chain(graph, "c", "conv", "bias_add") is None            # another op
    assert chain(graph, "p", "relu", "dense") is None               # longer than the graph
    assert chain(graph, "s", "add") is None                         # an output
    graph.outputs.append("p")
    assert chain(graph, "c", "dense", "bias_add") is None           # a value on the way is an output
    assert chain(graph, "c", "bias_add") is not None


def test_walk_up_and_splice_out():
    graph = parse(TEXT)
    assert walk_up(graph, "r", ("relu", "bias_add")) == "p"
    assert walk_up(graph, "r", ()) == "r"
    assert walk_up(graph, "p", ("dense",)) == "x"
    graph.outputs.append("r")
    splice_out(graph, graph.node("r"), "c")
    assert graph.node("s").inputs == ("c", "c") and graph.outputs == ["s", "c"] and "r" not in graph.types
