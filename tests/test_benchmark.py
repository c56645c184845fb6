"""The benchmark's own promises: answers first, every engine on the same inputs, one process for each thread count."""

from __future__ import annotations

import dataclasses
import os

import numpy as np
import pytest
import random_graphs

import graffiti
from graffiti import benchmark, executors


def test_seconds_takes_turns():
    order = []
    took = benchmark.seconds({"a": lambda: order.append("a"), "b": lambda: order.append("b")}, rounds=3, budget=0)
    assert set(took) == {"a", "b"} and all(value >= 0 for value in took.values())
    assert order[-6:] == ["a", "b"] * 3


def test_inputs_reach_the_whole_range():
    graph = random_graphs.small_network()
    (array,) = benchmark.inputs(graph, 64)
    assert array.dtype == np.float32 and array.shape == (64, 9, 8, 3)
    assert {array.min(), array.max()} == {-8.0, 127 / 16} and (array == np.round(array * 16) / 16).all()


@pytest.mark.parametrize("engine", benchmark.EXPORTED)
def test_an_engine_that_answers_otherwise_is_not_timed(engine, monkeypatch):
    pytest.importorskip({"litert": "ai_edge_litert", "onnx": "onnxruntime"}[engine])
    graph = random_graphs.small_network()
    row = executors.EXECUTORS[engine]
    name = row.title
    rows, skipped = benchmark.network(graph, threads=1, batches=[2], rounds=1, engines=[engine])
    assert not skipped and f"{name} / graffiti" in rows[0]
    off_by_one = dataclasses.replace(
        row, timed=lambda *args: lambda: [np.asarray(out) + 1 for out in row.timed(*args)()]
    )
    monkeypatch.setitem(executors.EXECUTORS, engine, off_by_one)
    rows, skipped = benchmark.network(graph, threads=1, batches=[2], rounds=1, engines=[engine])
    assert (
        skipped == {name: f"{benchmark.DIFFERS}: 20 of 20 values of output logits"}
        and set(rows[0]) == {"threads", "batch", "graffiti ms"}
    )


def test_an_engine_that_is_not_installed_is_said_to_be(monkeypatch):
    def absent(*args):
        raise executors.Unavailable("no such engine")

    monkeypatch.setitem(
        executors.EXECUTORS, "onnx", dataclasses.replace(executors.EXECUTORS["onnx"], packages=(), timed=absent)
    )
    assert (
        benchmark.network(random_graphs.small_network(), threads=1, batches=[1], rounds=1, engines=["onnx"])[1]
        == {"ONNX Runtime": "no such engine"}
    )


def test_a_wrong_runner_is_never_timed(monkeypatch):
    class Wrong(benchmark.Runner):
        def run(self, batch):
            return [out + 1 for out in super().run(batch)]

    monkeypatch.setattr(benchmark, "Runner", Wrong)
    with pytest.raises(ValueError, match="the runner .* and the interpreter differ; not timed"):
        benchmark.network(random_graphs.small_network(), threads=1, batches=[1], rounds=1)


def test_processes_and_their_failures(tmp_path):
    path = tmp_path / "net.graffiti"
    graffiti.IntegerGraph(random_graphs.small_network()).save(path)
    cores = len(os.sched_getaffinity(0))
    with pytest.raises(RuntimeError, match=f"the benchmark on {cores + 1} threads failed: .*at most the {cores} cores"):
        benchmark.in_processes([cores + 1], graph=str(path), rounds=1)


def test_table():
    assert (
        benchmark.table([{"a": 1, "b": 2}, {"a": 3, "c": 4}])
        == "| a | b | c |\n|---|---|---|\n| 1 | 2 |  |\n| 3 |  | 4 |"
    )
