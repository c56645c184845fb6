"""Fixtures for all tests. Real data and models are optional: tests that need them skip where they are absent."""

from __future__ import annotations

import os
import pathlib
import random
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("GRAFFITI_DEBUG", "1")  # verify every graph between passes

import pytest


@pytest.fixture(autouse=True)
def seeded() -> None:
    """Random numbers that a test does not seed itself are the same in every run, whatever ran before it."""
    random.seed(0)
    if (numpy := sys.modules.get("numpy")) is not None:
        numpy.random.seed(0)
    if (keras := sys.modules.get("keras")) is not None:
        keras.utils.set_random_seed(0)


@pytest.fixture(scope="session")
def shared_dir() -> pathlib.Path:
    """The folder of real data and models: $GRAFFITI_SHARED, or a folder `shared` beside the repository."""
    default = pathlib.Path(__file__).resolve().parents[2] / "shared"
    path = pathlib.Path(os.environ.get("GRAFFITI_SHARED", default))
    if not (path / "models").is_dir():
        pytest.skip(f"needs the real models and data in {path} (set GRAFFITI_SHARED to their folder)")
    return path
