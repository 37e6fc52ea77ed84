"""Commands `byola-rq embed`, `export` and `import-weights`."""

from pathlib import Path
from typing import Annotated

import typer

from byola_rq.cli.options import Device, Model, Precision, Workers, print_once
from byola_rq.errors import ConfigError, CorpusError
from byola_rq.model.builtin import NAME
from byola_rq.runtime.terminal import say


def embed(
    source: Annotated[
        list[Path], typer.Argument(help="Folders, manifests (csv, tsv) or audio files.")
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder to write to.")],
    *,
    model: Model = NAME,
    device: Device = "auto",
    precision: Annotated[
        Precision, typer.Option(help="Precision of the encoder; auto: bfloat16 on GPUs with it.")
    ] = Precision.auto,
    workers: Workers = 2,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace the embeddings of another job.")
    ] = False,
    frames: Annotated[
        bool, typer.Option("--frames", help="Write every frame embedding: frames.npy.")
    ] = False,
    strict: Annotated[
        bool, typer.Option("--strict", help="Stop at the first clip that cannot be embedded.")
    ] = False,
) -> None:
    """Embed every clip of folders, lists or files.

    Writes embeddings.npy, index.csv and meta.json.

    Row i of embeddings.npy (float32) is row i of index.csv. With --frames, the frame embeddings of
    clip i are the num_frames rows of frames.npy from first_frame on, and meta.json holds their
    times. A clip that is named twice has two rows. The same command resumes an interrupted job.
    Clips that cannot be embedded are left out and listed in rejected.csv with the reason, and the
    exit status is 1.

    \b
    Examples:
      byola-rq embed /data/my_sounds -o embeddings/
      byola-rq embed /data/my_sounds -o frames/ --frames
      byola-rq embed /data/my_sounds -o own/ --model runs/a/encoder.safetensors
    """
    for each in source:
        if each.suffix == ".safetensors":
            message = f"{each}: not a source of sound; name a model with --model {each}"
            raise ConfigError(message, code="usage", path=each, key="--model")
    import torch

    from byola_rq.embed.embedder import load
    from byola_rq.embed.folder import REJECTED
    from byola_rq.embed.job import embed_clips
    from byola_rq.runtime.device import choose_device, choose_precision
    from byola_rq.runtime.distributed import is_main, process_group, raise_on_all_ranks
    from byola_rq.runtime.memory import keep_freed_memory

    own_device = choose_device(device, key="--device")
    if own_device.type == "cpu":
        keep_freed_memory()
        if precision is Precision.auto:
            precision = Precision.float32
    with process_group(own_device):
        with raise_on_all_ranks():
            dtype = getattr(torch, choose_precision(precision.value, own_device))
            embedder = load(model, own_device, dtype)
        embedded = embed_clips(
            embedder,
            source,
            out,
            num_workers=workers,
            overwrite=overwrite,
            frames=frames,
            strict=strict,
        )
        print_once(embedded.path)
        # Only rank 0 raises: torchrun ends the other ranks when one fails.
        if embedded.num_rejected and is_main():
            error = CorpusError(
                f"{out}: {embedded.num_rejected} clips are left out and {embedded.num_clips} "
                f"embedded; {out / REJECTED} has the reasons",
                code="too-many",
                path=out,
                value=embedded.num_rejected,
            )
            error.exit_code = 1
            raise error


def export(
    run: Annotated[
        str,
        typer.Argument(help="Directory of a run (run.dir); with --onnx a model file or `builtin`."),
    ] = NAME,
    model: Annotated[
        Path | None, typer.Argument(help="Model file to write, encoder.safetensors.")
    ] = None,
    best: Annotated[
        bool, typer.Option("--best", help="Export the checkpoint with the best validation score.")
    ] = False,
    license: Annotated[
        str | None, typer.Option(help="License of the weights to store, such as CC-BY-4.0.")
    ] = None,
    onnx: Annotated[
        Path | None, typer.Option(help="Write ONNX with the frontend, from waveform to embedding.")
    ] = None,
) -> None:
    """Export the encoder of a run, or a model to ONNX.

    Writes the encoder of the run's newest checkpoint as a model file, also during training.

    \b
    Examples:
      byola-rq export runs/a encoder.safetensors
      byola-rq export runs/a best.safetensors --best --license CC-BY-4.0
      byola-rq export --onnx model.onnx
      byola-rq export encoder.safetensors --onnx model.onnx
    """
    run_dir = Path(run)
    if run == NAME or run_dir.is_file():
        if onnx is None or model or best or license:
            message = f"{run}: export of a model takes --onnx FILE and nothing else"
            raise ConfigError(message, code="usage", path=run, key="--onnx")
        _export_onnx(run, onnx)
        return
    if model is None:
        if not run_dir.exists():
            raise ConfigError(f"{run}: no such run or model file", code="missing", path=run)
        message = f"{run}: export of a run takes the model file to write"
        raise ConfigError(message, code="usage", path=run)
    from byola_rq.export.run import export_run

    path = export_run(run_dir, model, best=best)
    if license is not None:
        from byola_rq.embed.embedder import load

        embedder = load(path)
        embedder.license = license
        embedder.save(path)
    say(path)
    if onnx is not None:
        _export_onnx(path, onnx)


def import_weights(
    weights: Annotated[Path, typer.Argument(help="Your copy of published weights (.pth).")],
    model: Annotated[Path, typer.Argument(help="Model file to write, encoder.safetensors.")],
    *,
    encoder: Annotated[
        str, typer.Option(help="audio_ntt_2020 (BYOL-A) or audio_ntt_2022 (BYOL-A v2).")
    ] = "audio_ntt_2020",
    dim: Annotated[int, typer.Option(min=1, help="Embedding size of the weights.")] = 2048,
    mean: Annotated[
        float | None, typer.Option(help="Mean of the log-mel that the weights were trained with.")
    ] = None,
    std: Annotated[float | None, typer.Option(help="Standard deviation of that log-mel.")] = None,
    corpus: Annotated[
        list[Path] | None, typer.Option(help="Measure both on these sounds; may be repeated.")
    ] = None,
) -> None:
    """Convert published BYOL-A weights to a model file.

    byola_rq does not include these weights. The file must be a state dict written by torch.save, or
    have one under the key state_dict or model, with the names of the published checkpoints. No
    code in it is run.

    \b
    Examples:
      byola-rq import-weights a.pth encoder.safetensors --dim 512 --mean M --std S
      byola-rq import-weights a.pth encoder.safetensors --encoder audio_ntt_2022 --dim 3072 \\
        --corpus /data/my_sounds
    """
    has_both = mean is not None and std is not None
    if has_both == bool(corpus) or (mean is None) != (std is None):
        message = "import-weights takes --mean and --std, or --corpus to measure them"
        raise ConfigError(message, code="usage", key="--mean")
    from byola_rq.audio.frontend import Statistics
    from byola_rq.corpus.statistics import measure_sources
    from byola_rq.export.published_weights import import_weights

    given = Statistics(mean or 0.0, std if std is not None else 1.0)
    embedder = import_weights(weights, encoder_name=encoder, dim=dim, statistics=given)
    if corpus:  # after the weights, where a wrong option fails at once
        embedder = embedder.with_statistics(measure_sources(corpus))
    embedder.save(model)
    say(f"{model}: mean {embedder.statistics.mean:.4f}, std {embedder.statistics.std:.4f}")


def _export_onnx(model: Path | str, onnx: Path) -> None:
    """Export a model as ONNX."""
    from byola_rq.embed.embedder import load
    from byola_rq.export.onnx import export_onnx

    export_onnx(load(model), onnx)
    say(onnx)
