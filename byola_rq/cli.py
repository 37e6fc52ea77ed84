"""The `byola-rq` command: parses, calls, turns our errors into one line."""

import os
import sys
import traceback
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

# Nothing heavy is imported before a command needs it, so that --help is instant.
from byola_rq.errors import ByolaRQError, ConfigError

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Overrides = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[CONFIG.yaml] [SECTION.KEY=VALUE]...",
        help="A configuration (the paper's recipe where none is named), then changes to it.",
    ),
]


class Precision(StrEnum):
    """Of the encoder."""

    auto = "auto"
    float32 = "float32"
    bfloat16 = "bfloat16"


@app.callback()
def _root(
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks of errors.")] = False,
) -> None:
    """Audio embeddings learned without labels: BYOL-A with randomized quantization.

    The way of the work: pretrain on sound you have, embed what you want to know about, and prove
    the encoder with linear probes (`python -m evaluate`, in the source checkout).
    """
    if debug:
        os.environ["BYOLA_RQ_DEBUG"] = "1"


@app.command()
def pretrain(
    config: Overrides = None,
    reset: Annotated[
        bool,
        typer.Option("--reset", help="Start over; the run in run.dir is moved to run.dir.1 ..."),
    ] = False,
    profile: Annotated[
        int | None,
        typer.Option(min=1, help="Say where the time of so many steps goes, and trace a few."),
    ] = None,
) -> None:
    """Learn an encoder from unlabelled clips.

    Any key of config.yaml can be changed on the command line. Run the same command again and it
    goes on from its last checkpoint. The run directory gets config.yaml (as resolved),
    metrics.csv, checkpoints, and at the end encoder.safetensors.

    Status: 143, 0 or 130 after SIGTERM, SIGUSR1 or Ctrl-C, which save first; 75 where the run hung
    (run.stall_minutes). Over several GPUs or machines it is started by torchrun; see
    docs/clusters.md.

    \b
    Examples:
      byola-rq pretrain data.source=/data/my_sounds run.dir=runs/a
      byola-rq pretrain data.source=clips.csv run.dir=runs/b encoder.dim=512 train.max_steps=200
      byola-rq prepare /data/audioset packed
      byola-rq pretrain my.yaml data.source=packed run.device=cuda run.precision=bfloat16
      byola-rq pretrain data.source=/data/x 'views.augmentations=[mixup, random_resized_crop]'
      torchrun --nproc-per-node 8 -m byola_rq pretrain my.yaml data.source=packed
    """
    loaded = _load_config(config)
    from byola_rq.pretrain import pretrain

    _print_once(pretrain(loaded, reset=reset, profile=profile))


