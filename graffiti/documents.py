"""Settings in files: YAML or JSON into plain values and back, and the strict checks that recipes and target profiles
share.

YAML needs the package PyYAML, which graffiti depends on; JSON is read without it. Every refusal is one sentence that
names the file, the key, what was expected and, where a key is misspelt, the nearest one.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import os
import pathlib
import re
from collections.abc import Iterable, Mapping
from typing import Any, Generic, TypeVar

SUFFIXES = (".yaml", ".yml", ".json")
T = TypeVar("T")


def read(path: str | os.PathLike) -> dict[str, Any]:
    """The mapping that a ``.yaml``, ``.yml`` or ``.json`` file holds.

    Raises:
        FileNotFoundError: where there is no such file.
        ValueError: for another suffix, broken YAML or JSON, a key given twice, something else than a mapping.
        ImportError: for YAML without PyYAML.
    """
    path = pathlib.Path(path)
    if path.suffix not in SUFFIXES:
        raise ValueError(f"{path} is no settings file; expected one of the suffixes {', '.join(SUFFIXES)}")
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}; expected YAML or JSON")
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not a text file in UTF-8 ({error})") from error
    content = _json(text, path) if path.suffix == ".json" else _yaml(text, path)
    if not isinstance(content, Mapping):
        raise ValueError(f"{path} holds {kind(content)}; expected keys with values")
    return dict(content)


def to_yaml(content: Mapping[str, Any]) -> str:
    """Plain values as YAML text, keys in the given order; ``read`` gives them back."""
    yaml = _import_yaml("writing YAML")
    return yaml.safe_dump(dict(content), sort_keys=False, allow_unicode=True, width=120)


def _import_yaml(what: str):
    try:
        import yaml
    except ImportError as error:
        raise ImportError(
            f"{what} needs the package PyYAML ({error}); install it with pip install pyyaml, or use JSON"
        ) from error
    return yaml


def _unique(pairs: Iterable[tuple[Any, Any]], path: pathlib.Path) -> dict[Any, Any]:
    found: dict[Any, Any] = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(f"{path} gives the key {key!r} twice; keep one")
        found[key] = value
    return found


def _json(text: str, path: pathlib.Path) -> Any:
    try:
        return json.loads(text, object_pairs_hook=lambda pairs: _unique(pairs, path))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is not valid JSON: {error}") from error


def _yaml(text: str, path: pathlib.Path) -> Any:
    yaml = _import_yaml(f"reading {path.name}")

    class Loader(yaml.SafeLoader):  # type: ignore[name-defined, misc]
        """Plain values only; refuses a key given twice; reads ``1e-3`` as a number, as YAML 1.2 does."""

        def construct_mapping(self, node, deep=False):
            if isinstance(node, yaml.MappingNode):
                self.flatten_mapping(node)
                keys = [self.construct_object(key, deep=True) for key, _ in node.value]
                _unique(
                    ((key if isinstance(key, (str, int, float, bool, type(None))) else str(key), None) for key in keys),
                    path
                )
            return super().construct_mapping(node, deep=True)

    Loader.add_implicit_resolver(
        "tag:yaml.org,2002:float", re.compile(r"^[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
    )
    try:
        return yaml.load(text, Loader)
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from error


# ---- checks of plain values ------------------------------------------------------------------------------------------
def kind(value: Any) -> str:
    """A value in the words of a settings file."""
    if value is None:
        return "nothing"
    if isinstance(value, Mapping):
        return "keys with values"
    if isinstance(value, (list, tuple)):
        return "a list"
    return repr(value)


def nearest(word: Any, known: Iterable[str]) -> str:
    """`` (did you mean 'x'?)`` for a misspelt word, or nothing."""
    close = difflib.get_close_matches(str(word), list(known), n=1, cutoff=0.6)
    return f" (did you mean {close[0]!r}?)" if close else ""


@dataclasses.dataclass(frozen=True)
class Catalog(Generic[T]):
    """Settings that are one file each: some come by name with graffiti, users write more.

    Args:
        folder: where the named ones lie, as ``.yaml``.
        kind: their class, with ``from_config(values, where)``.
        word: what one is called, for sentences (``recipe``).
        title: what the file of one is called (``target profile``).
    """

    folder: pathlib.Path
    kind: type[T]
    word: str
    title: str
    kept: dict[str, T] = dataclasses.field(default_factory=dict, compare=False)

    def names(self) -> tuple[str, ...]:
        """Those that come with graffiti."""
        return tuple(sorted(path.stem for path in self.folder.glob("*.yaml")))

    def load(self, path: str | os.PathLike) -> T:
        """From a YAML or JSON file.

        Raises:
            FileNotFoundError: where there is no such file.
            ValueError: where it holds something else; one sentence says which key is wrong and what is expected there.
        """
        title = f"the {self.title} {pathlib.Path(path).name}"
        return self.kind.from_config(read(path), title)  # type: ignore[attr-defined]

    def get(self, thing: str | os.PathLike | T) -> T:
        """From a name, the path of a file, or the thing itself (returned as it is).

        Raises:
            ValueError: where there is none such, or the file holds something else.
            FileNotFoundError: where there is no such file.
            TypeError: for something else.
        """
        if isinstance(thing, self.kind):
            return thing
        if not isinstance(thing, (str, os.PathLike)):
            raise TypeError(f"a {self.word} is a name, a path or a {self.kind.__name__}, got {thing!r}")
        name, known = os.fspath(thing), self.names()
        if name in known:
            if name not in self.kept:
                self.kept[name] = self.load(self.folder / f"{name}.yaml")
            return self.kept[name]
        if os.sep in name or name.endswith(SUFFIXES):
            return self.load(name)
        raise ValueError(
            f"there is no {self.word} {name!r}{nearest(name, known)}; the {self.word}s are {', '.join(known)}, or the "
            "path of a YAML or JSON file"
        )


def check_keys(content: Any, known: Iterable[str], where: str, *, required: Iterable[str] = ()) -> dict[str, Any]:
    """``content`` as a dict whose keys are all known.

    Args:
        content: a part of a settings file, as read.
        known: the keys it may have.
        where: what the part is called in an error.
        required: the keys it must have.

    Raises:
        ValueError: where it is no mapping, has an unknown key, or lacks a required one.
    """
    known = list(known)
    if not isinstance(content, Mapping):
        raise ValueError(f"{where} has the keys {', '.join(known)}, got {kind(content)}")
    for key in content:
        if key not in known:
            raise ValueError(f"{where} has no key {key!r}{nearest(key, known)}; its keys are {', '.join(known)}")
    missing = [key for key in required if key not in content]
    if missing:
        raise ValueError(f"{where} lacks {', '.join(missing)}")
    return dict(content)


def whole(value: Any, where: str, low: int | None = None, high: int | None = None) -> int:
    """A whole number in a range.

    Args:
        value: as read from a settings file; ``true`` is no number.
        where: what the value is called in an error.
        low, high: both included; ``None`` for no end. ``high`` comes with ``low``.

    Raises:
        ValueError: where it is no whole number, or outside the range.
    """
    span = "" if low is None else f" of at least {low}" if high is None else f" from {low} to {high}"
    if (
        isinstance(value, bool) or not isinstance(value, int) or (low is not None and value < low)
        or (high is not None and value > high)
    ):
        raise ValueError(f"{where} is a whole number{span}, got {kind(value)}")
    return value


def positive(value: Any, where: str) -> float:
    """A number above 0."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not value > 0 or value == float("inf"):
        raise ValueError(f"{where} is a number above 0, got {kind(value)}")
    return value


