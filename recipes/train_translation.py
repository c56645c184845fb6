"""Translation in low bits beside float32: an attention LSTM encoder-decoder, beam search, BLEU by sacrebleu, no
download.

    python recipes/train_translation.py --scheme=float32,dynamic_fixed_point --seeds=0,1 --out=OUT

GNMT in small (Wu et al., arXiv 1609.08144): a bidirectional LSTM layer and a second one on top as encoder; the first
decoder layer asks the attention, the second one reads what it found; beam search with the length penalty of section 7.
The sentences come from ``translation_task.py``. Each epoch is a checkpoint in OUT/<scheme>-<seed>; a run that was
stopped goes on to the same bits. The last line of work is a table of everything in OUT.
"""

import json
import pathlib

import keras
import numpy as np
import runs
import sacrebleu
import tensorflow as tf
import tqdm
import translation_task as task
from absl import app, flags

import graffiti

_SCHEME = flags.DEFINE_list("scheme", ["float32", "dynamic_fixed_point"], "training schemes, and float32 for the "
                                                                          "baseline")
_SEEDS = flags.DEFINE_list("seeds", ["0"], "seeds of weights, order and rounding, one run for each")
_EPOCHS = flags.DEFINE_integer("epochs", 10, "epochs of every run")
_PAIRS = flags.DEFINE_integer("pairs", 16000, "sentences to train on")
_TEST = flags.DEFINE_integer("test_pairs", 1000, "other sentences for BLEU")
_UNITS = flags.DEFINE_integer("units", 128, "of every LSTM layer (the bidirectional one has half in each direction)")
_BATCH = flags.DEFINE_integer("batch_size", 64, "training batch")
_RATE = flags.DEFINE_float("learning_rate", 3e-3, "Adam's first rate; cosine decay to 0, gradients clipped to a "
                                                  "norm of 5")
_BEAM = flags.DEFINE_integer("beam", 4, "width of the beam")
_PENALTY = flags.DEFINE_float("length_penalty", 0.6, "alpha of the length penalty")
_ENGINE = flags.DEFINE_string("engine", "auto", "auto, native or emulated")
_STOP_AFTER = flags.DEFINE_integer("stop_after", None, "stop every run after so many epochs; the same command without "
                                                       "it goes on")
_OUT = flags.DEFINE_string("out", "translation_out", "folder of the runs")
_VERBOSE = flags.DEFINE_integer("verbose", 2, "of Keras' fit")


