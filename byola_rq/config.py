"""Configuration: the typed schema of config.yaml, loading, overrides."""

import copy
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    model_validator,
)

from byola_rq.errors import Code, ConfigError
from byola_rq.text.parse import parse_yaml, read_yaml
from byola_rq.text.shown import quoted

AugmentationName = Literal[
    "mixup",
    "random_resized_crop",
    "randomized_quantization",
    "random_linear_fader",
    "dacl",
    "spec_augment",
    "imix",
    "ssql",
]
# These change what the objective compares, not a view.
OF_OBJECTIVE = ("imix", "ssql")


def _check_not_bool(value: Any) -> Any:
    if isinstance(value, bool):
        raise ValueError("must be a number")
    return value


def _is_device(value: str) -> str:
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", value):
        raise ValueError("must be auto, cpu, cuda or cuda:N")
    return value


def _expand_home(value: Any) -> Any:
    return os.path.expanduser(value) if isinstance(value, str) else value


# pydantic converts "3e-4", which YAML reads as text, to a number, but would also convert true to 1.
Int = Annotated[int, BeforeValidator(_check_not_bool)]
Float = Annotated[float, BeforeValidator(_check_not_bool), Field(allow_inf_nan=False)]
Positive = Annotated[Float, Field(gt=0)]
Count = Annotated[Int, Field(ge=1)]
Range = tuple[Positive, Positive]
PathHere = Annotated[Path, BeforeValidator(_expand_home)]


# Maximum of each option of a frontend: the spectrogram of a second of sound must fit into memory.
FRONTEND_LIMITS = {
    "sample_rate": 768_000,
    "n_fft": 65_536,
    "win_length": 65_536,
    "hop_length": 65_536,
    "n_mels": 512,
}


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class RunConfig(_Section):
    """Directory, seed and device of a run."""

    dir: PathHere
    seed: Annotated[Int, Field(ge=0, lt=2**31)]
    device: Annotated[str, AfterValidator(_is_device)]
    precision: Literal["auto", "float32", "tf32", "bfloat16"]
    stall_minutes: Positive | None
    threads: Literal["auto"] | Count


class DataConfig(_Section):
    """Training data."""

    source: PathHere | list[PathHere] | None
    segment_seconds: Positive
    workers: Literal["auto"] | Annotated[Int, Field(ge=0)]
    resident: Literal["auto", True, False]
    shuffle: Literal["full", "windows"]
    window_shards: Count

    @property
    def sources(self) -> list[Path]:
        """Sources as a list, empty if none is named."""
        if self.source is None:
            return []
        return self.source if isinstance(self.source, list) else [self.source]


class FrontendConfig(_Section):
    """Arguments of `LogMelSpectrogram`."""

    backend: Literal["torch", "nnaudio", "torchaudio", "librosa"]
    sample_rate: Annotated[Int, Field(ge=1000, le=FRONTEND_LIMITS["sample_rate"])]
    n_fft: Annotated[Int, Field(ge=2, le=FRONTEND_LIMITS["n_fft"])]
    win_length: Annotated[Int, Field(ge=1, le=FRONTEND_LIMITS["win_length"])]
    hop_length: Annotated[Int, Field(ge=1, le=FRONTEND_LIMITS["hop_length"])]
    n_mels: Annotated[Int, Field(ge=8, le=FRONTEND_LIMITS["n_mels"], multiple_of=8)]
    f_min: Annotated[Float, Field(ge=0)]
    f_max: Positive

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.win_length > self.n_fft:
            raise ValueError(f"win_length must be at most n_fft; got {self.win_length}")
        if not self.f_min < self.f_max <= self.sample_rate / 2:
            raise ValueError(
                f"f_max must be above f_min and at most half the sample rate; got {self.f_max:g}"
            )
        return self


class CropConfig(_Section):
    """Arguments of `RandomResizedCrop`."""

    canvas: tuple[Annotated[Float, Field(ge=1)], Annotated[Float, Field(ge=1)]]
    freq_scale: Range
    time_scale: Range

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        for name in ("freq_scale", "time_scale"):
            low, high = getattr(self, name)
            if low > high:
                raise ValueError(f"{name} must be [low, high]; got [{low:g}, {high:g}]")
        return self


class QuantizationConfig(_Section):
    """Arguments of `RandomizedQuantization`."""

    num_bins: Count
    bins: Literal["random", "uniform"]
    values: Literal["random", "midpoint"]
    per: Literal["channel", "instance"]
    p: Annotated[Float, Field(ge=0, le=1)]


class MixupConfig(_Section):
    """Arguments of `Mixup`."""

    ratio: Annotated[Float, Field(gt=0, le=1)]
    memory: Count


class FaderConfig(_Section):
    """Arguments of `RandomLinearFader`."""

    gain: Positive


class DaclConfig(_Section):
    """Arguments of `DACL`."""

    alpha: Annotated[Float, Field(ge=0, le=1)]


class SpecAugmentConfig(_Section):
    """Arguments of `SpecAugment`."""

    num_freq_masks: Annotated[Int, Field(ge=0)]
    freq_width: Annotated[Int, Field(ge=0)]
    num_time_masks: Annotated[Int, Field(ge=0)]
    time_width: Annotated[Int, Field(ge=0)]


class IMixConfig(_Section):
    """Arguments of `IMix`."""

    alpha: Positive


Bits = Annotated[Int, Field(ge=2, le=16)]


class SsqlConfig(_Section):
    """Arguments of `SSQL`."""

    weight_bits: tuple[Bits, Bits]
    activation_bits: tuple[Bits, Bits]

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        for name in ("weight_bits", "activation_bits"):
            fewest, most = getattr(self, name)
            if fewest > most:
                raise ValueError(f"{name} must be [fewest, most]; got [{fewest}, {most}]")
        return self


