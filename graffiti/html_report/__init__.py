"""``report``: one self-contained HTML file about a quantized model. ``measures`` finds the numbers, ``charts`` draws
them, ``page`` puts them together.
"""

from __future__ import annotations

import os
import pathlib
from typing import Any

import keras

from graffiti import files, interface
from graffiti.api import to_integer
from graffiti.callbacks import ThresholdHistory
from graffiti.cost import cost
from graffiti.graph import interpreter
from graffiti.html_report import measures, page
from graffiti.keras_io.read import read
from graffiti.verification import VerificationReport, verify

TENSOR_EXAMPLES = 64  # for histograms, SQNR and cosine
SENSITIVITY_EXAMPLES = 16


def report(
    q: keras.Model, data: Any, path: str | os.PathLike = "report.html", *, labels: Any = None,
    float_model: keras.Model | None = None,
    history: ThresholdHistory | None = None, verification: VerificationReport | None = None, sensitivity: bool = True,
    overwrite: bool = False,
    progress: bool = True,
) -> pathlib.Path:
    """Write what quantization did to a model: one HTML file with everything inside, no scripts, no network.

    It holds the accuracies, each quantizer's threshold, range, clipped part, SQNR ``10 log10(sum x^2 / sum (x -
    q(x))^2)`` and cosine, histograms with the thresholds drawn in, the thresholds' way through ALT, the sensitivity of
    the outputs to each quantizer alone, bits, MACs, bit operations, bytes of constants and of activations, what was
    left in float and why, and the certificate.

    Args:
        q: made by ``quantize``, calibrated or retrained.
        data: inputs, as for ``verify``, or ``(inputs, labels)``, or a dataset of such; all of them for the accuracies
            and the certificate, the first 64 for the layers, the first 16 for the sensitivity.
        path: an ``.html`` file.
        labels: class of each example (or one-hot), for the accuracies of a classifier with one output.
        float_model: what ``q`` was made of: its accuracy, and SQNR and cosine between its tensors and those of ``q``.
        history: the thresholds' way through ALT.
        verification: a certificate; ``verify(q, to_integer(q), data)`` by default.
        sensitivity: whether to measure it; a run of the network in numpy for each quantizer.
        overwrite: replace ``path`` where it exists.
        progress: show a bar.

    Returns:
        The path.

    Raises:
        FileExistsError: where ``path`` exists and ``overwrite`` is false; nothing was computed then.
        ValueError: for another suffix, no data, labels of another number, a model that ``quantize`` did not make.
    """
    path = pathlib.Path(path)
    if path.suffix not in (".html", ".htm"):
        raise ValueError(f"a report is an .html file, got {path}")
    files.check_free(path, overwrite=overwrite)
    ig = to_integer(q)
    data, found = interface.labelled(ig.graph, data, "report")
    if labels is None and measures.is_classifier(ig.graph):
        labels = found
    arrays = interface.arrays_of(ig.graph, data, "report")
    fixed = interpreter.fixed_batch(ig.graph)
    classes = None if labels is None else measures.classes_of(labels, len(arrays[0]))
    if classes is not None and len(ig.graph.outputs) != 1:
        raise ValueError(f"labels are for a classifier with one output, and {q.name!r} has {len(ig.graph.outputs)}; "
                         "leave them out")
    graph = read(q)
    island = ig.island()
    if verification is None:
        verification = verify(q, ig, arrays, progress=progress)
    elif verification.digest != ig.digest():
        raise ValueError(
            f"the certificate is of the integer graph {verification.digest[:16]}, and {q.name!r} lowers to "
            f"{ig.digest()[:16]}; verify this model"
        )
    inputs = arrays[0] if len(arrays) == 1 else arrays
    accuracies = (
        [] if classes is None
        else measures.accuracies(
            {**({"float": float_model} if float_model is not None else {}), "quantized": q, "integer graph": ig},
            inputs, classes, fixed or 32
        )
    )
    few = [array[: _whole(TENSOR_EXAMPLES, fixed)] for array in arrays]
    rows = measures.quantizers(graph, few, island, None if float_model is None else read(float_model))
    costs = (
        measures.sensitivities(
            graph, [array[: _whole(SENSITIVITY_EXAMPLES, fixed)] for array in arrays], island, progress=progress
        )
        if sensitivity else []
    )
    content = page.render(page.Content(
        name=q.name, examples=len(arrays[0]), measured=len(few[0]), accuracies=accuracies, rows=rows,
        sensitivities=costs, history=history,
        cost=cost(ig), left_in_float=measures.left_in_float(q, ig.graph), verification=verification))
    with files.atomic_file(path, overwrite=overwrite) as temporary:
        temporary.write_text(content, encoding="utf-8")
    return path


def _whole(count: int, fixed: int | None) -> int:
    """So many examples, or the next whole batches of a network with a batch size of its own."""
    return count if fixed is None else -(-count // fixed) * fixed