def flag(value: Any, where: str) -> bool:
    """True or false."""
    if not isinstance(value, bool):
        raise ValueError(f"{where} is true or false, got {kind(value)}")
    return value


def text(value: Any, where: str) -> str:
    """A text that is not empty."""
    if not isinstance(value, str) or not value:
        raise ValueError(f"{where} is a text, got {kind(value)}")
    return value


def one_of(value: Any, known: Iterable[str], where: str) -> str:
    """One word of a list.

    Args:
        value: as read from a settings file.
        known: the words.
        where: what the value is called in an error.

    Raises:
        ValueError: where it is no text or not in the list; proposes the nearest word.
    """
    known = list(known)
    if not isinstance(value, str) or value not in known:
        raise ValueError(f"{where} is one of {', '.join(known)}, got {kind(value)}{nearest(value, known)}")
    return value


def several_of(value: Any, known: Iterable[str], where: str) -> tuple[str, ...]:
    """A list of words out of a list, each once.

    Args:
        value: as read from a settings file.
        known: the words.
        where: what the value is called in an error.

    Returns:
        The words in the order of ``value``.

    Raises:
        ValueError: where it is no list, a word comes twice or is not known.
    """
    known = list(known)
    if not isinstance(value, (list, tuple)) or len(set(map(str, value))) != len(value):
        raise ValueError(f"{where} is a list of different words out of {', '.join(known)}, got {kind(value)}")
    return tuple(one_of(word, known, f"every entry of {where}") for word in value)


def span(value: Any, where: str) -> tuple[int, int]:
    """``[lowest, highest]``."""
    if (
        not isinstance(value, (list, tuple)) or len(value) != 2
        or any(isinstance(v, bool) or not isinstance(v, int) for v in value) or value[0] > value[1]
    ):
        shown = list(value) if isinstance(value, (list, tuple)) else kind(value)
        raise ValueError(f"{where} is a list [lowest, highest] of whole numbers, got {shown}")
    return int(value[0]), int(value[1])


def plain(value: Any) -> Any:
    """Dataclasses and tuples as dicts and lists, for YAML and JSON."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {key: plain(part) for key, part in value.items()}
    return [plain(part) for part in value] if isinstance(value, (list, tuple)) else value
