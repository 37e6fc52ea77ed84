"""Grid: a file of variants, and the runs it expands to."""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from byola_rq.config import NEWER_KEYS, Config, flatten, read_values, resolve
from byola_rq.corpus.packed_format import is_packed, read_info
from byola_rq.errors import Code, ConfigError
from byola_rq.recipes.catalog import NAMES, read_recipe, read_recipe_values
from byola_rq.runs.directory import FREE_KEYS
from byola_rq.text.parse import read_yaml
from byola_rq.text.shown import quoted

_OPTIONS = {"run.dir": "--out", "data.source": "--data", "run.device": "--device"}
_TAKEN = ("results", "summary", "labels")  # files of `python -m evaluate` in the same folder
_MAX_STEM = 120  # bytes; a file name has at most 255 with digest and ending

# Changes of a variant, `section.key` -> value; nothing after the colon means none.
Changes = Annotated[dict[str, Any], BeforeValidator(lambda value: {} if value is None else value)]


class _GridFile(BaseModel):
    """Schema of a grid's file."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    base: str  # name of a recipe, or path of a configuration relative to the grid
    overrides: Changes = {}
    reference: str
    variants: Annotated[dict[Annotated[str, Field(min_length=1)], Changes], Field(min_length=2)]


# By pydantic's type of error.
_CODES: dict[str, Code] = {"extra_forbidden": "unknown", "missing": "missing"}
_RULES = {
    "dict_type": "must be keys with values",
    "extra_forbidden": f"unknown key; known are {', '.join(_GridFile.model_fields)}",
    "missing": "missing",
    "model_type": f"must be keys ({', '.join(_GridFile.model_fields)})",
    "string_too_short": "must be a name",
    "string_type": "must be text, so in quotes",
    "too_short": "must be at least two",
}


@dataclass(frozen=True)
class Variant:
    """Row of the report: a name and a configuration without its seed."""

    name: str
    config: Config


@dataclass(frozen=True)
class Grid:
    """Variants of one recipe, the reference among them."""

    name: str
    reference: str
    variants: tuple[Variant, ...]


@dataclass(frozen=True, eq=False)
class AblationRun:
    """Run of one variant with one seed.

    Attributes:
        grid: Name of the grid.
        variant: Name of the variant.
        config: Configuration of pretraining, apart from run.dir.
        identity: Values that decide the result, `section.key` -> value; runs of equal identity
            are the same run, whatever their grid.
    """

    grid: str
    variant: str
    config: Config
    identity: Mapping[str, Any]

    @property
    def seed(self) -> int:
        """Seed of weights, order, crops and augmentations."""
        return self.config.run.seed

    @property
    def digest(self) -> str:
        """Digest of the identity, 10 hex digits."""
        text = json.dumps(self.identity, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:10]

    @property
    def stem(self) -> str:
        """Name of the run's folder without the digest."""
        words = re.sub(r"[^\w.]+", "-", f"{self.grid}-{self.variant}").encode()
        return f"{words[:_MAX_STEM].decode(errors='ignore').strip('-')}-s{self.seed}"

    @property
    def num_segments(self) -> int | None:
        """Maximum number of segments of the run; None if it depends on the corpus."""
        train = self.config.train
        if train.segments is not None:
            return -(-train.segments // train.batch_size) * train.batch_size
        return train.max_steps * train.batch_size if train.max_steps else None

    def __str__(self) -> str:
        return f"{self.variant}, seed {self.seed}"


def read_grid(path: Path, overrides: Sequence[str] = (), options: Sequence[str] = ()) -> Grid:
    """Read a grid and resolve the configuration of every variant.

    Args:
        path: Path of the file.
        overrides: `section.key=value` for all variants; no key that a variant sets is allowed.
        options: `section.key=value` from options of the command, which the grid may change.

    Raises:
        ConfigError: If the file cannot be read or has unknown keys, its base does not exist, the
            configuration of a variant is not valid, or those of two variants are equal.
    """
    file = _read_file(path)
    if file.reference not in file.variants:
        rule = f"must be one of {', '.join(file.variants)}"
        raise _error(path, "reference", rule, file.reference, "unknown")
    _check_keys(path, file, [override.partition("=")[0] for override in overrides])
    values, base = _read_base(path, file.base)
    common = [*options, *_as_overrides(file.overrides), *overrides]
    variants = tuple(
        Variant(name, _resolve(path, name, values, [*common, *_as_overrides(changes)], base))
        for name, changes in file.variants.items()
    )
    _check_distinct(path, variants)
    return Grid(path.stem, file.reference, variants)


def plan_runs(grid: Grid, num_seeds: int) -> list[AblationRun]:
    """Combine every variant with every seed, all variants of the first seed first."""
    seeds = range(num_seeds)
    return [_plan_run(grid, variant, seed) for seed in seeds for variant in grid.variants]


def identify(config: Config) -> dict[str, Any]:
    """Select the values of a configuration that decide the result, `section.key` -> value.

    Options of augmentations that are not in the chain are left out. Newer keys are left out if
    they have the value of before, so that finished runs keep their identity.
    """
    unused = [
        f"views.{name}."
        for name in type(config.views).model_fields
        if isinstance(getattr(config.views, name), BaseModel)
        and name not in config.views.augmentations
    ]
    before: dict[str, Any] = {}
    for key, value in NEWER_KEYS.items():
        before |= flatten(value, f"{key}.") if isinstance(value, Mapping) else {key: value}
    return {
        key: value
        for key, value in flatten(config.model_dump(mode="json")).items()
        if key not in FREE_KEYS
        and not any(key.startswith(prefix) for prefix in unused)
        and (key not in before or before[key] != value)
    }


def identify_sources(config: Config) -> list[str]:
    """Identify the training data: a packed corpus by its content, other sources by their path."""
    return [
        json.dumps(read_info(source)["files"], sort_keys=True)
        if is_packed(source)
        else str(source.absolute())
        for source in config.data.sources
    ]


def _plan_run(grid: Grid, variant: Variant, number: int) -> AblationRun:
    run = variant.config.run.model_copy(update={"seed": variant.config.run.seed + number})
    config = variant.config.model_copy(update={"run": run})
    identity = {**identify(config), "data.source": identify_sources(config)}
    return AblationRun(grid.name, variant.name, config, identity)


def _read_file(path: Path) -> _GridFile:
    if path.stem in _TAKEN:
        rule = f"must have another name than {', '.join(_TAKEN)}, whose files are in --out already"
        raise _error(path, "GRID.yaml", rule, path.stem, "usage")
    try:
        values = read_yaml(path)
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"{path}: not a grid that can be read ({error})",
            code="unreadable" if isinstance(error, OSError) else "malformed",
            path=path,
        ) from error
    try:
        return _GridFile.model_validate(values)
    except ValidationError as error:
        problem = error.errors()[0]
        kind, where = problem["type"], problem["loc"]
        key = ".".join(str(step) for step in where if step != "[key]") or "grid"
        rule = _RULES.get(kind, problem["msg"])
        raise _error(path, key, rule, problem["input"], _CODES.get(kind, "value")) from error


