"""Grid: a file of variants, and the runs it expands to."""

import hashlib
import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from byola_rq.config import NEWER_KEYS, Config, flatten, load_config
from byola_rq.corpus.packed_format import is_packed, read_info
from byola_rq.errors import ConfigError
from byola_rq.recipes.catalog import NAMES, load_recipe
from byola_rq.runs.directory import FREE_KEYS
from byola_rq.text.shown import one_line

Changes = dict[str, Any]  # section.key -> value


class _GridFile(BaseModel):
    """Schema of a grid's file."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    base: str  # name of a recipe, or path of a configuration relative to the grid
    overrides: Changes = {}
    reference: str
    variants: Annotated[dict[str, Changes], Field(min_length=2)]


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
        words = re.sub(r"[^\w.]+", "-", f"{self.grid}-{self.variant}")
        return f"{words[:100].strip('-')}-s{self.seed}"

    @property
    def num_segments(self) -> int | None:
        """Maximum number of segments of the run; None if it depends on the corpus."""
        train = self.config.train
        if train.segments is not None:
            return -(-train.segments // train.batch_size) * train.batch_size
        return train.max_steps * train.batch_size if train.max_steps else None

    def __str__(self) -> str:
        return f"{self.variant}, seed {self.seed}"


def read_grid(path: Path, overrides: Sequence[str] = ()) -> Grid:
    """Read a grid and resolve the configuration of every variant.

    Args:
        path: Path of the file.
        overrides: `section.key=value` for all variants; no key that a variant sets is allowed.

    Raises:
        ConfigError: If the file cannot be read or has unknown keys, its base does not exist, the
            configuration of a variant is not valid, or those of two variants are equal.
    """
    file = _read_file(path)
    if file.reference not in file.variants:
        raise ConfigError(
            f"{path}: reference must be one of {', '.join(file.variants)}; got {file.reference}",
            code="unknown",
            path=path,
            key="reference",
            value=file.reference,
        )
    _check_overrides(path, file, overrides)
    common = [*_as_overrides(file.overrides), *overrides]
    variants = tuple(
        Variant(name, _resolve(path, name, file.base, [*common, *_as_overrides(changes)]))
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
    try:
        text = path.read_text(encoding="utf-8")
        repeated = _repeated_keys(yaml.compose(text, yaml.SafeLoader))
        values = yaml.safe_load(text)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        reason = one_line(error)
        raise ConfigError(
            f"{path}: not a grid that can be read ({reason})",
            code="unreadable" if isinstance(error, OSError) else "malformed",
            path=path,
        ) from error
    if repeated:
        message = f"{path}: {repeated[0]} must be given once"
        raise ConfigError(message, code="twice", path=path, key=repeated[0])
    try:
        return _GridFile.model_validate(values)
    except ValidationError as error:
        problem = error.errors()[0]
        key = ".".join(str(step) for step in problem["loc"]) or "grid"
        is_unknown = problem["type"] == "extra_forbidden"
        rule = f"must be one of {', '.join(_GridFile.model_fields)}" if is_unknown else ""
        raise ConfigError(
            f"{path}: {key}: {rule or problem['msg'].replace('Input should', 'must')}",
            code="unknown" if is_unknown else "value",
            path=path,
            key=key,
            value=problem["input"],
        ) from error


def _repeated_keys(node: yaml.Node | None) -> list[str]:
    """List repeated keys, of which YAML would silently take the last."""
    if not isinstance(node, yaml.MappingNode):
        return []
    counts = Counter(str(key.value) for key, _ in node.value)
    within = [name for _, value in node.value for name in _repeated_keys(value)]
    return [name for name, count in counts.items() if count > 1] + within


def _as_overrides(changes: Changes) -> list[str]:
    return [f"{key}={json.dumps(value)}" for key, value in changes.items()]


def _resolve(path: Path, variant: str, base: str, overrides: Sequence[str]) -> Config:
    """Resolve a variant's configuration; an error names it."""
    try:
        if base in NAMES:
            return load_recipe(base, overrides)
        found = path.parent / base
        if not found.is_file():
            raise ConfigError(
                f"base must be one of {', '.join(NAMES)}, or a configuration beside the grid; "
                f"got {base}",
                code="missing",
                key="base",
                value=base,
            )
        return load_config(found, overrides)
    except ConfigError as error:
        reason = "; ".join(str(error).splitlines())
        facts = {**error.facts, "path": path}
        raise ConfigError(f"{path}: variant {variant!r}: {reason}", **facts) from error


def _check_overrides(path: Path, file: _GridFile, overrides: Sequence[str]) -> None:
    for override in overrides:
        key = override.partition("=")[0]
        for name, changes in file.variants.items():
            if key in changes:
                raise ConfigError(
                    f"{path}: {key} must be left to the variants, which differ in it "
                    f"({name!r}); got {override}",
                    code="usage",
                    path=path,
                    key=key,
                    value=override,
                )


def _check_distinct(path: Path, variants: Sequence[Variant]) -> None:
    names: dict[str, str] = {}
    for variant in variants:
        identity = json.dumps(identify(variant.config), sort_keys=True)
        if identity in names:
            raise ConfigError(
                f"{path}: variants must differ in what is trained; {names[identity]!r} and "
                f"{variant.name!r} do not",
                code="twice",
                path=path,
                key=variant.name,
                value=names[identity],
            )
        names[identity] = variant.name