@app.command()
def prepare(
    context: typer.Context,
    paths: Annotated[
        list[str],
        typer.Argument(metavar="SOURCE... DEST", help="What to pack, and the folder to pack into."),
    ],
    workers: Annotated[
        int | None, typer.Option(min=1, help="Decoding processes; one for each core by default.")
    ] = None,
    share: Annotated[
        str | None,
        typer.Option(
            "--shard", metavar="I/N", help="Pack only share I (1 to N) of N: every N-th shard."
        ),
    ] = None,
    merge: Annotated[
        bool, typer.Option("--merge", help="Join what all shares have packed into DEST.")
    ] = False,
    verify: Annotated[
        bool, typer.Option("--verify", help="Check every size and SHA-256 of DEST.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what there is to pack; write nothing.")
    ] = False,
    limit: Annotated[
        int | None, typer.Option(min=1, help="Only the first so many clips of the list.")
    ] = None,
    min_seconds: Annotated[float, typer.Option(min=0, help="Reject shorter clips.")] = 0.0,
    max_seconds: Annotated[float, typer.Option(min=0, help="Reject longer clips.")] = 3600.0,
    clip_timeout: Annotated[
        float, typer.Option(min=0.1, help="Seconds that decoding one clip may take.")
    ] = 60.0,
    clip_memory: Annotated[
        float, typer.Option(min=0.1, help="Memory that decoding one clip may take, GB.")
    ] = 4.0,
    shard_megabytes: Annotated[
        float, typer.Option(min=0.01, help="Size of a shard, about: what a stop can cost.")
    ] = 1000.0,
    strict: Annotated[
        bool, typer.Option("--strict", help="Leave with status 1 if any clip was rejected.")
    ] = False,
) -> None:
    """Pack any collection of sound into one corpus that training reads at the speed of the disk.

    A SOURCE is a folder of audio files at any depth (or of tar shards or Parquet files), a
    manifest (csv, tsv, parquet, fairseq's tsv), a tar (WebDataset), Parquet of encoded audio, an
    audio file, or an AudioSet segment list joined to its audio: LIST.csv=FOLDER. Several go into
    one corpus; a clip that comes twice is kept once.

    DEST gets pcm-00000.npy ... (int16, 16 kHz, mono), index.parquet, corpus.json and
    rejected.csv, which names every clip that is left out, with the reason. Stopped at any moment,
    the same command goes on after the last whole shard, and the result has the same bytes.
    Status: 0 if any clip is packed, 1 if none.

    \b
    Examples:
      byola-rq prepare /data/my_sounds packed
      byola-rq prepare /data/a /data/b/clips.csv /data/c/shard-0000.tar packed --dry-run
      byola-rq prepare unbalanced_train_segments.csv=/data/audioset/unbalanced packed
      byola-rq prepare /data/hf/train-00000-of-00010.parquet packed --max-seconds 60
      byola-rq prepare --verify packed
      byola-rq pretrain data.source=packed run.dir=runs/a

    \b
    On a cluster, as an array job of 8 tasks numbered 1 to 8 that share DEST, then once more:
      byola-rq prepare /data/my_sounds /shared/packed --shard $SLURM_ARRAY_TASK_ID/8
      byola-rq prepare --merge /shared/packed
    """
    *sources, dest = paths
    folder = Path(dest)
    if merge or verify:
        _refuse_others(context, "merge" if merge else "verify", paths)
        if verify:
            _verify(folder)
        else:
            from byola_rq.prepare import merge_corpus

            _report(folder, merge_corpus(folder), strict=strict)
        return
    if not sources:
        raise ConfigError(f"prepare takes at least one SOURCE, then DEST; got only {dest}")
    if min_seconds > max_seconds:
        raise ConfigError(
            f"--min-seconds must be at most --max-seconds ({max_seconds:g}); got {min_seconds:g}"
        )
    from byola_rq.confinement import Limits
    from byola_rq.decoding import ClipRules
    from byola_rq.planning import PackingOptions
    from byola_rq.prepare import describe_work, prepare_corpus
    from byola_rq.workers import count_cores

    options = PackingOptions(
        rules=ClipRules(min_seconds, max_seconds),
        limits=Limits(clip_timeout, clip_memory),
        shard_megabytes=shard_megabytes,
        limit=limit,
    )
    num_workers = workers or count_cores()
    if dry_run:
        for line in describe_work(sources, folder, options, num_workers=num_workers):
            print(line)
        return
    outcome = prepare_corpus(
        sources, folder, options, num_workers=num_workers, share=_parse_share(share)
    )
    _report(folder, outcome, strict=strict, share=share)


@app.command()
def info(
    corpus: Annotated[Path, typer.Argument(help="Folder that `prepare` has packed.")],
    picture: Annotated[
        Path | None, typer.Option(help="Also draw the clips' lengths (.png, .pdf, .svg).")
    ] = None,
) -> None:
    """Say what a packed corpus holds: clips, hours, lengths, rates, labels, rejects.

    \b
    Examples:
      byola-rq info packed
      byola-rq info packed --picture lengths.png
    """
    from byola_rq.inventory import describe_corpus, draw_lengths

    for line in describe_corpus(corpus):
        print(line)
    if picture is not None:
        draw_lengths(corpus, picture)
        print(picture)


@app.command()
def embed(
    model: Annotated[Path, typer.Argument(help="Model file, encoder.safetensors.")],
    source: Annotated[
        list[Path], typer.Argument(help="Folders, manifests (csv, tsv) or audio files.")
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder to write to.")],
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    precision: Annotated[
        Precision, typer.Option(help="Of the encoder; auto: bfloat16 on a GPU that has it.")
    ] = Precision.auto,
    workers: Annotated[int, typer.Option(min=1, help="Decoding threads.")] = 2,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace the embeddings of another job.")
    ] = False,
    frames: Annotated[
        bool, typer.Option("--frames", help="Every frame embedding of a clip: frames.npy.")
    ] = False,
) -> None:
    """Embed every clip: embeddings.npy, index.csv and meta.json.

    Row i of embeddings.npy (float32) is row i of index.csv. With --frames, the frame embeddings of
    clip i are the num_frames rows of frames.npy from first_frame on, and meta.json holds their
    times. A run that was stopped goes on when the same command is given again.

    \b
    Examples:
      byola-rq embed runs/a/encoder.safetensors /data/my_sounds -o embeddings/
      byola-rq embed runs/a/encoder.safetensors /data/my_sounds -o frames/ --frames
    """
    from byola_rq.allocator import keep_freed_memory
    from byola_rq.embed import embed_clips
    from byola_rq.embedder import load
    from byola_rq.ranks import errors_shared, joined_ranks
    from byola_rq.training import choose_device, choose_precision

    own_device = choose_device(device)
    if own_device.type == "cpu":
        keep_freed_memory()
        if precision is Precision.auto:
            precision = Precision.float32
    with joined_ranks(own_device):
        with errors_shared():
            embedder = load(model, own_device, choose_precision(precision, own_device))
        path = embed_clips(
            embedder, source, out, num_workers=workers, overwrite=overwrite, frames=frames
        )
    _print_once(path)


