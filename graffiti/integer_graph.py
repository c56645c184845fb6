"""``IntegerGraph``: the lowered network as an object that runs, saves, loads and exports.

It holds one ``graph.ir.Graph`` of stage ``integer`` and nothing else that matters: the ``.graffiti`` file is that graph
(text plus arrays), and every executor is made from it on demand.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import warnings
import zipfile
from collections.abc import Mapping
from typing import Any

import numpy as np

from graffiti import executors, files, interface
from graffiti.graph import printer
from graffiti.graph.ir import Graph
from graffiti.graph.verify import verify_graph

FILE_VERSION = 1
_MANIFEST, _GRAPH, _CONSTANTS = "manifest.json", "graph.txt", "constants.npz"


class IntegerGraph:
    """A network in integers: power-of-two scales, no zero-points, the same codes on every executor.

    Made by ``graffiti.to_integer(q)`` or ``IntegerGraph.load(path)``. Inputs are the float (or uint8) arrays of the
    Keras model; they are rounded to codes at the border. Outputs are the codes times their power-of-two scale as
    float32 (softmax, where the model ended in one, is applied to those in float).

    Args:
        graph: a verified graph of stage ``integer``.

    Attributes:
        graph: the graph; do not change it.
    """

    def __init__(self, graph: Graph) -> None:
        if graph.stage != "integer":
            raise ValueError(
                f"an IntegerGraph holds a graph of stage 'integer', got {graph.stage!r}; use graffiti.to_integer"
            )
        verify_graph(graph)
        self.graph = graph
        self._runners: dict[Any, Any] = {}
        self._islands: Any = None

    # ---- running -------------------------------------------------------------------------------------------------
    def predict(
        self, x, batch_size: int = 256, *, threads: int | None = None, tier: str = "auto", engine: str = "auto",
    ):
        """Run the network.

        Args:
            x: an array ``(batch, ...)``, a list or dict of arrays for several inputs, or a ``tf.data.Dataset``,
                ``keras.utils.PyDataset`` or generator of batches (labels ignored).
            batch_size: images handed to the executor at once; batches of a dataset stay as they are.
            threads: cores to use; all by default (native engine only).
            tier: ``auto``, or an instruction set by name, ``scalar``, ``avx2`` ... (native engine only).
            engine: ``native`` (the program runner), ``ops`` (TensorFlow with native ops), ``python`` (TensorFlow
                without native code), ``reference`` (numpy), or ``auto``: what ``GRAFFITI_OPS`` says, native where it is
                built.

        Returns:
            float32 arrays in the structure that the Keras model returns: one array, a list or a dict.

        Raises:
            ValueError: where ``x`` has other inputs, shapes or dtypes than the network, holds NaN, or is empty.
        """
        return interface.structured(self.graph, self._outputs(x, batch_size, engine, tier, threads))

    __call__ = predict

    def evaluate(self, x, y=None, batch_size: int = 256, **options) -> dict[str, float]:
        """Top-1 accuracy of a classifier with one output.

        Args:
            x: as in ``predict``; or ``(images, labels)``, or a ``tf.data.Dataset`` of such, with ``y`` left out.
            y: integer labels ``(batch,)`` or one-hot ``(batch, classes)``.
            batch_size: as in ``predict``.
            **options: ``threads``, ``tier`` and ``engine`` of ``predict``.

        Returns:
            ``{"accuracy": share, "count": number of examples}``.

        Raises:
            ValueError: without labels, with another number of them than of examples, or for a network that is no
                classifier with one output.
        """
        if y is None:
            x, y = interface.labelled(self.graph, x, "evaluate")
            if y is None:
                raise ValueError("evaluate needs labels: pass y, or a dataset of (images, labels)")
        labels = np.asarray(y)
        if labels.ndim == 2 and labels.shape[1] > 1:
            labels = labels.argmax(-1)
        outputs = self._outputs(x, batch_size, **options)
        if len(outputs) != 1:
            raise ValueError(f"evaluate expects a network with one output, this one has {len(outputs)}; use predict")
        classes = outputs[0].reshape(len(outputs[0]), -1)
        if classes.shape[1] < 2:
            raise ValueError(
                "evaluate compares the scores of several classes, this network gives one number for each example; "
                "use predict"
            )
        if labels.size != len(classes):
            raise ValueError(f"evaluate got {len(classes)} examples and {labels.size} labels; they must be as many")
        hits = classes.argmax(-1) == labels.reshape(-1)
        return {"accuracy": float(hits.mean()), "count": int(len(hits))}

    def _outputs(
        self, x, batch_size: int, engine: str = "auto", tier: str = "auto", threads: int | None = None
    ) -> list[np.ndarray]:
        """The graph's outputs in order, of all batches."""
        run = self._executor(engine, tier, threads)
        collected = [[np.asarray(out) for out in run(batch)] for batch in interface.batches(self.graph, x, batch_size)]
        if not collected:
            raise ValueError("the network got no data: expected at least one example, got an empty array or dataset")
        return [np.concatenate(parts) for parts in zip(*collected)]

    def _executor(self, engine: str, tier: str, threads: int | None):
        """A function ``list of arrays -> list of arrays``, kept for the next call."""
        if engine == "auto":
            engine = self._default_engine()
        key = (engine, tier, threads)
        if key not in self._runners:
            engines = {name: row for name, row in executors.EXECUTORS.items() if row.predicts}
            row = executors.known("an engine is auto or one of", engines, engine)
            option = tier if row.options and tier != "auto" else ""
            try:
                self._runners[key] = row.run(self.graph, self._predicting_island(), option, threads).run
            except executors.Unavailable as error:
                raise (error.__cause__ or ValueError(str(error))) from None
        return self._runners[key]

    @staticmethod
    def _default_engine() -> str:
        from graffiti.ops import loader
        from graffiti.runtime import library

        mode = loader.mode()
        if mode != "auto":
            return mode
        try:
            library.load()
        except library.KernelsNotAvailable as error:
            warnings.warn(
                f"graffiti predicts in pure TensorFlow, which is slower: {error} (GRAFFITI_OPS=python silences this)",
                RuntimeWarning, stacklevel=4
            )
            return "python"
        return "native"

    def reset_states(self) -> None:
        """Let stateful layers begin anew in ``predict``, as ``reset_states`` of a Keras layer does (nothing to do
        where all is integers).
        """
        if self._islands is not None:
            self._islands.reset_states()

    def _predicting_island(self):
        """The island of every engine of ``predict``: the state of a stateful layer is the network's, whoever runs
        it.
        """
        self._islands = self._islands or self.island()
        return self._islands

    def island(self):
        """A function that computes Keras layers left in float, with a state of its own (what the graph holds);
        ``None`` where it has none.
        """
        if not any(node.op == "island" for node in self.graph.nodes):
            return None
        from graffiti.keras_io.islands import IslandRunner

        return IslandRunner(self.graph)

    # ---- looking --------------------------------------------------------------------------------------------------
    @property
    def is_integer_only(self) -> bool:
        """Whether everything between the borders is integers.

        An island counts as float, and a softmax too, but for one behind the last codes that only outputs come from:
        that is the output's border, like the dequantize in front of it. A network without any codes is not integer
        either.
        """
        graph, producers = self.graph, self.graph.producers()
        if (
            any(node.op == "island" for node in graph.nodes)
            or not any(graph.format(out) is not None for node in graph.nodes for out in node.outputs)
        ):
            return False
        inner = {value for node in graph.nodes if node.op == "quantize" for value in node.inputs}
        while True:  # back from what becomes codes again
            before = (
                {value for v in inner if v in producers and graph.format(v) is None for value in producers[v].inputs}
                - inner
            )
            if not before:
                break
            inner |= before
        computed = (node for node in graph.nodes if node.op == "softmax")
        return not any(out in inner or self._on_reals(node, producers) for node in computed for out in node.outputs)

    def _on_reals(self, node, producers) -> bool:
        """Whether a node computes on what never was codes."""
        makers = [producers.get(value) for value in node.inputs]
        return any(maker is None or (maker.op != "dequantize" and self._on_reals(maker, producers)) for maker in makers)

    def to_text(self) -> str:
        """The graph as readable text (``graph/printer.py``)."""
        return printer.to_text(self.graph)

    def digest(self) -> str:
        """SHA-256 over the text and every constant: two graphs with one digest compute the same."""
        return _digest(self.to_text(), self.graph.constants)

    def summary(self, print_fn=print) -> None:
        """Print one line per node: name, op, format, shape, and the totals."""
        rows = [("name", "op", "format", "shape")]
        for node in self.graph.nodes:
            type = self.graph.types[node.name]
            format = "float32" if type.format is None else _short(str(type.format))
            rows.append((node.name, node.op, format, str(type.shape)))
        widths = [max(len(row[i]) for row in rows) for i in range(4)]
        for index, row in enumerate(rows):
            print_fn("  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip())
            if index == 0:
                print_fn("  ".join("-" * width for width in widths))
        formats = ((array, self.graph.format(name)) for name, array in self.graph.constants.items())
        weight_bytes = sum((array.size * format.bits / 8 for array, format in formats if format is not None), 0.0)
        print_fn(f"{len(self.graph.nodes)} nodes, {weight_bytes:.0f} bytes of constants, sha256 {self.digest()[:16]}")

    def __repr__(self) -> str:
        return f"IntegerGraph({self.graph.name!r}, {len(self.graph.nodes)} nodes, sha256 {self.digest()[:16]})"

    # ---- files ----------------------------------------------------------------------------------------------------
    def save(self, path: str | os.PathLike, *, overwrite: bool = False) -> None:
        """Write the graph to one ``.graffiti`` file (a zip of readable text and arrays), atomically.

        Raises:
            FileExistsError: where ``path`` exists and ``overwrite`` is false.
        """
        arrays = io.BytesIO()
        names = sorted(self.graph.constants)
        members: dict[str, Any] = {f"c{i}": self.graph.constants[name] for i, name in enumerate(names)}
        np.savez(arrays, **members)
        manifest = {"format": "graffiti", "version": FILE_VERSION, "sha256": self.digest(), "constants": names}
        if needs := self._needs():
            manifest["needs"] = needs
        with files.atomic_file(path, overwrite=overwrite) as temporary, zipfile.ZipFile(temporary, "w") as archive:
            for name, data in (
                (_MANIFEST, json.dumps(manifest, indent=1)), (_GRAPH, self.to_text()), (_CONSTANTS, arrays.getvalue())
            ):
                entry = zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0))  # the same graph gives the same file
                entry.compress_type = zipfile.ZIP_DEFLATED
                archive.writestr(entry, data)

    def _needs(self) -> list[dict[str, str]]:
        """Classes and functions of float layers that a loader of the file must provide."""
        if not any(node.op == "island" for node in self.graph.nodes):
            return []
        from graffiti.keras_io.islands import needs

        return needs(self.graph)

    @classmethod
    def load(cls, path: str | os.PathLike) -> IntegerGraph:
        """Read a ``.graffiti`` file.

        Raises:
            FileNotFoundError: where there is none.
            ValueError: where the file is truncated, was changed, or is not a graffiti file; where a float layer in it
                has a class or function that is not registered in this process. Nothing in the file is run.
        """
        if not os.path.isfile(path):
            raise FileNotFoundError(f"there is no file {path}; expected one written by IntegerGraph.save")
        damaged = (
            f"{path} does not match its own checksum; it was changed or damaged, write it again with IntegerGraph.save"
        )
        try:
            with zipfile.ZipFile(path) as archive:
                manifest = json.loads(archive.read(_MANIFEST))
                if manifest["format"] != "graffiti":
                    raise ValueError(f"its manifest names the format {manifest['format']!r}")
                version, checksum, names = (
                    int(manifest["version"]), str(manifest["sha256"]), list(manifest["constants"])
                )
                if version <= FILE_VERSION:
                    text = archive.read(_GRAPH).decode()
                    with np.load(io.BytesIO(archive.read(_CONSTANTS)), allow_pickle=False) as arrays:
                        constants = {name: arrays[f"c{i}"] for i, name in enumerate(names)}
        except Exception as error:  # zip, JSON, numpy and Unicode each have their own
            raise ValueError(
                f"{path} is not a whole .graffiti file ({error}); write it again with IntegerGraph.save"
            ) from error
        if version > FILE_VERSION:
            raise ValueError(
                f"{path} has file version {version}, this graffiti reads up to {FILE_VERSION}; update graffiti"
            )
        if _digest(text, constants) != checksum:
            raise ValueError(damaged)
        graph = cls(printer.parse(text, constants))
        if graph.digest() != checksum:
            raise ValueError(damaged)
        if manifest.get("needs"):
            graph._predicting_island().prepare()
        return graph

    def export(self, path: str | os.PathLike, format: str = "c", *, target=None, **options) -> list:
        """Write the network for another tool or chip.

        Args:
            path: a folder (``c``) or file that does not exist yet.
            format: a name in ``graffiti.export.EXPORTERS``.
            target: a target profile (name, path of a YAML or JSON file, ``TargetProfile``) to hold the network against
                too; the format's own always is.
            **options: of that exporter, for instance ``test_inputs`` of ``c``.

        Returns:
            The files written.

        Raises:
            ExportError: lists every layer that the format or the target cannot take, and what would fix each. Nothing
                is written.
            FileExistsError: where ``path`` exists and ``overwrite`` is false. Nothing is written.
            ValueError: for an unknown format or target, or a target of another format.
        """
        from graffiti import export, targets

        exporter = export.get(format)
        if target is not None:
            profile = targets.get(target)
            if profile.export != format:
                raise ValueError(
                    f"the target {profile.name} is exported as {profile.export or 'nothing'}, not as {format}; choose "
                    "that format or another target"
                )
            exporter.check(self.graph, profile)
        return exporter.write(self.graph, path, **options)


def _digest(text: str, constants: Mapping[str, np.ndarray]) -> str:
    hasher = hashlib.sha256(text.encode())
    for name in sorted(constants):
        array = np.ascontiguousarray(constants[name])
        hasher.update(f"{name}{array.dtype}{array.shape}".encode())
        hasher.update(array.tobytes())
    return hasher.hexdigest()


def _short(text: str, limit: int = 28) -> str:
    return text if len(text) <= limit else text[: limit - 3] + "..."
