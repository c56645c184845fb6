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

FOLDER = pathlib.Path(__file__).resolve().parent


def names() -> tuple[str, ...]:
    """The recipes that come with graffiti."""
    return tuple(sorted(path.stem for path in FOLDER.glob("*.yaml")))


def load(path: str | os.PathLike) -> Recipe:
    """A recipe from a YAML or JSON file.

    Raises:
        FileNotFoundError: where there is no such file.
        ValueError: where it is no recipe; one sentence says which key is wrong and what is expected there.
    """
    return Recipe.from_config(documents.read(path), f"the recipe {pathlib.Path(path).name}")


def get(recipe: str | os.PathLike | Recipe) -> Recipe:
    """A recipe from its name, the path of a file, or a recipe (returned as it is).

    Raises:
        ValueError: where there is no such recipe, or the file is none.
        FileNotFoundError: where there is no such file.
        TypeError: for something else.
    """
    if isinstance(recipe, Recipe):
        return recipe
    if not isinstance(recipe, (str, os.PathLike)):
        raise TypeError(f"a recipe is a name, a path or a Recipe, got {recipe!r}")
    name = os.fspath(recipe)
    if name in names():
        return load(FOLDER / f"{name}.yaml")
    if os.sep in name or name.endswith(documents.SUFFIXES):
        return load(name)
    raise ValueError(f"there is no recipe {name!r}{documents.nearest(name, names())}; the recipes are {', '.join(names())}, or the path of a YAML or JSON file")


__all__ = ["AltOptions", "CalibrationOptions", "Recipe", "get", "load", "names"]
