"""Recipes by name: files in this folder with the keys that they change in config.yaml."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from itertools import takewhile
from pathlib import Path
from typing import Any

from byola_rq.config import Config, default_config_path, read_values, resolve
from byola_rq.errors import ConfigError

NAMES = ("paper", "byola", "byola_v2", "general", "short")


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Recipe, as described by the first lines of its file.

    Args:
        name: Name for `--recipe`.
        path: File of the recipe.
        summary: Augmentations, encoder, schedule and length.
        source: Paper, or section of the documentation.
        scores: Accuracies in percent, on the sets named in docs/pretraining.md.
        minutes: Duration and hardware of that run.
        command: Command of that run, except for its data source.
    """

    name: str
    path: Path
    summary: str
    source: str
    scores: str
    minutes: str
    command: str

    @property
    def header(self) -> str:
        """First lines of the file, as text."""
        return "".join(f"{line}\n" for line in _header(self.path))


def read_recipe(name: str) -> Recipe:
    """Read the description of a recipe.

    Raises:
        ConfigError: If there is no such recipe.
    """
    if name not in NAMES:
        near = get_close_matches(name, NAMES, n=1)
        hint = f". Did you mean {near[0]}?" if near else ""
        raise ConfigError(
            f"recipe must be one of {', '.join(NAMES)}; got {name}{hint}",
            code="unknown",
            key="recipe",
            value=name,
        )
    path = Path(__file__).with_name(f"{name}.yaml")
    facts = dict(line.removeprefix("# ").split(": ", 1) for line in _header(path))
    return Recipe(name=name, path=path, **facts)


def load_recipe(name: str, overrides: Sequence[str] = ()) -> Config:
    """Resolve a recipe: config.yaml, changed by its file, then by `section.key=value` overrides.

    Raises:
        ConfigError: If there is no such recipe, or if `load_config` raises it.
    """
    path = read_recipe(name).path
    return resolve(read_recipe_values(path), overrides, path)


def read_recipe_values(path: Path) -> dict[str, Any]:
    """Read the sections of config.yaml, changed by a recipe's file."""
    return _merged(read_values(default_config_path()), read_values(path))


def _header(path: Path) -> list[str]:
    lines = path.read_text(encoding="utf-8").splitlines()
    return list(takewhile(lambda line: line.startswith("# "), lines))


def _merged(values: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return `values` with those in `changes` replaced, section by section."""
    replaced = {
        key: _merged(values[key], change) if isinstance(change, Mapping) else change
        for key, change in changes.items()
    }
    return {**values, **replaced}
