"""Import of published BYOL-A weights from a user's copy; the package contains none."""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from byola_rq.audio.frontend import LogMelSpectrogram, Statistics
from byola_rq.embed.embedder import Embedder
from byola_rq.errors import CheckpointError, ConfigError, first_line
from byola_rq.model.encoder import ENCODERS, Encoder, build_encoder

WRAPPERS = ("state_dict", "model")  # keys under which a checkpoint may hold its state dict
PREFIXES = ("module.", "model.")  # prefixes that wrappers add to every name
_COUNTER = "num_batches_tracked"  # of batch normalization; optional, not needed in eval mode
_SHOWN = 4  # maximum number of names in a message


def import_weights(
    path: Path | str, *, encoder_name: str, dim: int, statistics: Statistics
) -> Embedder:
    """Read weights named as in the published BYOL-A checkpoints.

    Args:
        path: File written by `torch.save`: a state dict, or one under the key `state_dict` or
            `model`; its names may begin with `module.` or `model.`. No code in it is run.
        encoder_name: Name of the encoder in config.yaml.
        dim: Embedding size `D` of these weights.
        statistics: Statistics of the log-mel that the encoder was trained with.

    Returns:
        Embedder with the paper's frontend; `save` writes it as a model file.

    Raises:
        CheckpointError: If the file cannot be read, or its weights do not fit the encoder; lists
            missing, unexpected and misshapen tensors.
        ConfigError: If an argument breaks a rule.
    """
    path = Path(path)
    if not (np.isfinite([statistics.mean, statistics.std]).all() and statistics.std > 0):
        message = (
            "mean must be a finite number and std above 0; "
            f"got {statistics.mean} and {statistics.std}"
        )
        raise ConfigError(message, code="value", value=statistics)
    frontend = LogMelSpectrogram()
    try:
        encoder = build_encoder(encoder_name, dim=dim, n_mels=frontend.n_mels)
    except ValueError as error:
        # `dim` is the only size that the caller gives.
        is_known = encoder_name in ENCODERS
        raise ConfigError(
            str(error),
            code="value" if is_known else "unknown",
            key="encoder.dim" if is_known else "encoder",
            value=dim if is_known else encoder_name,
        ) from error
    weights = _read_state_dict(path)
    _load(path, encoder, weights)
    summary = {
        "imported_from": path.name,
        "imported_sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
    }
    return Embedder(encoder, frontend, statistics, summary)


def _read_state_dict(path: Path) -> dict[str, Tensor]:
    """Read tensors by their names without prefixes."""
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file of weights", code="missing", path=path)
    try:
        content: Any = torch.load(path, map_location="cpu", weights_only=True)
    # For a damaged or foreign file torch raises a dozen types of errors.
    except Exception as error:
        reason = first_line(error).split(". ", 1)[0]
        message = (
            f"{path}: must be a state dict that torch.save wrote and that loads without running "
            f"code; it does not ({reason})"
        )
        raise CheckpointError(message, code="damaged", path=path) from error
    for key in WRAPPERS * 2:  # one may contain the other; bounded against cycles
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    if not isinstance(content, Mapping) or not content:
        message = (
            f"{path}: must hold a state dict, plain or under the key "
            f"{' or '.join(WRAPPERS)}; got {_kind(content)}"
        )
        raise CheckpointError(message, code="foreign", path=path, value=_kind(content))
    weights: dict[str, Tensor] = {}
    for key, value in content.items():
        name = _bare(str(key))
        if not isinstance(value, Tensor):
            message = f"{path}: {key} must be a tensor; got {type(value).__name__}"
            raise CheckpointError(message, code="value", path=path, key=str(key), value=value)
        if name in weights:
            message = f"{path}: {name} must occur once; it occurs twice"
            raise CheckpointError(message, code="twice", path=path, key=name)
        weights[name] = value
    return weights


def _load(path: Path, encoder: Encoder, weights: Mapping[str, Tensor]) -> None:
    """Load the weights into the encoder after checking names, shapes and values."""
    expected = encoder.state_dict()
    counters = {name: value for name, value in expected.items() if name.endswith(_COUNTER)}
    given = {**counters, **weights}
    missing = [name for name in expected if name not in given]
    unexpected = [name for name in given if name not in expected]
    shapes = [
        f"{name} is {tuple(given[name].shape)} instead of {tuple(value.shape)}"
        for name, value in expected.items()
        if name in given and given[name].shape != value.shape
    ]
    found = {"missing": missing, "unexpected": unexpected, "shape:": shapes}
    problems = {word: names for word, names in found.items() if names}
    if problems:
        listed = "; ".join(f"{word} {_some(names)}" for word, names in problems.items())
        message = (
            f"{path}: weights must be those of {type(encoder).__name__} with dim "
            f"{encoder.embedding_dim}; {listed}. Give the --encoder and --dim that "
            "they were trained with"
        )
        raise CheckpointError(message, code="different", path=path, value=problems)
    for name, value in given.items():
        if name not in counters and not (
            value.is_floating_point() and torch.isfinite(value.float()).all()
        ):
            raise CheckpointError(
                f"{path}: {name} must be finite and floating point; got {value.dtype}"
                + (" with NaN or infinity" if value.is_floating_point() else ""),
                code="not-finite" if value.is_floating_point() else "value",
                path=path,
                key=name,
                value=value.dtype,
            )
    encoder.load_state_dict(given)


def _bare(name: str) -> str:
    """Remove the prefixes of wrappers from a name, also repeated ones."""
    while name.startswith(PREFIXES):
        name = name.split(".", 1)[1]
    return name


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more


def _kind(content: object) -> str:
    if isinstance(content, Mapping) and not content:
        return "an empty dictionary"
    if isinstance(content, Mapping):
        return f"a dictionary with the keys {_some([str(key) for key in content])}"
    return type(content).__name__