@app.command()
def export(
    run: Annotated[
        Path, typer.Argument(help="Directory of a run (run.dir); with --onnx also a model file.")
    ],
    model: Annotated[
        Path | None, typer.Argument(help="Model file to write, encoder.safetensors.")
    ] = None,
    best: Annotated[
        bool, typer.Option("--best", help="The checkpoint that scored best in validation.")
    ] = False,
    licence: Annotated[
        str | None, typer.Option(help="Of the weights, stored in the file, such as CC-BY-4.0.")
    ] = None,
    onnx: Annotated[
        Path | None, typer.Option(help="Write ONNX, frontend inside: waveform in, embedding out.")
    ] = None,
) -> None:
    """Write the encoder of a run's newest checkpoint as a model file, also while it trains.

    \b
    Examples:
      byola-rq export runs/a encoder.safetensors
      byola-rq export runs/a best.safetensors --best --licence CC-BY-4.0
      byola-rq export encoder.safetensors --onnx model.onnx
    """
    if run.is_file():
        if onnx is None or model or best or licence:
            raise ConfigError(f"{run}: export of a model file takes --onnx FILE and nothing else")
        _export_onnx(run, onnx)
        return
    if model is None:
        if not run.exists():
            raise ConfigError(f"{run}: no such run or model file")
        raise ConfigError(f"{run}: export of a run takes the model file to write")
    from byola_rq.run_directory import export_run

    path = export_run(run, model, best=best)
    if licence is not None:
        from byola_rq.embedder import load

        embedder = load(path)
        embedder.licence = licence
        embedder.save(path)
    print(path)
    if onnx is not None:
        _export_onnx(path, onnx)


@app.command()
def runs(
    run: Annotated[list[Path], typer.Argument(help="Directories of runs, or folders of them.")],
    picture: Annotated[
        Path | None, typer.Option(help="Also draw the runs' curves (.png, .pdf, .svg).")
    ] = None,
) -> None:
    """Say how far runs are, how they fare and in what they differ, also while they train.

    The numbers are those of the last row of metrics.csv; skipped are the steps of all rows whose
    loss or gradient was not finite. An embedding std near 0 or an effective rank near 1 means that
    a run collapses; a high share of waiting, that data is read too slowly.

    \b
    Examples:
      byola-rq runs runs/a
      byola-rq runs runs/a runs/b --picture curves.png
      byola-rq runs runs
    """
    from byola_rq.run_table import describe_runs
    from byola_rq.runs import find_runs

    found, notes = find_runs(run)
    for note in notes:
        print(f"warning: {note}", file=sys.stderr)
    for line in describe_runs(found):
        print(line)
    if picture is not None:
        from byola_rq.curves import save_curves_picture

        save_curves_picture(picture, {each.name: each.metrics for each in found})
        print(picture)


@app.command()
def views(
    clip: Annotated[Path, typer.Argument(help="Audio file.")],
    picture: Annotated[Path, typer.Argument(help="Picture to write (.png, .pdf, .svg).")],
    config: Overrides = None,
) -> None:
    """Draw a segment of a clip and two augmented views of it.

    \b
    Examples:
      byola-rq views dog.wav views.png
      byola-rq views dog.wav views.png run.seed=3 views.randomized_quantization.num_bins=2
    """
    loaded = _load_config(config)
    from byola_rq.preview import draw_views

    draw_views(loaded, clip, picture)
    print(picture)


