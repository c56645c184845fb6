"""The TensorFlow executor against the numpy interpreter, tensor by tensor, with ``==``."""

import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf
from engines import ENGINES, needs_library

from graffiti import ops
from graffiti.executors.tensorflow import RULES, TensorFlowExecutor, program_function, to_saved_model
from graffiti.graph import interpreter, printer
from graffiti.numerics.rounding import ROUNDING_MODES
from graffiti.ops import loader
from graffiti.runtime.program import compile_graph

RESIDUAL = """
integer graph residual
input %x:f32[_,9,8,3]
const %c/kernel:s8n@-7[3,3,3,16] = random(1)
const %c/bias:s32@-14[16] = full(12345)
const %d/kernel:s8@[-7,-6,-5,-8,-7,-6,-5,-8,-7,-6,-5,-8,-7,-6,-5,-8][3,3,16,1] = random(3)
const %e/kernel:s8n@-7[1,1,16,16] = random(4)
const %g/kernel:s8n@-7[3,3,4,16] = random(5)
const %p/kernel:u8@-12[5,4,16,1] = full(205)
const %f/kernel:s8n@-6[16,10] = random(6)
const %f/bias:s32@-12[10] = full(-100)
%x_q:u8@-7[_,9,8,3] = quantize(%x) {format=u8@-7}
%c/product = conv(%x_q, %c/kernel) {strides=(1, 1), padding='same', dilation=(1, 1)}
%c = bias_add(%c/product, %c/bias)
%c_q = requantize(%c) {format=u8@-4, low=0, high=96}
%d = depthwise_conv(%c_q, %d/kernel) {strides=(2, 2), padding='same', dilation=(1, 1)}
%d_q = requantize(%d) {format=s8@-2, rounding='half_away'}
%e = conv(%d_q, %e/kernel) {strides=(1, 1), padding='valid', dilation=(1, 1)}
%e_q = requantize(%e) {format=s8@-2, rounding='half_up'}
%a = add(%d_q, %e_q)
%a_q = requantize(%a) {format=u8@-2, low=0}
%g = conv(%a_q, %g/kernel) {strides=(1, 1), padding='same', dilation=(2, 2), groups=4}
%g_q = requantize(%g) {format=s16@-4}
%s = subtract(%g_q, %g_q)
%m = maximum(%g_q, %g_q)
%r = relu(%m) {max_code=300}
%p = depthwise_conv(%a_q, %p/kernel) {strides=(5, 4), padding='valid', dilation=(1, 1)}
%p_q = requantize(%p) {format=u8@-2, rounding='floor'}
%flat = reshape(%p_q) {shape=(16,)}
%f/product = dense(%flat, %f/kernel)
%f = bias_add(%f/product, %f/bias)
%f_q = requantize(%f) {format=s8@-1}
%logits = dequantize(%f_q)
%y = softmax(%logits)
output %y, %r, %s, %f_q
"""

MOVES = ("""
integer graph moves
input %x:f32[_,6,5,4]
input %codes:s8@-3[_,6,5,2]
const %table:u8@-8[256] = random(1)
const %scale:s8@-3[1,6,5,1] = random(2)
const %scalar:s16@-10[1] = full(77)
const %t/kernel:s8n@-7[3,3,5,6] = random(3)
%x_r = rescaling(%x) {scale=0.75, offset=-0.3}
%x_q = quantize(%x_r) {format=s8@-3, rounding='half_away'}
%j = concat(%x_q, %codes)
%pool = max_pool(%j) {pool_size=(3, 2), strides=(2, 2), padding='same'}
%top = global_max_pool(%j) {axes=(1, 2)}
%top_kept = global_max_pool(%j) {axes=(2,), keepdims=True}
%t = conv_transpose(%j, %t/kernel) {strides=(2, 2), padding='same'}
%t_valid = conv_transpose(%j, %t/kernel) {strides=(2, 3), padding='valid', output_padding=(1, 2)}
%t_q = requantize(%t) {format=s8@-4}
%l = lookup(%j, %table) {format=u8@-8}
%scaled = multiply(%j, %scale)
%by_one = multiply(%j, %scalar)
%padded = pad(%j) {pads=((1, 0), (2, 3), (0, 1))}
%cropped = crop(%j) {crops=((1, 2), (0, 1), (0, 0))}
%cut = slice(%j) {slices=((1, 5, 2), (0, None, 1), (2, 6, 1))}
%flipped = take(%j) {axis=1, indices=(5, 4, 3, 2, 1, 0)}
%least = minimum(%j, %flipped)
%average = average_pool(%j) {pool_size=(3, 2), strides=(2, 2), padding='same', format=s8@-4, rounding='half_up'}
%turned = permute(%j) {dims=(3, 1, 2)}
%big = upsample(%j) {size=(2, 3)}
%seen = dequantize(%big)
output %cut, %least, %average, %top, %top_kept, %t_q, %t_valid, %l, %scaled, %by_one, %padded, %cropped, %turned, %seen, %pool, %codes
""")

