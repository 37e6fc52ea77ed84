"""Validation during training: a quick probe on labeled clips, without effect on the training."""

import hashlib
import json
import math
from collections.abc import Callable, Iterator
from fractions import Fraction
from itertools import groupby
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from byola_rq.audio.io import fit_length, read_audio
from byola_rq.config import Config
from byola_rq.embed.clip_encoder import FRAMES_AT_ONCE, ClipEncoder
from byola_rq.errors import AudioError, ByolaRQError, CheckpointError, ConfigError, CorpusError
from byola_rq.model.encoder import Encoder, build_encoder
from byola_rq.runs.best import BestCheckpoint, read_best
from byola_rq.runtime.distributed import broadcast_bytes, is_main, raise_on_all_ranks
from byola_rq.runtime.progress import ProgressBar
from byola_rq.sources.labelled_csv import LabelledClip, read_labelled_rows
from byola_rq.train.probe import Features, import_sklearn, score_embeddings
from byola_rq.train.state import TrainState

MAX_SECONDS = 60.0  # longer clips are cut: 96 MiB in the first convolution
MAX_BYTES_KEPT = 2**30  # of decoded clips: 4.6 h at 16 kHz; with more, each validation decodes


class Validation:
    """Scores the online encoder by a probe on the clips listed in `validation.labelled`.

    All clips are decoded once at the start, so that errors show before hours of training, and are
    kept if they are small. Training is not affected: a copy of the encoder embeds, in eval mode and
    float32, and no random numbers are drawn.

    Args:
        config: Configuration of the run; `validation.labelled` names a csv.

    Attributes:
        measured_by: Digest of probe, clips, labels and parts; scores are comparable if it is equal.

    Raises:
        ConfigError: If `validation.labelled` is null.
        MissingPackageError: If scikit-learn is not installed.
        CorpusError: If the csv breaks a rule: `file_name,label,split`, at least two classes, clips
            of both train and valid, no class among the valid clips without train clips.
        AudioError: If a clip cannot be decoded or was cut short; names its row.
    """

    def __init__(self, config: Config) -> None:
        options = config.validation
        if options.labelled is None:
            message = "validation.labelled must name a csv; got null"
            raise ConfigError(message, code="missing", key="validation.labelled")
        import_sklearn()
        self._probe = options.probe
        self._sample_rate = config.frontend.sample_rate
        self._clips = _read_clips(options.labelled)
        rows = sorted((clip.file_name, clip.label, clip.part) for clip in self._clips)
        description = json.dumps([options.probe, rows])
        self.measured_by = hashlib.sha256(description.encode()).hexdigest()
        self._kept: list[Tensor] = []  # waveforms of all clips, or empty
        self._num_samples = self._decode_all(options.labelled)

    def score(
        self, state: TrainState, should_stop: Callable[[], bool] = lambda: False
    ) -> float | None:
        """Fit the probe on the train clips' embeddings, and test it on the valid clips'.

        Args:
            state: Training state with the online encoder; not changed.
            should_stop: Called about every second; True stops the validation.

        Returns:
            Accuracy in percent; nan if an embedding is not finite; None if stopped.

        Raises:
            AudioError: If a clip that is not in memory can no longer be read.
        """
        embeddings = self._embed(state, should_stop)
        if embeddings is None:
            return None
        labels = np.array([clip.label for clip in self._clips])
        is_train = np.array([clip.part == "train" for clip in self._clips])
        return score_embeddings(
            self._probe, embeddings, labels, is_train=is_train, should_stop=should_stop
        )

    @torch.no_grad()
    def _embed(self, state: TrainState, should_stop: Callable[[], bool]) -> Features | None:
        """Embed all clips, each over its whole length: `(N, D)`; None if stopped."""
        clips = ClipEncoder(_copy_encoder(state), state.frontend, state.statistics)
        embeddings = np.empty((len(self._clips), clips.encoder.embedding_dim), np.float32)
        for positions in self._batches(state):
            if should_stop():
                return None
            waveforms = [
                self._kept[position] if self._kept else self._read(self._clips[position])
                for position in positions
            ]
            # Clips that are shorter than the encoder can embed are padded.
            length = max(len(waveforms[0]), clips.min_samples)
            waveform = torch.stack([fit_length(each, length) for each in waveforms])  # (B, S)
            embeddings[positions] = clips.embed(waveform.to(state.device)).cpu().numpy()
        return embeddings

    def _batches(self, state: TrainState) -> Iterator[list[int]]:
        """Return positions of clips in batches of equal length."""
        in_order = sorted(range(len(self._clips)), key=self._num_samples.__getitem__)
        for num_samples, group in groupby(in_order, self._num_samples.__getitem__):
            positions = list(group)
            num_frames = 1 + num_samples // state.frontend.hop_length
            size = max(FRAMES_AT_ONCE[state.device.type] // num_frames, 1)
            yield from (positions[start : start + size] for start in range(0, len(positions), size))

    def _decode_all(self, path: Path) -> list[int]:
        """Return each clip's length in samples; keep the waveforms if they are small enough."""
        lengths: list[int] = []
        num_bytes = 0
        with ProgressBar("decoding validation clips", len(self._clips)) as bar:
            for clip in self._clips:
                try:
                    waveform = self._read(clip)
                except AudioError as error:
                    raise AudioError(
                        f"{error} (row {clip.row} of {path})", **error.facts
                    ) from error
                lengths.append(len(waveform))
                num_bytes += waveform.nbytes
                if num_bytes <= MAX_BYTES_KEPT:
                    self._kept.append(waveform)
                else:
                    self._kept.clear()
                bar.advance()
        return lengths

    def _read(self, clip: LabelledClip) -> Tensor:
        most = round(MAX_SECONDS * self._sample_rate)
        return read_audio(clip.path, self._sample_rate, num_samples=most)


def _read_clips(path: Path) -> tuple[LabelledClip, ...]:
    """Read the clips to train and to validate on; test clips are left to the evaluation."""
    rows = read_labelled_rows(path, label_columns=("label",), part_columns=("split",))
    classes = {
        part: {clip.label for clip in rows.clips if clip.part == part}
        for part in ("train", "valid")
    }
    for part, labels in classes.items():
        if not labels:
            message = f"{path}: split must name {part} clips; got none"
            raise CorpusError(message, code="missing", path=path, key="split", value=part)
    if len(classes["train"]) < 2:
        (only,) = classes["train"]
        message = (
            f"{path}: label must have at least 2 classes among the train clips; got only {only!r}"
        )
        raise CorpusError(message, code="value", path=path, key="label", value=only)
    if untrained := classes["valid"] - classes["train"]:
        label = min(untrained)
        message = f"{path}: class {label!r} must have train clips; got only valid ones"
        raise CorpusError(message, code="unknown", path=path, value=label)
    return tuple(clip for clip in rows.clips if clip.part in classes)


def _copy_encoder(state: TrainState) -> Encoder:
    """Copy the online encoder in eval mode, without the wrappers used for training."""
    options = state.config.encoder
    with torch.random.fork_rng(devices=[]):  # drawn weights are overwritten
        encoder = build_encoder(options.name, dim=options.dim, n_mels=state.config.frontend.n_mels)
    encoder.load_state_dict(state.byol.encoder.state_dict())
    encoder.to(state.device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return encoder.requires_grad_(False).eval()


class RunValidation:
    """Validates a run if `validation.labelled` names a csv; otherwise nothing is ever due.

    Every rank has one and calls it at the same steps; only rank 0 decodes, scores and writes.

    Args:
        config: Configuration of the run.
        num_clips: Number of clips in the training corpus.
        num_steps: Number of steps of the whole run.
        log: Prints a line.

    Raises:
        CorpusError, AudioError, MissingPackageError: If `Validation` raises it.
        CheckpointError: If best.json cannot be read.
    """

    def __init__(
        self, config: Config, *, num_clips: int, num_steps: int, log: Callable[[str], None]
    ) -> None:
        self._is_on = config.validation.labelled is not None
        self._run_dir = config.run.dir
        self._num_steps = num_steps
        self._log = log
        # Fraction of the decimal text: as a float, 0.1 is a little more than a tenth.
        every_clips = Fraction(str(config.validation.every_epochs)) * num_clips
        self._every_steps = every_clips / config.train.batch_size
        self._kept_step: int | None = None  # best checkpoint of a run that no longer validates
        with raise_on_all_ranks():
            if is_main() and self._is_on:
                self._validation = Validation(config)
                self._best = BestCheckpoint(config.run.dir, self._validation.measured_by)
            elif is_main():
                best = read_best(config.run.dir)
                self._kept_step = best.step if best else None

    @property
    def best_step(self) -> int | None:
        """Step whose checkpoint must not be pruned; known in rank 0."""
        return self._best.step if self._is_on else self._kept_step

    def is_due(self, step: int) -> bool:
        """Return True for the last step, and the first at or after a multiple of `every_epochs`."""
        if not self._is_on or step < 1:
            return False
        return step == self._num_steps or (
            step // self._every_steps > (step - 1) // self._every_steps
        )

    def is_open(self, step: int) -> bool:
        """Return True if the step from which a run resumes must still be validated.

        A stop may have interrupted it, or a crash preceded the note of its checkpoint as the best.
        """

        def ask() -> bytes:
            return json.dumps(self._best.step != step).encode()

        return self.is_due(step) and bool(json.loads(broadcast_bytes(ask)))

    def score(self, state: TrainState, should_stop: Callable[[], bool]) -> tuple[float, bool]:
        """Validate the encoder as it is.

        Args:
            state: Training state; not changed.
            should_stop: Called about every second in rank 0; True stops the validation.

        Returns:
            Accuracy in percent, and True if it is the best so far: then save its checkpoint and
            call `note_best`. The accuracy is nan if the validation was stopped, an embedding is not
            finite, or a clip can no longer be read, which is logged. The same in all ranks.
        """

        def measure() -> bytes:
            try:
                score = self._validation.score(state, should_stop)
            except ByolaRQError as error:
                self._log(f"WARNING: {error}. Training continues without this validation")
                score = None
            score = math.nan if score is None else score
            return json.dumps([score, self._best.is_beaten_by(score)]).encode()

        score, is_best = json.loads(broadcast_bytes(measure))
        return score, is_best

    def note_best(self, step: int, score: float) -> None:
        """Record, in rank 0, that the saved checkpoint of `step` is the best."""
        try:
            self._best.note(step, score)
        except CheckpointError as error:
            self._log(f"WARNING: {error}. Training continues; the previous best is kept")