@app.command()
def synthesize(
    folder: Annotated[Path, typer.Argument(help="Folder to write to; must be new or empty.")],
    clips: Annotated[int, typer.Option(min=2, help="How many clips.")] = 600,
    seed: Annotated[int, typer.Option(min=0, help="Same seed, same sounds.")] = 0,
) -> None:
    """Write the built-in sounds, unlabelled clips of every kind to pretrain on, no download.

    They lie in FOLDER/clips/. Labelled sets of the same sound world: `python -m evaluate
    miniature`, in the source checkout.

    \b
    Example:
      byola-rq synthesize sounds
      byola-rq pretrain data.source=sounds/clips run.dir=runs/trial encoder.dim=128
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigError(f"{folder}: must be new or empty; nothing was written")
    from byola_rq.progress import ProgressBar
    from byola_rq.synthesis import write_corpus

    with ProgressBar("synthesizing clips", clips) as bar:
        write_corpus(folder / "clips", num_clips=clips, seed=seed, on_clip=lambda _: bar.advance())
    print(folder / "clips")


@app.command()
def doctor() -> None:
    """Say what of this installation works, and what to do about what does not."""
    from rich.console import Console
    from rich.table import Table

    from byola_rq.doctor import examine

    table = Table("", "status", "found", "what to do", box=None, pad_edge=False)
    findings = list(examine())
    for finding in findings:
        table.add_row(finding.name, finding.status, finding.detail, finding.remedy)
    Console(soft_wrap=True).print(table, markup=False)
    if any(finding.is_failure for finding in findings):
        raise typer.Exit(1)


class _SpreadBins(TyperCommand):
    """`--bins 2 5 8` is `--bins 2 --bins 5 --bins 8`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        spread: list[str] = []
        is_bins = False
        for argument in args:
            is_bins = argument == "--bins" or (is_bins and argument.isdecimal())
            spread += ["--bins", argument] if is_bins and argument != "--bins" else [argument]
        kept = [
            each
            for each, after in zip(spread, [*spread[1:], ""], strict=True)
            if not each == after == "--bins"
        ]
        parsed: list[str] = super().parse_args(ctx, kept)
        return parsed