class ViewsConfig(_Section):
    """Augmentations in their order, and the options of each."""

    augmentations: list[AugmentationName]
    post_norm: bool
    random_resized_crop: CropConfig
    randomized_quantization: QuantizationConfig
    mixup: MixupConfig
    random_linear_fader: FaderConfig
    dacl: DaclConfig
    spec_augment: SpecAugmentConfig
    imix: IMixConfig
    ssql: SsqlConfig

    @model_validator(mode="after")
    def _is_a_chain(self) -> Self:
        names = self.augmentations
        if len(set(names)) < len(names):
            raise ValueError(f"augmentations must not repeat; got {names}")
        if "mixup" in names[1:]:
            raise ValueError(f"augmentations must have mixup first; got {names}")
        if {*OF_OBJECTIVE} & {*names[:-1]}:
            raise ValueError(
                "augmentations must have imix or ssql, one of them, last: each replaces what the "
                f"objective compares; got {names}"
            )
        if {"dacl", "imix"} <= {*names}:
            raise ValueError(
                "augmentations must not have dacl beside imix, whose targets would leave out what "
                f"dacl mixed in; got {names}"
            )
        return self

    def chain(self) -> dict[str, dict[str, Any]]:
        """Return name -> options of the augmentations of views, in order, for `Views`."""
        return self._options(name for name in self.augmentations if name not in OF_OBJECTIVE)

    def of_objective(self) -> dict[str, dict[str, Any]]:
        """Return name -> options of the augmentations that the objective applies."""
        return self._options(name for name in self.augmentations if name in OF_OBJECTIVE)

    def _options(self, names: Iterable[str]) -> dict[str, dict[str, Any]]:
        return {name: getattr(self, name).model_dump() for name in names}


class EncoderConfig(_Section):
    """Encoder, its size and its initial weights."""

    name: Literal["audio_ntt_2020", "audio_ntt_2022"]
    dim: Count
    init: Annotated[str, AfterValidator(_expand_home)] | None
    freeze_steps: Annotated[Int, Field(ge=0)]


class ObjectiveConfig(_Section):
    """Objective that compares two views."""

    name: Literal["byol", "infonce"]
    temperature: Positive


class ByolConfig(_Section):
    """Heads and target network, for every objective."""

    projection_dim: Count
    hidden_dim: Count
    ema_decay: Annotated[Float, Field(ge=0, le=1)]
    ema_schedule: Literal["constant", "cosine"]


class OptimizerConfig(_Section):
    """Optimizer and its learning rate."""

    name: Literal["adam", "adamw"]
    lr: Positive
    weight_decay: Annotated[Float, Field(ge=0)]
    schedule: Literal["constant", "cosine"]
    warmup_steps: Annotated[Int, Field(ge=0)]
    clip_norm: Positive | None


class TrainConfig(_Section):
    """Length and steps of training."""

    epochs: Count
    batch_size: Annotated[Int, Field(ge=2)]  # batch norm needs two
    accumulate: Count
    sync_batch_norm: bool
    segments: Count | None
    max_steps: Count | None
    log_every: Count
    compile: bool
    cuda_graph: Literal["auto"] | bool

    @model_validator(mode="after")
    def _has_one_budget(self) -> Self:
        if self.segments is not None and self.max_steps is not None:
            raise ValueError(
                "segments must be null beside max_steps, which ends a run as well; "
                f"got {self.segments} beside {self.max_steps}"
            )
        return self


class CheckpointConfig(_Section):
    """Interval and number of checkpoints."""

    every_steps: Count
    keep: Count


class ValidationConfig(_Section):
    """Probe that scores the encoder during training."""

    labelled: PathHere | None
    every_epochs: Positive
    probe: Literal["knn", "logistic"]


class TensorBoardConfig(_Section):
    """Output for TensorBoard."""

    enabled: bool
    views_every: Count


class Config(_Section):
    """Complete configuration."""

    run: RunConfig
    data: DataConfig
    frontend: FrontendConfig
    views: ViewsConfig
    encoder: EncoderConfig
    objective: ObjectiveConfig
    byol: ByolConfig
    optimizer: OptimizerConfig
    train: TrainConfig
    checkpoint: CheckpointConfig
    validation: ValidationConfig
    tensorboard: TensorBoardConfig

    @model_validator(mode="after")
    def _batch_fits(self) -> Self:
        batch_size, accumulate = self.train.batch_size, self.train.accumulate
        if batch_size % accumulate or batch_size // accumulate < 2:
            raise ValueError(
                "train.accumulate must cut train.batch_size into equal parts of at least 2; "
                f"got {accumulate} for {batch_size}"
            )
        return self

    @model_validator(mode="after")
    def _encoder_fits(self) -> Self:
        blocks_dim = 16 * self.frontend.n_mels
        if self.encoder.name == "audio_ntt_2022" and self.encoder.dim <= blocks_dim:
            raise ValueError(
                f"encoder.dim must be above {blocks_dim} for audio_ntt_2022; got {self.encoder.dim}"
            )
        num_frames = 1 + self.segment_samples // self.frontend.hop_length
        if num_frames < 8 or self.segment_samples <= self.frontend.n_fft // 2:
            raise ValueError(
                "data.segment_seconds must give at least 8 frames and half an FFT frame; "
                f"got {self.data.segment_seconds:g}"
            )
        return self

    @property
    def segment_samples(self) -> int:
        """Length of a training segment in samples."""
        return round(self.data.segment_seconds * self.frontend.sample_rate)

    def to_yaml(self) -> str:
        """Return the resolved configuration in the form of config.yaml, without comments."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False)


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