SERIES = """
integer graph series
input %x:f32[_,17,3]
const %c/kernel:s8n@-7[5,3,8] = random(1)
const %d/kernel:s8n@-7[3,8,2] = random(2)
const %t/kernel:s8n@-7[4,6,16] = random(3)
const %s/bias:s16@-9[16] = random(4)
const %l/kernel:s8n@-7[16,7] = random(5)
%x_q = quantize(%x) {format=s16@-9}
%c = conv(%x_q, %c/kernel) {strides=(2,), padding='same', dilation=(1,)}
%c_q = requantize(%c) {format=s8@-3}
%d = depthwise_conv(%c_q, %d/kernel) {strides=(1,), padding='valid', dilation=(2,)}
%d_q = requantize(%d) {format=s16@-9}
%s = bias_add(%d_q, %s/bias)
%s_q = requantize(%s) {format=s8@-3, rounding='half_up'}
%m = max_pool(%s_q) {pool_size=(2,), strides=(1,), padding='valid'}
%t = conv_transpose(%m, %t/kernel) {strides=(3,), padding='valid'}
%l = dense(%m, %l/kernel)
%big = upsample(%m) {size=(2,)}
output %t, %l, %big
"""


GRAPHS = {"residual": RESIDUAL, "moves": MOVES, "series": SERIES}


def inputs_of(graph, batch: int, seed: int = 0) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    arrays = []
    for name in graph.inputs:
        shape, format = (batch, *graph.shape(name)[1:]), graph.format(name)
        x = rng.normal(size=shape) * 20 if format is None else rng.integers(format.qmin, format.qmax + 1, shape)
        arrays.append(x.astype(np.float32 if format is None else format.dtype))
    return arrays


def assert_same(expected: np.ndarray, got: np.ndarray, name: str) -> None:
    assert expected.dtype == got.dtype and expected.shape == got.shape, (
        name,
        expected.dtype,
        got.dtype,
        expected.shape,
        got.shape,
    )
    assert np.array_equal(expected, got), f"{name}: {np.count_nonzero(expected != got)} of {expected.size} differ"


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("name", GRAPHS)
def test_equals_the_interpreter(name, engine):
    graph = printer.parse(GRAPHS[name])
    executor = TensorFlowExecutor(graph, ops=engine[0], tier=engine[1])
    for batch in (1, 3, 0):
        inputs = inputs_of(graph, batch, seed=batch)
        expected = interpreter.run(graph, inputs, values=True)
        got = executor.run_all(inputs)
        assert set(got) == {out for node in graph.nodes for out in node.outputs}
        for tensor, value in got.items():
            assert_same(expected[tensor], value, tensor)
        for tensor, value in zip(graph.outputs, executor.run(inputs), strict=True):
            assert_same(expected[tensor], value, f"output {tensor}")