@app.command(cls=_SpreadBins)
def listen(
    clip: Annotated[Path, typer.Argument(help="Audio file.")],
    page: Annotated[Path, typer.Option("--out", "-o", help="The page to write, .html.")],
    start: Annotated[
        float | None,
        typer.Option(help="Where the segment begins, s; the loudest place by default."),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of all that is drawn.")] = 42,
    bins: Annotated[
        list[int], typer.Option(metavar="K...", help="Numbers of bins to quantize with.")
    ] = [2, 5, 8, 15, 30],  # noqa: B006
    model: Annotated[
        Path | None, typer.Option(help="Model file: how alike are the views to it?")
    ] = None,
    wav: Annotated[Path | None, typer.Option(help="Also write the sounds to this folder.")] = None,
) -> None:
    """Make what the network sees of a clip audible: one page of pictures and players.

    A segment as it was recorded, and turned into a log-mel spectrogram and back; then cropped,
    quantized with each K, mixed up, and as the two views of training, each with its picture, its
    sound and the key that replays it. Everything is heard with one gain. The page is one file that
    needs no network; keep it, send it. With a model it shows how near the two views are to each
    other, beside other sounds and the untrained encoder.

    \b
    Examples:
      byola-rq listen dog.wav -o dog.html
      byola-rq listen dog.wav -o dog.html --start 1.5 --seed 7 --bins 2 5 100
      byola-rq listen dog.wav -o dog.html --model runs/a/encoder.safetensors --wav sounds/
    """
    from byola_rq.listen import make_page

    for line in make_page(
        clip, page, start=start, seed=seed, bins=bins, model_file=model, sounds=wav
    ):
        print(line)


@app.command("import-weights")
def import_weights(
    weights: Annotated[Path, typer.Argument(help="Your copy of published weights (.pth).")],
    model: Annotated[Path, typer.Argument(help="Model file to write, encoder.safetensors.")],
    encoder: Annotated[
        str, typer.Option(help="audio_ntt_2020 (BYOL-A) or audio_ntt_2022 (BYOL-A v2).")
    ] = "audio_ntt_2020",
    dim: Annotated[int, typer.Option(min=1, help="Embedding size of the weights.")] = 2048,
    mean: Annotated[
        float | None, typer.Option(help="Of the log-mel that the weights were trained with.")
    ] = None,
    std: Annotated[float | None, typer.Option(help="Its standard deviation.")] = None,
    corpus: Annotated[
        list[Path] | None, typer.Option(help="Measure them on this sound instead; may be repeated.")
    ] = None,
) -> None:
    """Make a model file of weights in the naming of the published BYOL-A checkpoints.

    byola_rq ships no such weights. The file is what torch.save wrote: a state dict, or one under
    the key state_dict or model; it is read without running any code in it.

    \b
    Examples:
      byola-rq import-weights a.pth encoder.safetensors --dim 512 --mean M --std S
      byola-rq import-weights a.pth encoder.safetensors --encoder audio_ntt_2022 --dim 3072 \\
        --corpus /data/my_sounds
    """
    has_both = mean is not None and std is not None
    if has_both == bool(corpus) or (mean is None) != (std is None):
        raise ConfigError("import-weights takes --mean and --std, or --corpus to measure them")
    from byola_rq.frontend import Statistics
    from byola_rq.import_weights import import_weights, measure_corpus

    given = Statistics(mean or 0.0, std if std is not None else 1.0)
    embedder = import_weights(weights, encoder_name=encoder, dim=dim, statistics=given)
    if corpus:  # after the weights, which a wrong option refuses at once
        embedder = embedder.with_statistics(measure_corpus(corpus))
    embedder.save(model)
    print(f"{model}: mean {embedder.statistics.mean:.4f}, std {embedder.statistics.std:.4f}")


def main(arguments: list[str] | None = None) -> None:
    """Run the command; every error of ours is one line on stderr and a status of its own."""
    try:
        app(args=arguments, prog_name="byola-rq")
    except ByolaRQError as error:
        if error.is_said:
            sys.exit(error.exit_code)
        _fail(str(error), error.exit_code)
    except KeyboardInterrupt:
        _fail("interrupted; the same command goes on from its last checkpoint", 130)


def _fail(message: str, status: int) -> None:
    if os.environ.get("BYOLA_RQ_DEBUG"):
        traceback.print_exc()
    print(f"error: {message}", file=sys.stderr)
    sys.exit(status)


def _print_once(result: object) -> None:
    """Print what all processes of a job have done together, in the first."""
    if os.environ.get("RANK", "0") == "0":
        print(result)


def _export_onnx(model: Path, onnx: Path) -> None:
    """A model file as ONNX."""
    from byola_rq.embedder import load
    from byola_rq.onnx_export import export_onnx

    export_onnx(load(model), onnx)
    print(onnx)


def _parse_share(text: str | None) -> tuple[int, int] | None:
    """`I/N` as numbers."""
    if text is None:
        return None
    number, _, of = text.partition("/")
    if not (number.isdecimal() and of.isdecimal() and 1 <= int(number) <= int(of)):
        raise ConfigError(f"--shard must be I/N with I from 1 to N; got {text}")
    return int(number), int(of)


def _refuse_others(context: typer.Context, name: str, paths: list[str]) -> None:
    """`--merge` and `--verify` take DEST and nothing that they would not heed."""
    others = [
        f"--{other.replace('_', '-')}"
        for other in context.params
        if other not in {name, "paths", "strict" if name == "merge" else name}
        and (source := context.get_parameter_source(other))
        and source.name == "COMMANDLINE"
    ]
    if others or len(paths) > 1:
        raise ConfigError(f"--{name} takes DEST alone; got {' '.join([*paths, *others])}")


def _report(folder: Path, outcome: Any, *, strict: bool, share: str | None = None) -> None:
    """Say what was packed; an error where that is nothing, or `strict` asks for more."""
    from byola_rq.shards import PackingError

    what = f"{folder}, share {share}" if share else str(folder)
    twice = "" if share else f", {outcome.duplicates} that came twice"
    print(
        f"{what}: {outcome.clips} clips, {outcome.hours:.2f} hours, "
        f"{outcome.rejected} rejected{twice}"
    )
    if share:
        print(f"when all shares are packed: byola-rq prepare --merge {folder}")
    where = "" if share else f"; {folder / 'rejected.csv'} says why"
    # Of a share, that nothing can be packed may be chance.
    if outcome.clips == 0 and outcome.rejected and not share:
        raise PackingError(f"{folder}: no clip could be packed{where}")
    if strict and outcome.rejected:
        raise PackingError(f"{what}: {outcome.rejected} clips are rejected{where}")


def _verify(folder: Path) -> None:
    """Compare a packed corpus with its digests; an error where it is damaged."""
    from byola_rq.prepare import verify_corpus
    from byola_rq.shards import PackingError

    num_files, damages = verify_corpus(folder)
    for damage in damages:
        print(damage)
    if damages:
        raise PackingError(
            f"{folder}: {len(damages)} of {num_files} files are damaged. Copy them again from "
            "where they are whole, or pack again into another folder"
        )
    print(f"{folder}: {num_files} files are whole")


def _load_config(arguments: list[str] | None) -> Any:
    """CONFIG.yaml (the packaged one where the first argument is an override) and overrides."""
    from byola_rq.config import default_config_path, load_config

    path, *overrides = arguments or [""]
    if not path or "=" in path:
        overrides = [argument for argument in arguments or [] if argument]
        path = str(default_config_path())
    return load_config(Path(path), overrides)