def _error(path: Path, key: str, rule: str, value: Any, code: Code) -> ConfigError:
    got = "" if code in ("missing", "usage") else f"; got {quoted(value)}"
    return ConfigError(f"{path}: {key}: {rule}{got}", code=code, path=path, key=key, value=value)


def _check_keys(path: Path, file: _GridFile, overridden: Sequence[str]) -> None:
    """Check that keys are set where they can be: by an option, for all variants, or by each."""
    for key in chain(overridden, file.overrides, *file.variants.values()):
        if key in _OPTIONS:
            raise _error(path, key, f"must be given as {_OPTIONS[key]}", key, "usage")
    for name, changes in file.variants.items():
        if "run.seed" in changes:
            rule = "must be that of all variants, which --seeds counts up from"
            raise _error(path, "run.seed", rule, name, "usage")
        for key in changes.keys() & set(overridden):
            rule = f"must be left to the variants, which differ in it ({name})"
            raise _error(path, key, rule, key, "usage")


def _read_base(path: Path, base: str) -> tuple[dict[str, Any], Path]:
    """Read the sections of the base, and the path that its errors name."""
    if base in NAMES:
        recipe = read_recipe(base).path
        return read_recipe_values(recipe), recipe
    found = path.parent / base
    if not found.is_file():
        rule = f"must be one of {', '.join(NAMES)}, or a configuration, relative to the grid"
        raise _error(path, "base", rule, base, "unknown")
    return read_values(found), found


def _as_overrides(changes: Changes) -> list[str]:
    return [f"{key}={json.dumps(value, default=str)}" for key, value in changes.items()]


def _resolve(
    path: Path, variant: str, values: Mapping[str, Any], overrides: Sequence[str], base: Path
) -> Config:
    """Resolve a variant's configuration; an error names it."""
    try:
        return resolve(values, overrides, base)
    except ConfigError as error:
        reason = "; ".join(str(error).splitlines())
        facts = {**error.facts, "path": path}
        raise ConfigError(f"{path}: variant {quoted(variant)}: {reason}", **facts) from error


def _check_distinct(path: Path, variants: Sequence[Variant]) -> None:
    names: dict[str, str] = {}
    for variant in variants:
        identity = json.dumps(identify(variant.config), sort_keys=True)
        if identity in names:
            rule = f"must differ from {names[identity]} in what is trained"
            raise _error(path, f"variants.{variant.name}", rule, variant.name, "twice")
        names[identity] = variant.name
