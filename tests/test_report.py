"""report: one file with everything inside; what it shows is what the model does."""

from __future__ import annotations

import html.parser
import re
import shutil
import subprocess

import keras
import numpy as np
import pytest
import tensorflow as tf
import zoo

import graffiti
from graffiti.graph.float_interpreter import run_float
from graffiti.html_report import charts, measures
from graffiti.keras_io.read import read


@pytest.fixture(scope="module")
def net():
    model = zoo.make(zoo.resnet)
    q = graffiti.quantize(model, "int4", calibration=zoo.inputs_of(model, 16), progress=False)
    images = zoo.inputs_of(model, 24, seed=1)
    return model, q, images, model.predict(images, verbose=0).argmax(-1)


def history() -> graffiti.callbacks.ThresholdHistory:
    made = graffiti.callbacks.ThresholdHistory()
    made.steps, made.values = (
        [0, 50, 100], {"conv2d/kernel": [0.5, 0.25, -0.5], "a per-channel one": [[0.0, 1.0], [0.5, 1.0], [1.0, 1.0]]}
    )
    return made


@pytest.fixture(scope="module")
def page(net, tmp_path_factory):
    model, q, images, labels = net
    path = tmp_path_factory.mktemp("report") / "r.html"
    assert graffiti.report(q, images, path, labels=labels, float_model=model, history=history(), progress=False) == path
    return path


class Parser(html.parser.HTMLParser):
    """Tags in balance, and every address that the page names."""

    def __init__(self) -> None:
        super().__init__()
        self.open, self.tags, self.addresses = [], [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.addresses += [value for name, value in attrs if name in ("src", "href")]
        if tag not in ("meta", "link", "rect", "line", "polyline", "br"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_one_file_with_everything_inside(net, page):
    _, q, images, labels = net
    text = page.read_text(encoding="utf-8")
    parser = Parser()
    parser.feed(text)
    assert not parser.open and parser.addresses == ["data:,"] and "script" not in parser.tags
    assert (
        "http" not in text.replace("http://www.w3.org/2000/svg", "") and 'name="viewport"' in text
        and "@media print" in text
    )
    for heading in (
        "Accuracy", "Layers", "Sensitivity", "Thresholds in training", "Histograms", "Cost", "Left in float",
        "Certificate"
    ):
        assert f"<h2>{heading}</h2>" in text
    graph = read(q)
    quantizers = [node for node in graph.nodes if node.op == "fake_quantize"]
    assert text.count("<figure>") == len(quantizers) and parser.tags.count("polyline") == 2
    ig = graffiti.to_integer(q)
    accuracy = float(np.mean(ig.predict(images).argmax(-1) == labels))
    assert (
        re.search(rf"<td>integer graph</td><td>{accuracy:.2%}</td>", text) and "<td>float</td><td>100.00%</td>" in text
    )
    assert f"integer graph sha256 {ig.digest()[:16]}" in text and "all integers agree" in text
    assert f"{graffiti.cost(ig).macs:,}" in text


def test_rows_are_what_the_quantizers_do(net):
    model, q, images, _ = net
    graph = read(q)
    rows = {row.name: row for row in measures.quantizers(graph, [images], None, read(model))}
    values = run_float(graph, images, values=True)
    for node in graph.nodes:
        if node.op != "fake_quantize":
            continue
        row, x = rows[node.output], np.float64(values.get(node.inputs[0], graph.constants.get(node.inputs[0])))
        y = values[node.output]
        assert row.bits == node.attrs["bits"] and row.role == node.attrs["role"]
        np.testing.assert_allclose((row.least, row.most), (x.min(), x.max()), rtol=1e-6)
        assert row.low <= y.min() and y.max() <= row.high
        noise = np.sum((x - y) ** 2)
        assert row.sqnr == (pytest.approx(10 * np.log10(np.sum(x**2) / noise), abs=0.05) if noise else np.inf)
        assert row.cosine == pytest.approx(np.sum(x * y) / np.sqrt(np.sum(x**2) * np.sum(y**2)), abs=1e-4)
        assert row.histogram[0].sum() == x.size and 0 <= row.clipped <= 1
    assert rows["re_lu_q"].float_sqnr is not None and rows["re_lu_q"].float_sqnr <= rows["re_lu_q"].sqnr + 1e-6


def test_clipped_counts_what_lies_outside():
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, use_bias=False)])
    q = graffiti.quantize(model, calibration=np.ones((4, 4), np.float32), progress=False)
    graph = read(q)
    x = np.float32([[1, 0.5, 0.25, 100.0], [-100.0, 0, 0, 0]])
    row = measures.quantizers(graph, [x], None, None)[0]
    signed = row.signed
    assert row.role == "input" and row.clipped == pytest.approx((1 + 1) / 8) and (signed or row.low == 0)


