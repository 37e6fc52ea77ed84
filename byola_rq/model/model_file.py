"""The model file: an encoder's weights and the description that rebuilds its model.

A safetensors file with one JSON object in its metadata, under the key `byola_rq`: `encoder`,
`frontend`, `statistics`, `weights_sha256`, `license` (`licence` in older files), `training`,
`format_version`, and `content_sha256`, the digest of all others. docs/embedding.md describes each.
"""

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from byola_rq.audio.frontend import LogMelSpectrogram, Statistics
from byola_rq.config import FRONTEND_LIMITS
from byola_rq.errors import CheckpointError, Code
from byola_rq.model.encoder import Encoder, build_encoder
from byola_rq.model.file_header import parse_object, read_header, unreadable
from byola_rq.runtime.files import replace_file, text_name
from byola_rq.text.shown import one_line

FORMAT_VERSION = 1

_KEY = "byola_rq"

Shapes = dict[str, tuple[int, ...]]


@dataclass(frozen=True)
class StoredModel:
    """Contents of a model file."""

    encoder: Encoder
    frontend: LogMelSpectrogram
    statistics: Statistics
    summary: dict[str, Any]
    license: str | None


def read_model_file(path: Path) -> StoredModel:
    """Read, check and rebuild a model written by `write_model_file`.

    Raises:
        CheckpointError: If the file is missing, truncated, foreign, damaged or of a newer format,
            or if description and weights do not fit together.
    """
    description, shapes = read_description(path)
    encoder, frontend, statistics = rebuild(path, description, shapes)
    give_weights(path, encoder, read_weights(path, description.get("weights_sha256")))
    summary = description.get("training") or {}
    license_of_weights = description.get("license", description.get("licence"))
    if not (isinstance(summary, dict) and isinstance(license_of_weights, str | None)):
        raise _unfit(path, "value", "training must be an object, and license a text or null")
    return StoredModel(encoder, frontend, statistics, summary, license_of_weights)


def rebuild(
    path: Path, description: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]]
) -> tuple[Encoder, LogMelSpectrogram, Statistics]:
    """Build a described model, after checking that its numbers are in bounds and its weights fit.

    Args:
        path: File or folder of the description, for error messages.
        description: Description with `encoder`, `frontend` and `statistics`.
        shapes: Shapes of the stored weights by name.

    Returns:
        The encoder on the meta device, the frontend and the statistics.

    Raises:
        CheckpointError: If the description breaks a rule, or describes other weights.
    """
    try:
        frontend = _build_frontend(path, description["frontend"])
        # Meta tensors need no memory: the file provides the weights once their shapes are checked.
        with torch.device("meta"):
            encoder = build_encoder(**description["encoder"], n_mels=frontend.n_mels)
        _compare_shapes(path, encoder, shapes)
        statistics = Statistics(**description["statistics"])
        if not (math.isfinite(statistics.mean) and 0 < statistics.std < math.inf):
            rule = f"statistics must be finite with std above 0; got {statistics}"
            raise _unfit(path, "value", rule, key="statistics", value=statistics)
    except CheckpointError:
        raise
    except (LookupError, TypeError, ValueError, OverflowError, RuntimeError) as error:
        key = str(error.args[0]) if isinstance(error, KeyError) else None
        raise _unfit(path, "malformed", one_line(error), key=key) from error
    return encoder, frontend, statistics


def give_weights(path: Path, encoder: Encoder, weights: Mapping[str, Tensor]) -> None:
    """Assign weights to an encoder returned by `rebuild`, which has compared their shapes.

    Raises:
        CheckpointError: If a weight is not floating point where it must be, or vice versa.
    """
    for name, expected in encoder.state_dict().items():
        if weights[name].is_floating_point() != expected.is_floating_point():
            rule = f"{name} must be {expected.dtype}; got {weights[name].dtype}"
            raise _unfit(path, "value", rule, key=name, value=weights[name].dtype)
    encoder.load_state_dict(weights, assign=True)


