"""The model file: an encoder's weights and the description that rebuilds its model.

A safetensors file whose metadata holds, under the key `byola_rq`, one JSON object: `encoder`,
`frontend`, `statistics`, `weights_sha256`, `licence`, `training`, `format_version`, and
`content_sha256`, the digest of all the others. docs/embedding.md tells each.
"""

import hashlib
import json
import math
import os
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
from byola_rq.runtime.files import replace_file, text_name
from byola_rq.text.parse import parse_json

FORMAT_VERSION = 1
MAX_HEADER_BYTES = 1 << 20  # ours have about 5 kB; a longer one is not read at all

_KEY = "byola_rq"
_PICKLES = (b"PK\x03\x04", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")

Shapes = dict[str, tuple[int, ...]]


@dataclass(frozen=True)
class StoredModel:
    """What a model file holds."""

    encoder: Encoder
    frontend: LogMelSpectrogram
    statistics: Statistics
    summary: dict[str, Any]
    licence: str | None


def read_model_file(path: Path) -> StoredModel:
    """Read, check and rebuild what `write_model_file` wrote.

    Raises:
        CheckpointError: If the file is missing, cut, foreign, damaged, of a newer format, or does
            not fit together.
    """
    description, shapes = read_description(path)
    try:
        encoder, frontend, statistics = rebuild(path, description, shapes)
        weights = read_weights(path, description["weights_sha256"])
        give_weights(path, encoder, weights)
    except CheckpointError:
        raise
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise _unfit_of(path, error) from error
    summary, licence = description.get("training") or {}, description.get("licence")
    return StoredModel(encoder, frontend, statistics, summary, licence)


def rebuild(
    path: Path, description: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]]
) -> tuple[Encoder, LogMelSpectrogram, Statistics]:
    """Build what a description tells of, once its numbers are in bounds and its weights fit.

    Args:
        path: Of the file or folder that tells it, named in errors.
        description: Its `encoder`, `frontend` and `statistics`.
        shapes: Of the weights that are there.

    Returns:
        The encoder without memory for its weights, the frontend, the statistics.

    Raises:
        CheckpointError: If the description breaks a rule, or tells of other weights.
    """
    try:
        frontend = _build_frontend(path, description["frontend"])
        # Without memory for its weights: the file brings them, once their shapes are right.
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
        raise _unfit_of(path, error) from error
    return encoder, frontend, statistics


def give_weights(path: Path, encoder: Encoder, weights: Mapping[str, Tensor]) -> None:
    """Let an encoder that `rebuild` gave have the weights whose shapes were compared.

    Raises:
        CheckpointError: If one is of another kind of number; names it.
    """
    for name, expected in encoder.state_dict().items():
        if weights[name].is_floating_point() != expected.is_floating_point():
            rule = f"{name} must be {expected.dtype}; got {weights[name].dtype}"
            raise _unfit(path, "value", rule, key=name, value=weights[name].dtype)
    encoder.load_state_dict(weights, assign=True)


def write_model_file(
    path: Path, description: Mapping[str, Any], weights: Mapping[str, Tensor]
) -> None:
    """Write a model file, which appears whole or not at all.

    Args:
        path: Its folder is made where missing.
        description: What `read_description` gives back; the format's version and digests are added.
        weights: The encoder's state dict.

    Raises:
        CheckpointError: If the disk refuses.
    """
    stored = {name: tensor.cpu().contiguous() for name, tensor in weights.items()}
    entries = {
        "format_version": FORMAT_VERSION,
        **description,
        "weights_sha256": digest_weights(stored),
    }
    entries = json.loads(json.dumps(entries))  # as they will be read, or the digest might differ
    text = json.dumps({**entries, "content_sha256": _digest_description(entries)})
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # Not by save_file, whose files nobody else on a shared disk may read.
        replace_file(path, save(stored, metadata={_KEY: text}))
    except (OSError, SafetensorError) as error:
        raise CheckpointError(
            f"{path}: cannot be written ({error})", code="unwritable", path=path
        ) from error


def read_description(path: Path) -> tuple[dict[str, Any], Shapes]:
    """Read and check what a model file says of itself; its weights are left where they are.

    Returns:
        The description, and the shape of each of the weights.

    Raises:
        CheckpointError: If the file is missing, cut, foreign, of a newer format, or if the
            description is not what was written.
    """
    header = _read_header(path)
    metadata = header.pop("__metadata__", None)
    text = metadata.get(_KEY) if isinstance(metadata, dict) else None
    if not isinstance(text, str):
        raise CheckpointError(
            f"{path}: a safetensors file, but not one of byola_rq", code="foreign", path=path
        )
    description = _parse(path, text.encode())
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
            f"{path}: its description is not what was written (SHA-256). Copy the file again",
            code="damaged",
            path=path,
            key="description",
        )
    return description, {name: tuple(entry["shape"]) for name, entry in header.items()}