def test_per_channel_scales_of_a_depthwise_kernel():
    """Its channels are the last two axes together (``channel_axis`` = ``flat``)."""
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [keras.Input((6, 6, 4)), keras.layers.DepthwiseConv2D(3, depth_multiplier=2), keras.layers.Conv2D(3, 1)]
    )
    data = np.random.default_rng(0).normal(size=(8, 6, 6, 4)).astype(np.float32)
    q = graffiti.quantize(model, "int8_per_channel", calibration=data, progress=False)
    rows = [row for row in measures.quantizers(read(q), [data], None, None) if row.role == "weight"]
    assert (
        [len(row.exponents) for row in rows] == [8, 3]
        and all(row.type == "int8" and row.sqnr > 30 and row.clipped < 0.05 for row in rows)
    )
    assert all(row.low == -127 * 2.0 ** max(row.exponents) == -row.high for row in rows)


def test_sensitivity_is_that_of_one_quantizer_alone(net):
    _, q, images, _ = net
    graph = read(q)
    found = measures.sensitivities(graph, [images[:4]], None, progress=False)
    assert (
        [s.noise for s in found] == sorted((s.noise for s in found), reverse=True)
        and len(found) == sum(n.op == "fake_quantize" for n in graph.nodes)
    )
    first = found[0]
    (base,), (alone,), (all_of_them,) = (
        run_float(graph, images[:4], active=active)
        for active in (lambda n: False, lambda n: n.output == first.name, None)
    )
    assert first.noise == pytest.approx(np.sum((alone - base) ** 2) / np.sum(base**2), rel=1e-3) and first.noise > 0
    assert not np.array_equal(all_of_them, alone)
    np.testing.assert_array_equal(
        run_float(graph, images[:4])[0], run_float(graph, images[:4], active=lambda n: True)[0]
    )


def test_measures():
    x = np.float32([3.0, 4.0])
    assert measures.sqnr(x, x) == np.inf and measures.sqnr(x, x * 0) == 0.0 and measures.sqnr(x * 0, x) == -np.inf
    assert (
        measures.cosine(x, x) == 1.0 and measures.cosine(x, -x) == -1.0 and measures.cosine(x, 0 * x) == 0.0
        and measures.cosine(0 * x, 0 * x) == 1.0
    )


def test_names_are_escaped_and_islands_are_told(tmp_path):
    inputs = keras.Input((6,))
    x = keras.layers.Dense(5, activation="relu", name="ab")(inputs)
    model = keras.Model(inputs, keras.layers.LayerNormalization(name="norm")(x), name="x>y")
    data = np.random.default_rng(0).normal(size=(16, 6)).astype(np.float32)
    q = graffiti.quantize(model, calibration=data, progress=False)
    text = graffiti.report(q, data, tmp_path / "r.html", sensitivity=False, progress=False).read_text()
    assert "<h1>x&gt;y</h1>" in text and "x>y" not in text
    drawn = charts.bars([("<i>", 1.0, "<b>")], '"<u>') + charts.lines([0, 1], {"<s>": [0.0, 1.0]}, "l")
    assert not {"<i>", "<b>", "<u>", "<s>"} & set(re.findall("<.>", drawn)) and "&quot;&lt;u&gt;" in drawn
    assert "<td>norm</td>" in text and "<h2>Sensitivity</h2>" not in text and "<h2>Accuracy</h2>" not in text