def network(source_words: int, target_words: int, units: int) -> keras.Model:
    """``(source [batch, s], target so far [batch, t]) -> logits [batch, t, words]``."""
    layers = keras.layers
    source, target = (
        keras.Input((None,), dtype="int32", name="source"), keras.Input((None,), dtype="int32", name="target")
    )
    x = layers.Embedding(source_words, units, mask_zero=True, name="source_embedding")(source)
    x = layers.Bidirectional(layers.LSTM(units // 2, return_sequences=True), name="encoder_1")(x)
    memory, h, c = layers.LSTM(units, return_sequences=True, return_state=True, name="encoder_2")(x)
    keys = layers.Dense(units, use_bias=False, name="attention_keys")(memory)
    y = layers.Embedding(target_words, units, mask_zero=True, name="target_embedding")(target)
    y, _, _ = layers.LSTM(units, return_sequences=True, return_state=True, name="decoder_1")(y, initial_state=[h, c])
    query = layers.Dense(units, name="attention_query")(y)
    context = layers.AdditiveAttention(name="attention")([query, memory, keys])
    z, _, _ = layers.LSTM(
        units, return_sequences=True, return_state=True, name="decoder_2"
    )(layers.Concatenate(name="with_context")([y, context]))
    y = layers.Add(name="residual")([y, z])
    return keras.Model(
        [source, target], layers.Dense(target_words, name="words")(layers.Concatenate(name="output")([y, context])),
        name="translation"
    )


class Translator:
    """Beam search with the layers of a trained network, one word at a time.

    Args:
        model: of ``network``, or what low-bit training made of it.
    """

    def __init__(self, model: keras.Model) -> None:
        self.layer, self.units = model.get_layer, model.get_layer("decoder_1").cell.units
        self.encode, self.step = (
            tf.function(self._encode, reduce_retracing=True), tf.function(self._step, reduce_retracing=True)
        )

    def _encode(self, source):
        x = self.layer("source_embedding")(source)
        memory, h, c = self.layer("encoder_2")(self.layer("encoder_1")(x))
        return memory, self.layer("attention_keys")(memory), h, c

    def _step(self, words, states, memory, keys, mask):
        y = self.layer("target_embedding")(words[:, None])
        y, h1, c1 = self.layer("decoder_1")(y, initial_state=states[:2])
        context = self.layer("attention")([self.layer("attention_query")(y), memory, keys], mask=[None, mask, None])
        z, h2, c2 = self.layer("decoder_2")(self.layer("with_context")([y, context]), initial_state=states[2:])
        logits = self.layer("words")(self.layer("output")([self.layer("residual")([y, z]), context]))
        return tf.nn.log_softmax(logits[:, 0]), [h1, c1, h2, c2]

    def __call__(self, source: np.ndarray, beam: int, alpha: float, longest: int) -> list[np.ndarray]:
        """The best sentence for each row: highest ``log p / ((5 + length) / 6)**alpha``.

        Args:
            source: int32 ``[sentences, s]``.
            beam: hypotheses that are kept.
            alpha: of the length penalty; 0 for none.
            longest: words of a sentence at most.
        """
        count, rows = len(source), np.repeat(np.arange(len(source)), beam)
        memory, keys, h, c = (tf.gather(x, rows) for x in self.encode(tf.constant(source)))
        mask, states = tf.constant(source[rows] != task.PAD), [h, c, tf.zeros_like(h), tf.zeros_like(c)]
        words = np.full((count, beam, 1), task.START, np.int32)
        scores = np.where(np.arange(beam) == 0, 0.0, -np.inf) * np.ones((count, 1))
        ended, lengths = np.zeros((count, beam), bool), np.zeros((count, beam), int)
        for _ in range(longest):
            log_p, states = self.step(tf.constant(words[:, :, -1].ravel()), states, memory, keys, mask)
            log_p = log_p.numpy().reshape(count, beam, -1)
            stay = np.full(log_p.shape[-1], -np.inf)
            stay[task.PAD] = 0.0  # a sentence that has ended goes on with padding, at no cost
            log_p = np.where(ended[:, :, None], stay, log_p)
            log_p[:, :, task.PAD] = np.where(ended, 0.0, -np.inf)
            total = (scores[:, :, None] + log_p)
            new_lengths = lengths + ~ended
            ranked = (total / ((5.0 + new_lengths[:, :, None]) / 6.0) ** alpha).reshape(count, -1)
            best = np.argsort(-ranked, axis=1, kind="stable")[:, :beam]
            parent, word = best // log_p.shape[-1], (best % log_p.shape[-1]).astype(np.int32)
            scores, lengths = (
                np.take_along_axis(total.reshape(count, -1), best, 1), np.take_along_axis(new_lengths, parent, 1)
            )
            ended = np.take_along_axis(ended, parent, 1) | (word == task.END)
            words = np.concatenate([np.take_along_axis(words, parent[:, :, None], 1), word[:, :, None]], 2)
            states = [tf.gather(state, (np.arange(count)[:, None] * beam + parent).ravel()) for state in states]
            if ended[:, 0].all():
                break
        final = np.where(ended, scores / ((5.0 + lengths) / 6.0) ** alpha, -np.inf)
        return list(words[np.arange(count), np.where(ended.any(1), final.argmax(1), 0), 1:])


class Sentences:
    """The task as arrays: ``train`` and ``test`` are pairs of sentences that have none in common.

    Args:
        train: number of pairs to train on.
        test: number of other pairs.
    """

    def __init__(self, train: int, test: int) -> None:
        pairs = task.pairs(train + test, seed=0)
        self.train, self.test = pairs[:train], pairs[train:]
        english, german = zip(*pairs)
        self.source, self.target = task.Vocabulary(english), task.Vocabulary(german)
        self.x, self.y = self.source.encode(english), self.target.encode(german)

    def epoch(self, seed: int, epoch: int, batch: int) -> tf.data.Dataset:
        """Shuffled batches of ``((source, target without its end), target without its start)``."""
        order = np.random.default_rng((seed, epoch)).permutation(len(self.train))
        order = order[: len(order) // batch * batch]
        return tf.data.Dataset.from_tensor_slices(
            ((self.x[order], self.y[order, :-1]), self.y[order, 1:])
        ).batch(batch, drop_remainder=True)

    def score(self, model: keras.Model) -> dict[str, float]:
        """BLEU and the percentage of sentences that are right in every word."""
        translate, found = Translator(model), []
        source = self.x[len(self.train):]
        for start in tqdm.trange(
            0, len(source), 125, desc="beam search", unit_scale=125, unit="sentence", leave=False,
            disable=not _VERBOSE.value
        ):
            found += translate(source[start:start + 125], _BEAM.value, _PENALTY.value, self.y.shape[1])
        sentences, wanted = [self.target.decode(words) for words in found], [german for _, german in self.test]
        bleu = sacrebleu.corpus_bleu(sentences, [wanted], tokenize="none", force=True)
        return {"bleu": bleu.score, "exact": 100 * float(np.mean([a == b for a, b in zip(sentences, wanted)]))}


def prepare(scheme: str, seed: int, sentences: Sentences) -> keras.Model:
    """The compiled model of a run; the float network and its weights depend on the seed alone."""
    keras.utils.set_random_seed(seed)
    model = network(len(sentences.source), len(sentences.target), _UNITS.value)
    if scheme != "float32":
        model = graffiti.quantize_training(model, scheme, engine=_ENGINE.value, seed=seed)
    decay = keras.optimizers.schedules.CosineDecay(_RATE.value, _EPOCHS.value * (len(sentences.train) // _BATCH.value))
    model.compile(
        graffiti.LowBitOptimizer(keras.optimizers.Adam(decay, global_clipnorm=5.0)),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True), jit_compile=False
    )
    return model


def run(scheme: str, seed: int, sentences: Sentences, folder: pathlib.Path) -> dict:
    """Train one row, or go on with it; returns what results.json holds."""
    settings = {
        "scheme": scheme, "seed": seed, "pairs": len(sentences.train), "test_pairs": len(sentences.test),
        "units": _UNITS.value, "batch_size": _BATCH.value,
        "learning_rate": _RATE.value, "beam": _BEAM.value, "length_penalty": _PENALTY.value, "engine": _ENGINE.value,
    }

    def fit(model, epoch):
        log = model.fit(
            sentences.epoch(seed, epoch, _BATCH.value), verbose=_VERBOSE.value, shuffle=False,
            callbacks=[graffiti.callbacks.LowBitSteps()]
        ).history
        return {"loss": log["loss"][0]}

    return runs.train(
        folder, f"{scheme}, seed {seed}", settings, _EPOCHS.value, lambda: prepare(scheme, seed, sentences), fit,
        sentences.score, _STOP_AFTER.value
    )


def table(folder: pathlib.Path) -> str:
    """Everything in the folder, finished runs only: mean and spread over seeds, drop against float32 of the same
    settings.
    """
    found: dict[tuple, dict[str, list[dict]]] = {}
    for path in sorted(folder.glob("*/results.json")):
        r = json.loads(path.read_text())
        if len(r["history"]) == r.get("epochs"):
            found.setdefault((r["epochs"], r["pairs"], r["units"]), {}).setdefault(r["scheme"], []).append(r)
    lines = [
        "| epochs × pairs | scheme | seeds | BLEU | spread | drop | right in every word |",
        "|---|---|---|---|---|---|---|"
    ]
    for (epochs, pairs, _), rows in found.items():
        base = np.mean([r["bleu"] for r in rows["float32"]]) if "float32" in rows else np.nan
        for scheme, these in sorted(rows.items(), key=lambda item: (item[0] != "float32", item[0])):
            bleu = [r["bleu"] for r in these]
            lines.append(
                f"| {epochs} × {pairs:,} | {scheme} | {len(these)} | {np.mean(bleu):.2f} | "
                f"±{(max(bleu) - min(bleu)) / 2:.2f} | {base - np.mean(bleu):.2f} | "
                f"{np.mean([r['exact'] for r in these]):.1f} % |")
    return "\n".join(lines)


def main(_) -> None:
    schemes = runs.schemes_of(_SCHEME.value)
    sentences, out = Sentences(_PAIRS.value, _TEST.value), pathlib.Path(_OUT.value)
    print(
        f"{len(sentences.train):,} sentences to train on, {len(sentences.test):,} to test; {len(sentences.source)} and "
        f"{len(sentences.target)} words",
        flush=True
    )
    for seed in map(int, _SEEDS.value):
        for scheme in schemes:
            run(scheme, seed, sentences, out / f"{scheme}-{seed}")
            keras.utils.clear_session()
    print(table(out))


if __name__ == "__main__":
    app.run(main)
