"""The kernels and the runner under the address and undefined-behaviour sanitizers, and under the thread sanitizer."""

from __future__ import annotations

import pathlib
import shutil
import subprocess

import pytest
import random_graphs

from graffiti.ops.kernels import build
from graffiti.runtime.program import compile_graph

pytestmark = [
    pytest.mark.slow, pytest.mark.sanitizer,
    pytest.mark.skipif(shutil.which("c++") is None, reason="needs a C++ compiler")
]


@pytest.mark.parametrize(
    "flags", [("-fsanitize=address,undefined", "-fno-sanitize-recover=all"), ("-fsanitize=thread",)],
    ids=["address_undefined", "thread"]
)
def test_self_test_is_clean(tmp_path, flags):
    flags = (*flags, "-g1", "-O1")
    library = build.build(tmp_path / "lib", build_dir=tmp_path / "objects", extra_flags=flags)
    source = pathlib.Path(__file__).with_name("self_test.cc")
    subprocess.run(
        [
            "c++", "-std=c++17", *flags, f"-I{build.HERE}", str(source), str(library), f"-Wl,-rpath,{library.parent}",
            "-o", str(tmp_path / "self_test")
        ],
        check=True
    )
    programs = []
    for number, graph in enumerate(
        [random_graphs.small_network(), *(random_graphs.random_graph(seed) for seed in range(12))]
    ):
        programs.append(tmp_path / f"{number}.program")
        programs[-1].write_bytes(compile_graph(graph).blob)
    done = subprocess.run(
        [str(tmp_path / "self_test"), *map(str, programs)], capture_output=True, text=True, timeout=1200
    )
    assert done.returncode == 0, (done.stdout[-3000:], done.stderr[-6000:])
