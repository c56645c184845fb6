"""The ten networks of ``tools/random_models.py`` hold every op that graffiti lowers, and go through the whole line
to every format.
"""

from __future__ import annotations

import importlib
import pathlib
import sys

import numpy as np
import pytest

import graffiti
from graffiti.cost import read

TOOLS = str(pathlib.Path(__file__).resolve().parents[1] / "tools")


@pytest.fixture(scope="module")
def random_models():
    sys.path.insert(0, TOOLS)
    try:
        return importlib.import_module("random_models")
    finally:
        sys.path.remove(TOOLS)


def test_they_hold_every_op(random_models):
    ops = {node.op for number in range(random_models.COUNT) for node in read(random_models.network(number)).nodes}
    assert (
        ops
        >= {
            "activation", "add", "average_pool", "batch_norm", "concat", "conv", "conv_transpose", "crop", "dense",
            "depthwise_conv", "global_max_pool", "leaky_relu", "max_pool", "maximum", "mean", "pad", "permute", "relu",
            "rescaling", "reshape", "separable_conv", "softmax", "subtract", "upsample"
        }
    )
    assert "island" not in ops


def test_one_of_them_goes_through_every_format(random_models, tmp_path):
    """Number 4 holds an average pool with partial windows, which every format has to divide by the true counts."""
    model, images = random_models.network(4), random_models.inputs(40)
    ig = graffiti.to_integer(graffiti.quantize(model, "int8", images, progress=False))
    assert any(node.op == "average_pool" and node.attrs["padding"] == "same" for node in ig.graph.nodes)
    for target in ("native", "c", "onnx", "qonnx", "litert:xnnpack", "litert:float32"):
        report = graffiti.verify(None, ig, images[:20], [target], progress=False)
        assert report.verdict == "equal" or report.skipped, report
    np.testing.assert_array_equal(random_models.inputs(3), random_models.inputs(3))