def test_the_graphs_use_every_op():
    used = {node.op for text in GRAPHS.values() for node in printer.parse(text).nodes}
    assert used == set(RULES) - {"island"}


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("rounding", ROUNDING_MODES)
def test_products_are_fused_and_stay_equal(rounding, engine):
    graph = printer.parse(RESIDUAL.replace("format=u8@-4, low=0", f"format=u8@-4, rounding='{rounding}', low=0"))
    executor = TensorFlowExecutor(graph, ops=engine[0], tier=engine[1])
    assert {name: [node.name for node in chain.nodes] for name, chain in executor._fused.items()} == {
        "c/product": ["c", "c_q"], "d": ["d_q"], "e": ["e_q"], "g": ["g_q"], "p": ["p_q"], "f/product": ["f", "f_q"]}
    inputs = inputs_of(graph, 2)
    for expected, got in zip(interpreter.run(graph, inputs), executor.run(inputs), strict=True):
        assert_same(expected, got, rounding)


def test_an_accumulator_with_two_readers_is_not_fused():
    graph = printer.parse("""
    integer graph two
    input %x:s8@0[_,4]
    const %k:s8n@-7[4,3] = random(1)
    %p = dense(%x, %k)
    %q = requantize(%p) {format=s8@-2}
    output %q, %p
    """)
    executor = TensorFlowExecutor(graph, ops="python")
    assert executor._fused == {}
    inputs = inputs_of(graph, 5)
    for expected, got in zip(interpreter.run(graph, inputs), executor.run(inputs[0]), strict=True):
        assert_same(expected, got, "two")


ISLAND = """
integer graph island
input %x:f32[_,4]
%q = quantize(%x) {format=s8@-3}
%f = dequantize(%q)
%i, %i:1 = island(%f) {layer={}, output_shapes=((None, 4), (None, 2))}
%i_q = quantize(%i) {format=s8@-4}
output %i_q, %i:1
"""


@pytest.mark.parametrize("engine", ENGINES[:2])
def test_island_is_called_back(engine):
    graph = printer.parse(ISLAND)

    def island(node, arrays):
        assert node.name == "i" and len(arrays) == 1
        return np.exp(arrays[0]), arrays[0][:, :2]

    executor = TensorFlowExecutor(graph, ops=engine[0], island=island)
    inputs = [np.random.default_rng(3).normal(size=(6, 4)).astype(np.float32)]
    for expected, got in zip(interpreter.run(graph, inputs, island=island), executor.run(inputs), strict=True):
        assert_same(expected, got, "island")
    nan = TensorFlowExecutor(graph, ops=engine[0], island=lambda node, arrays: (arrays[0] * np.nan, arrays[0][:, :2]))
    with pytest.raises(ValueError, match="NaN"):
        nan.run(inputs)


def test_bad_use():
    graph = printer.parse(ISLAND)
    with pytest.raises(ValueError, match="pass island="):
        TensorFlowExecutor(graph, ops="python")
    with pytest.raises(ValueError, match="ops is native or python, got 'auto'"):
        TensorFlowExecutor(graph, ops="auto")
    executor = TensorFlowExecutor(printer.parse(SERIES), ops="python")
    with pytest.raises(ValueError, match="holds 2 NaN"):
        executor.run(np.where(np.arange(51).reshape(1, 17, 3) < 2, np.nan, 0).astype(np.float32))
    with pytest.raises(ValueError, match="has shape"):
        executor.run(np.zeros((1, 16, 3), np.float32))
    graph.stage = "fakequant"
    with pytest.raises(ValueError, match="stage 'integer', got 'fakequant'"):
        TensorFlowExecutor(graph, ops="python")


def test_uint8_images_and_names():
    graph = printer.parse(SERIES)
    executor = TensorFlowExecutor(graph, ops="python")
    image = np.random.default_rng(1).integers(0, 256, (2, 17, 3)).astype(np.uint8)
    by_list, by_name = executor.run([image]), executor.run({"x": image.astype(np.float32)})
    assert all(np.array_equal(a, b) for a, b in zip(by_list, by_name, strict=True))
    assert tf.executing_eagerly()


