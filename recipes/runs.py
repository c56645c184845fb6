"""Training runs in pieces: each epoch is a checkpoint, and a run that was stopped goes on to the same bits."""

from __future__ import annotations

import json
import pathlib
import time
from collections.abc import Callable
from typing import Any

import keras
from absl import app

import graffiti
from graffiti import files


def train(
    folder: pathlib.Path, title: str, settings: dict[str, Any], epochs: int, prepare: Callable[[], keras.Model],
    fit: Callable[[keras.Model, int], dict],
    evaluate: Callable[[keras.Model], dict], stop_after: int | None = None,
    finish: Callable[[keras.Model], dict] | None = None,
) -> dict:
    """Train, or go on with what is in the folder.

    Args:
        folder: for ``results.json`` and ``last.keras``.
        title: what is printed before each epoch.
        settings: what must be the same when the run goes on; kept in the results.
        epochs: of the whole run.
        prepare: the compiled model with its first weights.
        fit: ``(model, epoch) -> numbers``: trains one epoch.
        evaluate: ``model -> numbers``.
        stop_after: stop after so many epochs; a later call goes on.
        finish: ``model -> numbers`` of the finished run, measured once.

    Returns:
        What results.json holds: the settings, ``history`` with the numbers of each epoch, the last epoch's evaluation,
            and ``finished``.

    Raises:
        UsageError: where the folder holds a run with other settings.
    """
    results, checkpoint = folder / "results.json", folder / "last.keras"
    record = json.loads(results.read_text()) if results.exists() else {"history": []}
    settings = {**settings, "epochs": epochs}
    if record["history"] and {key: record.get(key) for key in settings} != settings:
        raise app.UsageError(
            f"{results} was made with other settings ({ {key: record.get(key) for key in settings} }); choose "
            "another --out"
        )
    if len(record["history"]) >= epochs and (finish is None or "finished" in record):
        return record

    def write():
        with files.atomic_file(results, overwrite=True) as temporary:
            temporary.write_text(json.dumps(record, indent=1) + "\n")

    folder.mkdir(parents=True, exist_ok=True)
    model = keras.models.load_model(checkpoint) if checkpoint.exists() else prepare()
    for epoch in range(len(record["history"]), min(epochs, stop_after or epochs)):
        begin = time.perf_counter()
        print(f"{title}, epoch {epoch + 1}/{epochs}", flush=True)
        numbers = fit(model, epoch)
        seconds = time.perf_counter() - begin
        found = evaluate(model)
        record["history"].append({**numbers, **found, "seconds": round(seconds, 1)})
        record.update(settings, **found)
        with files.atomic_file(checkpoint, overwrite=True) as temporary:
            model.save(temporary)
        write()
        print(
            "  "
            + ", ".join(
                f"{name} {value:.4g}" for name, value in {**numbers, **found}.items() if isinstance(value, (int, float))
            )
            + f", {seconds:.0f} s",
            flush=True
        )
    if len(record["history"]) >= epochs and finish is not None:
        record["finished"] = finish(model)
        write()
    return record


def schemes_of(flag: list[str]) -> list[str]:
    """The schemes that a flag names, checked.

    Raises:
        UsageError: where one is unknown.
    """
    known = ("float32", *graffiti.schemes.training_names())
    for scheme in flag:
        if scheme not in known:
            raise app.UsageError(f"--scheme takes {', '.join(known)}, got {scheme!r}")
    return flag
