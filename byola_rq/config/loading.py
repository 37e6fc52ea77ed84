"""Reading of configurations: files, overrides, error messages."""

import copy
import os
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from byola_rq.config.schema import Config
from byola_rq.errors import Code, ConfigError
from byola_rq.text.parse import parse_yaml, read_yaml
from byola_rq.text.shown import quoted

# Values of these keys are text, even if YAML reads them otherwise: 2024, 001, on, `a #x` are names.
PATH_KEYS = frozenset({"run.dir", "data.source", "encoder.init", "validation.labelled"})

# Keys added after the first runs, with the values that correspond to the earlier behavior.
NEWER_KEYS: dict[str, Any] = {
    "data.resident": "auto",
    "encoder.init": None,
    "encoder.freeze_steps": 0,
    "objective.name": "byol",
    "objective.temperature": 0.2,
    "run.threads": "auto",
    "train.cuda_graph": "auto",
    "train.segments": None,
    "views.dacl.alpha": 0.9,
    "views.imix.alpha": 1.0,
    "views.spec_augment.num_freq_masks": 2,
    "views.spec_augment.freq_width": 16,
    "views.spec_augment.num_time_masks": 2,
    "views.spec_augment.time_width": 24,
    "views.ssql.weight_bits": [2, 8],
    "views.ssql.activation_bits": [4, 8],
}
_NEWER_SECTIONS = ("objective", "dacl", "imix", "spec_augment", "ssql")


_MAX_LINES = 30  # of a message


def default_config_path() -> Path:
    """Path of config.yaml in the package, the paper's recipe."""
    return Path(str(files("byola_rq") / "config.yaml"))


def load_config(path: Path, overrides: Sequence[str] = ()) -> Config:
    """Read `path`, apply `section.key=value` overrides, and check the whole.

    Raises:
        ConfigError: If keys are wrong; names the file and all of them, one per line.
    """
    return resolve(read_values(path), overrides, path)


def read_values(path: Path) -> dict[str, Any]:
    """Read the sections of a configuration without checking them.

    Raises:
        ConfigError: If `path` cannot be read, or has no sections.
    """
    try:
        values, unread = read_yaml(path), read_yaml(path, as_written=True)
    except (OSError, ValueError) as error:
        code: Code = "unreadable" if isinstance(error, OSError) else "malformed"
        raise ConfigError(
            f"{path}: not a configuration that can be read ({error})", code=code, path=path
        ) from error
    if not isinstance(values, dict):
        sections = ", ".join(Config.model_fields)
        raise ConfigError(f"{path}: must hold sections ({sections})", code="empty", path=path)
    for name, key in (dotted.split(".") for dotted in PATH_KEYS):
        section, written = values.get(name), unread.get(name)
        if isinstance(section, dict) and isinstance(written, dict) and section.get(key) is not None:
            section[key] = written.get(key)
    return values


def resolve(values: Mapping[str, Any], overrides: Sequence[str], path: Path) -> Config:
    """Apply overrides to sections that were read from `path`, and check the whole.

    Raises:
        ConfigError: As `load_config`.
    """
    values = with_newer_keys(values)
    for override in overrides:
        _apply_override(values, override, path)
    try:
        return Config.model_validate(values)
    except ValidationError as error:
        problems = _problems(error)
        lines = [f"{path}: {line}" for line in problems]
        if len(lines) > _MAX_LINES:
            lines[_MAX_LINES:] = [f"{path}: {len(lines) - _MAX_LINES} more keys are wrong"]
        raise ConfigError(lines, path=path, problems=list(problems.values())) from error


def with_newer_keys(values: Mapping[str, Any]) -> dict[str, Any]:
    """Copy sections and add missing keys of `NEWER_KEYS` with their earlier behavior."""
    completed = copy.deepcopy(dict(values))
    for dotted, value in NEWER_KEYS.items():
        *names, key = dotted.split(".")
        section: Any = completed
        for name in names:
            if isinstance(section, dict):
                if name in _NEWER_SECTIONS:
                    section.setdefault(name, {})
                section = section.get(name)
        if isinstance(section, dict):
            section.setdefault(key, value)
    return completed


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Flatten nested sections to one dict with dotted keys, `section.key`."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        key = f"{prefix}{name}"
        flat |= flatten(value, f"{key}.") if isinstance(value, Mapping) else {key: value}
    return flat


def _apply_override(values: dict[str, Any], override: str, path: Path) -> None:
    dotted, equals, text = override.partition("=")
    *sections, key = dotted.split(".")
    block: Any = values
    for section in sections:
        block = block.get(section) if isinstance(block, dict) else None
    if not equals or not sections or not isinstance(block, dict) or key not in block:
        known = f" (known there: {', '.join(block)})" if isinstance(block, dict) else ""
        raise ConfigError(
            f"override {quoted(override)} must be section.key=value naming a key of {path}{known}",
            code="unknown" if equals and sections else "usage",
            path=path,
            key=dotted,
        )
    try:
        block[key] = _read_path(text) if dotted in PATH_KEYS else parse_yaml(text)
    except ValueError as error:
        raise ConfigError(
            f"override {quoted(override)}: the value must be YAML ({error})",
            code="malformed",
            key=dotted,
            value=text,
        ) from error


def _read_path(text: str) -> Any:
    """Read a path literally; parse YAML if it is quoted or in brackets and no existing path."""
    if text in {"", "null"}:
        return None
    if text[0] not in "['\"" or os.path.lexists(text):
        return text
    value = parse_yaml(text, as_written=True)
    return value if isinstance(value, str | list) else text


def _problems(error: ValidationError) -> dict[str, tuple[str, Any, Code]]:
    """Map a line per broken rule to (key, value, code)."""
    problems: dict[str, tuple[str, Any, Code]] = {}
    seen: dict[tuple[Any, ...], tuple[str, str]] = {}  # rule and line of each place
    for problem in error.errors():
        # Members of a union add their own steps; only config keys are named.
        steps = [str(step) for step in problem["loc"]]
        key = ".".join(step for step in steps if step.isidentifier() and step.islower())
        if problem["type"] == "extra_forbidden":
            line = f"{key}: unknown key; known are {_known_keys(steps[:-1])}"
            problems[line] = (key, problem["input"], "unknown")
        elif problem["type"] == "missing":
            problems[f"{key}: missing; a configuration names every key"] = (key, None, "missing")
        else:
            rule = problem["msg"].removeprefix("Value error, ")
            rule = rule.replace("Input should", "must")
            got = f"; got {quoted(problem['input'])}" if "got " not in rule else ""
            place = (key, *(step for step in problem["loc"] if isinstance(step, int)))
            if place in seen:  # one line for all members of a union
                before, line = seen[place]
                del problems[line]
                rule = f"{before} or {rule.removeprefix('must be ')}"
            line, value = f"{key}: {rule}{got}", problem["input"]
            seen[place] = rule, line
            if problem["type"] == "value_error" and not rule.startswith("must "):
                # A rule of a whole section, which begins with the key that breaks it.
                name, _, rule = rule.partition(" ")
                key = f"{key}.{name}" if key else name
                line = f"{key} {rule}"
                for step in name.split("."):
                    value = value[step]
            problems[line] = (key, value, "value")
    return problems


def _known_keys(sections: list[str]) -> str:
    model: Any = Config
    for section in sections:
        model = model.model_fields[section].annotation
    return ", ".join(model.model_fields)
