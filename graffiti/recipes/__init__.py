"""Recipes: scheme, rules, calibration, retraining and target of one run, as a YAML or JSON file or by name.

    recipe = graffiti.recipes.get("int8")                  # or the path of your own file
    q = recipe.quantize(model, images)
    q.compile(recipe.optimizer(steps_per_epoch=n), loss=..., metrics=[...])
    recipe.save("mine.yaml")                               # reads back as an equal recipe

The named ones are data files beside this module; the fields are explained in ``graffiti/docs/recipes.md``.
"""

from __future__ import annotations

import os
import pathlib

from graffiti import documents
from graffiti.recipes.recipe import AltOptions, CalibrationOptions, Recipe

CATALOG = documents.Catalog(pathlib.Path(__file__).resolve().parent, Recipe, "recipe", "recipe")


def names() -> tuple[str, ...]:
    """The recipes that come with graffiti."""
    return CATALOG.names()


def load(path: str | os.PathLike) -> Recipe:
    """A recipe from a YAML or JSON file; raises as ``documents.Catalog.load``."""
    return CATALOG.load(path)


def get(recipe: str | os.PathLike | Recipe) -> Recipe:
    """A recipe from its name, the path of a file, or a recipe (returned as it is); raises as
    ``documents.Catalog.get``.
    """
    return CATALOG.get(recipe)


__all__ = ["AltOptions", "CalibrationOptions", "Recipe", "get", "load", "names"]