def test_bad_arguments_are_one_sentence_and_nothing_is_lost(net, tmp_path):
    model, q, images, labels = net
    taken = tmp_path / "taken.html"
    taken.write_text("mine")
    ig = graffiti.to_integer(q)
    other = graffiti.verify(None, ig, images, ["python"], progress=False)
    other.digest = "0" * 64
    for arguments, options, error, message in (
        ((q, images, taken), {}, FileExistsError, "exists already"),
        ((q, images, tmp_path / "r.pdf"), {}, ValueError, "a report is an .html file"),
        ((q, images[:0], tmp_path / "r.html"), {}, ValueError, "no data"),
        ((q, images, tmp_path / "r.html"), {"labels": labels[:3]}, ValueError, "expected 24, got 3"),
        (
            (q, images, tmp_path / "r.html"), {"verification": other}, ValueError,
            "the certificate is of the integer graph 0000"
        ),
        ((model, images, tmp_path / "r.html"), {}, ValueError, "quantize"),
    ):
        with pytest.raises(error, match=message):
            graffiti.report(*arguments, progress=False, **options)
    assert taken.read_text() == "mine" and [p.name for p in tmp_path.iterdir()] == ["taken.html"]
    graffiti.report(
        q, images, taken, overwrite=True, sensitivity=False,
        verification=graffiti.verify(None, ig, images, ["python"], progress=False), progress=False
    )
    assert taken.read_text().startswith("<!doctype html>")


BROWSER = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
)


@pytest.mark.skipif(BROWSER is None, reason="needs Chromium")
@pytest.mark.parametrize("size", ["390,844", "1280,900"])
def test_a_browser_renders_it_without_console_errors(page, tmp_path, size):
    """A probe is appended that writes what the layout came to into the title; the console is read from Chromium's
    log.
    """
    probe = ("<script>document.title='width '+document.documentElement.scrollWidth+' of '+window.innerWidth+' charts '"
             "+[...document.querySelectorAll('svg')].filter(s=>s.getBoundingClientRect().height>20).length</script>")
    copy = tmp_path / "probe.html"
    copy.write_text(page.read_text() + probe)
    done = subprocess.run(
        [
            BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
            f"--user-data-dir={tmp_path / 'profile'}", f"--window-size={size}", "--enable-logging=stderr", "--v=0",
            "--dump-dom", copy.as_uri()
        ],
        capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert "CONSOLE" not in done.stderr, done.stderr
    title = re.search(r"<title>width (\d+) of (\d+) charts (\d+)</title>", done.stdout)
    assert title, done.stdout[:500]
    wide, window, charts = map(int, title.groups())
    assert wide <= window, "the page scrolls sideways"
    assert charts == page.read_text().count("<svg")


@pytest.mark.parametrize("form", ["tuple", "dataset", "fixed"])
def test_labels_come_with_the_data(form, tmp_path):
    keras.utils.set_random_seed(0)
    inputs = keras.Input(batch_shape=(2 if form == "fixed" else None, 6))
    model = keras.Model(inputs, keras.layers.Dense(3, activation="softmax")(inputs))
    images = np.random.default_rng(0).normal(size=(40, 6)).astype(np.float32)
    q = graffiti.quantize(model, calibration=images, progress=False)
    labels = q.predict(images, verbose=0, batch_size=2).argmax(-1)
    data = tf.data.Dataset.from_tensor_slices((images, labels)).batch(8) if form == "dataset" else (images, labels)
    path = graffiti.report(q, data, tmp_path / "r.html", progress=False)
    text = path.read_text()
    assert "<td>quantized</td><td>100.00%</td>" in text and "<td>integer graph</td><td>100.00%</td>" in text
