"""One list of instruction sets for every native op: each name is known to all of them, and one that a processor
lacks is refused.
"""

import os
import pathlib
import subprocess
import sys
import textwrap

from engines import needs_library

from graffiti.ops import loader
from graffiti.runtime import library

# every op with a tier, in a process that is told to have no more than AVX2; prints those that ran all the same
PROGRAM = textwrap.dedent("""
    import numpy as np
    import tensorflow as tf
    from graffiti.ops import loader
    from graffiti.runtime import library

    assert library.load().tiers() in (["scalar"], ["scalar", "avx2"])
    ops, x, none = loader.load(), np.ones((4, 4), np.float32), np.zeros(2, np.uint32)
    calls = {
        "training_quantize": lambda tier: ops.graffiti_training_quantize(
            x, 1.0, none, low=-128, high=127, stochastic=False, codes_type=tf.int8, tier=tier),
        "extremes": lambda tier: ops.graffiti_extremes(x, tier=tier),
        "count_above": lambda tier: ops.graffiti_count_above(x, 0.5, tier=tier),
        "group_maximum": lambda tier: ops.graffiti_group_maximum(x, np.int64([4, 1, 4, 1]), tier=tier),
        "multi_level": lambda tier: ops.graffiti_multi_level(
            x, np.ones((4, 4), np.float32), np.ones((4, 4), np.float32), none, np.int64([4, 1, 4, 1]), exponent_bits=2,
            mantissa_bits=1, stochastic=False, tier=tier),
        "batch_norm": lambda tier: ops.graffiti_batch_norm(x, x[0], x[0], [], epsilon=1e-3, relu=False, tier=tier),
        "batch_norm_grad": lambda tier: ops.graffiti_batch_norm_grad(
            x, x, x[0], x[0], x[0], x[0], [], relu=False, tier=tier),
        "fake_quantize": lambda tier: ops.graffiti_fake_quantize(x, 0.0, bits=8, is_signed=True, tier=tier),
        "fake_quantize_grad": lambda tier: ops.graffiti_fake_quantize_grad(
            x, x, 0.0, bits=8, is_signed=True, tier=tier),
        "maximum": lambda tier: ops.graffiti_maximum(x.astype(np.int8), x.astype(np.int8), tier=tier),
    }
    for name, call in calls.items():
        call("auto")
        call("scalar")
        try:
            call("avx512vnni")
            print(name)
        except tf.errors.InvalidArgumentError as error:
            assert "this processor has no avx512vnni; use tier 'auto'" in str(error), (name, error)
    print("done")
""")


@needs_library
def test_a_tier_that_a_processor_lacks_is_refused_by_every_op():
    root = str(pathlib.Path(__file__).resolve().parents[2])
    environment = {**os.environ, "GRAFFITI_MAX_TIER": "avx2", "PYTHONPATH": root, "TF_CPP_MIN_LOG_LEVEL": "3"}
    found = subprocess.run([sys.executable, "-c", PROGRAM], env=environment, capture_output=True, text=True)
    assert found.returncode == 0, found.stderr[-3000:]
    assert found.stdout.split() == ["done"], f"these ops ran another tier in its place: {found.stdout}"


@needs_library
def test_the_names_are_those_of_the_kernels():
    assert loader.TIERS == library.TIERS
    kernels = library.load()
    assert [kernels.tier_name(number).decode() for number in range(len(loader.TIERS))] == list(loader.TIERS)