def write_model_file(
    path: Path, description: Mapping[str, Any], weights: Mapping[str, Tensor]
) -> None:
    """Write a model file atomically.

    Args:
        path: File to write; its folder is created if missing.
        description: Description as returned by `read_description`, without version and digests.
        weights: The encoder's state dict.

    Raises:
        CheckpointError: If the file cannot be written.
    """
    stored = {name: tensor.cpu().contiguous() for name, tensor in weights.items()}
    entries = {
        "format_version": FORMAT_VERSION,
        **description,
        "weights_sha256": digest_weights(stored),
    }
    entries = json.loads(json.dumps(entries))  # as they will be read, so that the digest matches
    text = json.dumps({**entries, "content_sha256": _digest_description(entries)})
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # Not save_file: it writes files that only their owner can read.
        replace_file(path, save(stored, metadata={_KEY: text}))
    except (OSError, SafetensorError) as error:
        raise CheckpointError(
            f"{path}: cannot be written ({error})", code="unwritable", path=path
        ) from error


def read_description(path: Path) -> tuple[dict[str, Any], Shapes]:
    """Read and check the description of a model file; the weights are not read.

    Returns:
        The description, and the shape of each weight by name.

    Raises:
        CheckpointError: If the file is missing, truncated, foreign or of a newer format, or if the
            description does not match its digest.
    """
    header = read_header(path)
    metadata = header.pop("__metadata__", None)
    text = metadata.get(_KEY) if isinstance(metadata, dict) else None
    if not isinstance(text, str):
        raise CheckpointError(
            f"{path}: a safetensors file, but not one of byola_rq", code="foreign", path=path
        )
    description = parse_object(path, text.encode())
    version = description.get("format_version")
    if not isinstance(version, int) or version > FORMAT_VERSION:
        raise CheckpointError(
            f"{path}: format version must be at most {FORMAT_VERSION}; got {version}. "
            "Update byola_rq.",
            code="newer",
            path=path,
            key="format version",
            value=version,
        )
    digest = description.pop("content_sha256", None)
    if digest != _digest_description(description):
        raise CheckpointError(
            f"{path}: its description does not match its digest (SHA-256). Copy the file again",
            code="damaged",
            path=path,
            key="description",
        )
    return description, {name: tuple(entry["shape"]) for name, entry in header.items()}


def read_weights(path: Path, weights_sha256: object) -> dict[str, Tensor]:
    """Read the weights of a model file and verify their digest.

    Raises:
        CheckpointError: If they cannot be read or do not match the digest.
    """
    try:
        with text_name(path) as readable, safe_open(readable, framework="pt") as file:
            # Cloned: safetensors returns mapped memory, which changes if the file is overwritten.
            weights = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise unreadable(path, "unreadable", str(error)) from error
    if digest_weights(weights) != weights_sha256:
        raise CheckpointError(
            f"{path}: its weights do not match their digest (SHA-256). Copy the file again",
            code="damaged",
            path=path,
            key="weights",
        )
    return weights


def digest_weights(weights: Mapping[str, Tensor]) -> str:
    """SHA-256 of weights: names, shapes, dtypes and bytes."""
    digest = hashlib.sha256()
    for name, tensor in sorted(weights.items()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}\n".encode())
        # Viewed as bytes, since numpy has no bfloat16.
        digest.update(tensor.cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _build_frontend(path: Path, options: dict[str, Any]) -> LogMelSpectrogram:
    for name, most in FRONTEND_LIMITS.items():
        if (value := options[name]) > most:
            raise _unfit(
                path,
                "too-large",
                f"{name} must be at most {most}; got {value}",
                key=name,
                value=value,
            )
    return LogMelSpectrogram(**options)


def _compare_shapes(path: Path, encoder: Encoder, shapes: Mapping[str, tuple[int, ...]]) -> None:
    expected = {name: tuple(tensor.shape) for name, tensor in encoder.state_dict().items()}
    if missing := sorted(expected.keys() - shapes.keys()):
        rule = f"{len(missing)} weights are missing, such as {missing[0]}"
        raise _unfit(path, "missing", rule, key=missing[0])
    if foreign := sorted(shapes.keys() - expected.keys()):
        rule = f"{len(foreign)} weights are not part of the encoder, such as {foreign[0]}"
        raise _unfit(path, "unknown", rule, key=foreign[0])
    for name, shape in expected.items():
        if shapes[name] != shape:
            rule = f"{name} must be {shape}; got {shapes[name]}"
            raise _unfit(path, "value", rule, key=name, value=shapes[name])


def _digest_description(description: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(description, sort_keys=True).encode()).hexdigest()


def _unfit(path: Path, code: Code, reason: str, **facts: Any) -> CheckpointError:
    message = f"{path}: its description does not fit ({reason})"
    return CheckpointError(message, code=code, path=path, **facts)