@needs_library
@pytest.mark.parametrize("name", GRAPHS)
def test_program_op_equals_the_interpreter(name):
    graph = printer.parse(GRAPHS[name])
    run = program_function(graph, threads=2)
    for batch in (1, 5, 0):
        inputs = inputs_of(graph, batch, seed=batch)
        expected = interpreter.run(graph, inputs)
        got = run(*inputs)
        assert list(got) == graph.outputs
        for tensor, value in zip(graph.outputs, expected, strict=True):
            if tensor == "y":  # the softmax, in float
                np.testing.assert_allclose(got[tensor], value, atol=1e-6)
            else:
                assert_same(value, got[tensor].numpy(), tensor)


@needs_library
def test_program_op_refuses_what_does_not_fit():
    graph = printer.parse(SERIES)
    blob = compile_graph(graph).blob
    x, shapes = tf.zeros([2, 17, 3]), [(51, 6), (15, 7), (30, 16)]
    good = dict(
        output_types=["int32", "int32", "int8"], output_shapes=[compile_graph(graph).outputs[i].shape for i in range(3)]
    )
    assert [y.shape[0] for y in ops.run_program(blob, [x], **good)] == [2, 2, 2]
    error = (tf.errors.InvalidArgumentError, ValueError)
    with pytest.raises(error):
        ops.run_program(blob[:-5], [x], **good)
    with pytest.raises(error):
        ops.run_program(b"", [x], **good)
    with pytest.raises(error, match="one batch for all inputs"):
        ops.run_program(blob, [x[:, :16]], **good)
    with pytest.raises(error, match="input 0 of the program has another type"):
        ops.run_program(blob, [tf.zeros([2, 17, 3], tf.int8)], **good)
    with pytest.raises(error, match="output 0 of the program has"):
        ops.run_program(blob, [x], output_types=good["output_types"], output_shapes=[(1, 1), *shapes[1:]])
    with pytest.raises(error, match="3 outputs, the op 1 and 2"):
        ops.run_program(blob, [x], output_types=["int32", "int8"], output_shapes=good["output_shapes"][:2])
    with pytest.raises(error, match="NaN"):
        ops.run_program(blob, [x * np.nan], **good)


@needs_library
def test_saved_model_runs_in_a_new_process(tmp_path):
    graph = printer.parse(MOVES)
    folder = tmp_path / "saved"
    to_saved_model(graph, folder)
    with pytest.raises(FileExistsError, match="exists already"):
        to_saved_model(graph, folder)
    inputs = inputs_of(graph, 3)
    np.savez(tmp_path / "inputs.npz", x=inputs[0], codes=inputs[1])
    script = f"""
import sys, types
package = types.ModuleType("graffiti")
package.__path__ = [{str(loader.FOLDER.parent)!r}]
sys.modules["graffiti"] = package
import numpy as np, tensorflow as tf
from graffiti.ops import loader
loader.load()
serve = tf.saved_model.load({str(folder)!r}).signatures["serving_default"]
with np.load({str(tmp_path / "inputs.npz")!r}) as arrays:
    results = serve(x=tf.constant(arrays["x"]), codes=tf.constant(arrays["codes"]))
np.savez({str(tmp_path / "outputs.npz")!r}, **{{name: value.numpy() for name, value in results.items()}})
"""
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr
    with np.load(tmp_path / "outputs.npz") as got:
        for name, value in zip(graph.outputs, interpreter.run(graph, inputs), strict=True):
            assert_same(value, got[name], name)


@needs_library
def test_program_op_in_a_data_pipeline():
    graph = printer.parse(SERIES)
    run = program_function(graph)
    x = inputs_of(graph, 12)[0]
    parts = list(tf.data.Dataset.from_tensor_slices(x).batch(5).map(run, num_parallel_calls=2).as_numpy_iterator())
    assert_same(interpreter.run(graph, x)[1], np.concatenate([part["l"] for part in parts]), "l")


def test_islands_cannot_be_one_program():
    if not loader.available():
        pytest.skip(f"needs the op library: {loader.problem()}")
    with pytest.raises(ValueError, match="node 'i'"):
        program_function(printer.parse(ISLAND))