def read_weights(path: Path, weights_sha256: object) -> dict[str, Tensor]:
    """Read the weights of a file whose description has been read, and compare their digest.

    Raises:
        CheckpointError: If they cannot be read, or are not those that were written.
    """
    try:
        with text_name(path) as readable, safe_open(readable, framework="pt") as file:
            # Copied: what safetensors gives is the file itself, mapped, whoever changes it later.
            weights = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise _unreadable(path, "unreadable", str(error)) from error
    if digest_weights(weights) != weights_sha256:
        raise CheckpointError(
            f"{path}: its weights are not those that were written (SHA-256). Copy the file again",
            code="damaged",
            path=path,
            key="weights",
        )
    return weights


def digest_weights(weights: Mapping[str, Tensor]) -> str:
    """SHA-256 of weights: names, shapes, types and bytes."""
    digest = hashlib.sha256()
    for name, tensor in sorted(weights.items()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}\n".encode())
        # As bytes, since numpy has no bfloat16.
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
        rule = f"{len(foreign)} weights are no part of the encoder, such as {foreign[0]}"
        raise _unfit(path, "unknown", rule, key=foreign[0])
    for name, shape in expected.items():
        if shapes[name] != shape:
            rule = f"{name} must be {shape}; got {shapes[name]}"
            raise _unfit(path, "value", rule, key=name, value=shapes[name])


def _read_header(path: Path) -> dict[str, Any]:
    """The JSON at the file's beginning, once its stated length is one that can be read."""
    if path.is_dir():
        raise CheckpointError(
            f"{path}: a folder; name the model file in it", code="foreign", path=path
        )
    if not path.is_file():
        raise CheckpointError(f"{path}: no such model file", code="missing", path=path)
    try:
        with path.open("rb") as file:
            num_bytes = os.fstat(file.fileno()).st_size
            start = file.read(8)
            length = _check_start(path, start, num_bytes)
            header = _parse(path, file.read(length))
    except OSError as error:
        raise _unreadable(path, "unreadable", error.strerror or str(error)) from error
    try:
        ends = [entry["data_offsets"][1] for name, entry in header.items() if name[:2] != "__"]
        shapes = [entry["shape"] for name, entry in header.items() if name[:2] != "__"]
        expected = 8 + length + max(ends, default=0)
        is_sound = all(isinstance(size, int) for shape in shapes for size in shape)
    except (KeyError, TypeError, IndexError) as error:
        raise _unreadable(path, "malformed", "its header lists no tensors") from error
    if not is_sound:
        raise _unreadable(path, "malformed", "its header lists no tensors")
    if num_bytes < expected:
        reason = f"cut short: must have {expected} bytes; got {num_bytes}"
        raise _unreadable(path, "cut", reason, value=num_bytes)
    return header


def _check_start(path: Path, start: bytes, num_bytes: int) -> int:
    """The length of the header, from the eight bytes before it."""
    if start.startswith(_PICKLES):
        raise _unreadable(
            path,
            "unsupported",
            "it is pickled, as by torch.save, whatever its name; for weights in the published "
            "naming there is `byola-rq import-weights`",
        )
    length = int.from_bytes(start, "little")
    if len(start) < 8 or length > num_bytes - 8:
        reason = f"foreign or cut: {num_bytes} bytes that hold no whole header"
        raise _unreadable(path, "damaged", reason)
    if length > MAX_HEADER_BYTES:
        reason = f"its header must be at most {MAX_HEADER_BYTES} bytes; got {length}, not read"
        raise _unreadable(path, "too-large", reason, key="header", value=length)
    return length


def _parse(path: Path, text: bytes) -> dict[str, Any]:
    try:
        value: dict[str, Any] = parse_json(text)
    except ValueError as error:
        raise _unreadable(path, "malformed", f"its header is not a JSON object: {error}") from error
    return value


def _digest_description(description: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(description, sort_keys=True).encode()).hexdigest()


def _unreadable(path: Path, code: Code, reason: str, **facts: Any) -> CheckpointError:
    message = f"{path}: not a model file that can be read ({reason})"
    return CheckpointError(message, code=code, path=path, **facts)


def _unfit(path: Path, code: Code, reason: str, **facts: Any) -> CheckpointError:
    message = f"{path}: its description does not fit ({reason})"
    return CheckpointError(message, code=code, path=path, **facts)


def _unfit_of(path: Path, error: Exception) -> CheckpointError:
    """What rebuilding stumbled on."""
    key = str(error.args[0]) if isinstance(error, KeyError) else None
    return _unfit(path, "malformed", " ".join(str(error).split()), key=key)
