"""Export of a model, frontend included, as one graph from waveform to embedding."""

import copy
import importlib
import json
import logging
import math
import warnings
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.fx.experimental import _config

from byola_rq.audio.frontend import EPSILON, LogMelSpectrogram
from byola_rq.audio.mel import mel_filterbank
from byola_rq.embed.embedder import Embedder
from byola_rq.errors import CheckpointError, package_needed
from byola_rq.model.encoder import Encoder
from byola_rq.runtime.files import text_name, whole_file

OPSET = 18
TOLERANCE = 1e-4  # of an embedding; relative to its largest value if that is above 1


class WaveformEncoder(nn.Module):
    """Embedder made of basic tensor operations that all exporters and runtimes support.

    A strided convolution with windowed cosines and sines replaces the FFT; it computes only the
    frequencies under the mel filters, also in float32.

    Args:
        embedder: Model whose weights are copied to the CPU as float32. The backend of its frontend
            is irrelevant: all agree to 1e-3 of log-mel.
    """

    def __init__(self, embedder: Embedder) -> None:
        super().__init__()
        frontend = embedder.frontend
        self.encoder = _copy_encoder(embedder)
        self.n_fft = frontend.n_fft
        self.hop_length = frontend.hop_length
        filters, kernels = _spectrum_of(frontend)
        self.register_buffer("kernels", kernels)
        self.register_buffer("filters", filters)
        self.mean = embedder.statistics.mean
        self.std = embedder.statistics.std
        self.requires_grad_(False)
        self.eval()

    def forward(self, waveform: Tensor) -> Tensor:
        """Embed waveforms at the model's sample rate: `(B, S)` in [-1, 1] -> `(B, D)`."""
        half = self.n_fft // 2
        padded = F.pad(waveform[:, None], (half, half), mode="reflect")  # (B, 1, S + n_fft)
        spectrum = F.conv1d(padded, self.get_buffer("kernels"), stride=self.hop_length)
        cosine, sine = spectrum.chunk(2, dim=1)  # (B, frequencies, T) each
        # A convolution as well: a matrix product would make torch.export specialize batch size 1.
        mel = F.conv1d(cosine.square() + sine.square(), self.get_buffer("filters"))  # (B, F, T)
        log_mel = ((mel + EPSILON).log() - self.mean) / self.std
        embedding: Tensor = self.encoder(log_mel[:, None])
        return embedding


def export_program(embedder: Embedder) -> torch.export.ExportedProgram:
    """Capture a model with torch.export; `torch.export.save` writes it, AOTInductor compiles it.

    Args:
        embedder: Model to export.

    Returns:
        Program with one input, float32 `(B, S)` in [-1, 1] at the model's sample rate, and one
        output, float32 `(B, D)`; B is at least 1, S at least the model's `min_samples` (usually
        0.1 s). Samples are not checked.
    """
    least = embedder.clips.min_samples
    example = torch.zeros(2, 2 * least)
    shapes = {0: torch.export.Dim("batch", min=1), 1: torch.export.Dim("samples", min=least)}
    # By default torch.export specializes on whether a size is 1, which would exclude one clip or
    # one frame embedding.
    with _config.patch(backed_size_oblivious=True):  # type: ignore[attr-defined]
        return torch.export.export(
            WaveformEncoder(embedder), (example,), dynamic_shapes={"waveform": shapes}, strict=False
        )


def export_onnx(embedder: Embedder, path: Path | str) -> None:
    """Write a model as ONNX, atomically, after checking that onnxruntime gives its embeddings.

    Input `waveform`: float32 `(batch, samples)` in [-1, 1] at the model's sample rate, at least
    the model's `min_samples` (0.1 s for most frontends); output `embedding`: float32 `(batch, D)`.
    Both axes are dynamic. A waveform is embedded whole, so memory grows with its length. The
    metadata entry `byola_rq` holds the model file's JSON: encoder, frontend, statistics, digest of
    the weights, training.

    Args:
        embedder: Model to export.
        path: File to write, at most 2 GB; its folder is created.

    Raises:
        MissingPackageError: If onnx, onnxscript or onnxruntime is not installed.
        CheckpointError: If the file cannot be written, or computes other embeddings.
    """
    onnxruntime = _import_packages()
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(path) as temporary:
            _translate(embedder).save(str(temporary), external_data=False)
            _compare(embedder, onnxruntime, temporary, path)
    except OSError as error:
        message = f"{path}: cannot be written ({error})"
        raise CheckpointError(message, code="unwritable", path=path) from error


