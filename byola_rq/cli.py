"""The `byola-rq` command: parses, calls, turns our errors into one line."""

import os
import sys
import traceback
from pathlib import Path
from typing import Annotated, Any

import typer

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
def pretrain(config: Overrides = None) -> None:
    """Learn an encoder from unlabelled clips.

    Any key of config.yaml can be changed on the command line. Run the same command again and it
    goes on from its last checkpoint. The run directory gets config.yaml (as resolved),
    metrics.csv, checkpoints, and at the end encoder.safetensors.

    \b
    Examples:
      byola-rq pretrain data.source=/data/my_sounds run.dir=runs/a
      byola-rq pretrain data.source=clips.csv run.dir=runs/b encoder.dim=512 train.max_steps=200
      byola-rq pretrain my.yaml data.source=/data/audioset run.device=cuda run.precision=bfloat16
      byola-rq pretrain data.source=/data/x 'views.augmentations=[mixup, random_resized_crop]'
    """
    loaded = _load_config(config)
    from byola_rq.pretrain import pretrain

    print(pretrain(loaded))


@app.command()
def embed(
    model: Annotated[Path, typer.Argument(help="Model file, encoder.safetensors.")],
    source: Annotated[
        list[Path], typer.Argument(help="Folders, manifests (csv, tsv) or audio files.")
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder to write to.")],
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    workers: Annotated[int, typer.Option(min=1, help="Decoding threads.")] = 2,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace the embeddings of another job.")
    ] = False,
) -> None:
    """Embed every clip: embeddings.npy, index.csv and meta.json.

    Row i of embeddings.npy (float32) is row i of index.csv. A run that was stopped goes on when
    the same command is given again.

    \b
    Example:
      byola-rq embed runs/a/encoder.safetensors /data/my_sounds -o embeddings/
    """
    from byola_rq.embed import embed_clips
    from byola_rq.embedder import load
    from byola_rq.training import choose_device

    embedder = load(model, choose_device(device))
    print(embed_clips(embedder, source, out, num_workers=workers, overwrite=overwrite))


@app.command()
def export(
    run: Annotated[Path, typer.Argument(help="Directory of a run (run.dir).")],
    model: Annotated[Path, typer.Argument(help="Model file to write, encoder.safetensors.")],
) -> None:
    """Write the encoder of a run's newest checkpoint as a model file, also while it trains.

    \b
    Example:
      byola-rq export runs/a encoder.safetensors
    """
    from byola_rq.run_directory import export_run

    print(export_run(run, model))


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


def main(arguments: list[str] | None = None) -> None:
    """Run the command; every error of ours is one line on stderr and a status of its own."""
    try:
        app(args=arguments, prog_name="byola-rq")
    except ByolaRQError as error:
        _fail(str(error), error.exit_code)
    except KeyboardInterrupt:
        _fail("interrupted; the same command goes on from its last checkpoint", 130)


def _fail(message: str, status: int) -> None:
    if os.environ.get("BYOLA_RQ_DEBUG"):
        traceback.print_exc()
    print(f"error: {message}", file=sys.stderr)
    sys.exit(status)


def _load_config(arguments: list[str] | None) -> Any:
    """CONFIG.yaml (the packaged one where the first argument is an override) and overrides."""
    from byola_rq.config import default_config_path, load_config

    path, *overrides = arguments or [""]
    if not path or "=" in path:
        overrides = [argument for argument in arguments or [] if argument]
        path = str(default_config_path())
    return load_config(Path(path), overrides)