def _translate(embedder: Embedder) -> torch.onnx.ONNXProgram:
    """Translate the model to an ONNX program with named axes and a description."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    try:
        # The exporter warns about packages that are not needed here and its own deprecations.
        logger.setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                export_program(embedder),
                opset_version=OPSET,
                input_names=["waveform"],
                output_names=["embedding"],
                dynamic_shapes={"waveform": {0: "batch", 1: "samples"}},
                dynamo=True,
                verbose=False,
            )
    finally:
        logger.setLevel(level)
    assert program is not None  # only the older exporter returns None
    description = {
        **embedder.description,
        "license": embedder.license,
        "training": embedder.summary,
    }
    program.model.metadata_props["byola_rq"] = json.dumps(description)
    return program


def _copy_encoder(embedder: Embedder) -> Encoder:
    """Copy the encoder to the CPU as float32, which exporters can trace."""
    return copy.deepcopy(embedder.encoder).cpu().float()


def _spectrum_of(frontend: LogMelSpectrogram) -> tuple[Tensor, Tensor]:
    """Return mel filters `(F, W, 1)` and kernels `(2 W, 1, n_fft)` of the W frequencies in use."""
    options = frontend.options
    names = ("sample_rate", "n_fft", "n_mels", "f_min", "f_max")
    filters = mel_filterbank(**{name: options[name] for name in names})
    used = filters.amax(dim=0).nonzero().squeeze(1)
    window = torch.hann_window(frontend.win_length, dtype=torch.float64)
    left = (frontend.n_fft - frontend.win_length) // 2
    window = F.pad(window, (left, frontend.n_fft - frontend.win_length - left))
    # The angle is reduced in integers first: the cosine of a large product would lose precision.
    turns = (used[:, None] * torch.arange(frontend.n_fft)) % frontend.n_fft
    angles = turns.double() * (2 * math.pi / frontend.n_fft)
    kernels = torch.cat((angles.cos() * window, -angles.sin() * window))
    return filters[:, used, None], kernels.float()[:, None]


def _import_packages() -> Any:
    """Check that the packages of the extra `onnx` are installed; return onnxruntime."""
    for package in ("onnx", "onnxscript", "onnxruntime"):
        with package_needed("export to ONNX", package, extra="onnx"):
            module = importlib.import_module(package)
    return module


def _compare(embedder: Embedder, onnxruntime: Any, written: Path, path: Path) -> None:
    """Run the file on noise of two lengths; raise if a result differs from the model's."""
    with text_name(written) as readable:
        providers = ["CPUExecutionProvider"]
        session = onnxruntime.InferenceSession(str(readable), providers=providers)
    options = {**embedder.frontend.options, "backend": "torch"}
    model = Embedder(_copy_encoder(embedder), LogMelSpectrogram(**options), embedder.statistics)
    generator = torch.Generator().manual_seed(0)
    length = max(model.sample_rate, model.clips.min_samples)
    for shape in ((1, length), (3, length * 2 + 7)):
        waveform = 0.1 * torch.randn(*shape, generator=generator)
        found = torch.from_numpy(session.run(None, {"waveform": waveform.numpy()})[0])
        expected = model(waveform, model.sample_rate)
        error = float((found - expected).abs().max() / expected.abs().max().clamp_min(1))
        if not error <= TOLERANCE:
            message = (
                f"{path}: embeddings by onnxruntime must match the model's within {TOLERANCE:g}; "
                f"got {error:.2g}. Nothing was written"
            )
            raise CheckpointError(message, code="different", path=path, value=error)
