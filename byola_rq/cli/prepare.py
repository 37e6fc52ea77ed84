"""Commands `byola-rq prepare`, `info` and `synthesize`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from byola_rq.errors import ConfigError
from byola_rq.runtime.terminal import say

if TYPE_CHECKING:
    from byola_rq.packing.plan import PackingOptions


def prepare(
    context: typer.Context,
    paths: Annotated[
        list[str],
        typer.Argument(metavar="SOURCE... DEST", help="Sources to pack, and the folder to write."),
    ],
    *,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Decoding processes; one per core by default.")
    ] = None,
    share: Annotated[
        str | None,
        typer.Option(
            "--shard", metavar="I/N", help="Pack only share I (1 to N) of N: every N-th shard."
        ),
    ] = None,
    merge: Annotated[
        bool, typer.Option("--merge", help="Join the shares that were packed into DEST.")
    ] = False,
    verify: Annotated[
        bool, typer.Option("--verify", help="Verify every size and SHA-256 of DEST.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Describe the work without writing anything.")
    ] = False,
    limit: Annotated[
        int | None, typer.Option(min=1, help="Pack only the first clips of the list.")
    ] = None,
    min_seconds: Annotated[float, typer.Option(min=0, help="Reject shorter clips.")] = 0.0,
    max_seconds: Annotated[float, typer.Option(min=0, help="Reject longer clips.")] = 3600.0,
    clip_timeout: Annotated[
        float, typer.Option(min=0.1, help="Time limit for decoding one clip, in seconds.")
    ] = 60.0,
    clip_memory: Annotated[
        float, typer.Option(min=0.1, help="Memory limit for decoding one clip, in GB.")
    ] = 4.0,
    shard_megabytes: Annotated[
        float,
        typer.Option(
            min=0.01, help="Approximate size of a shard; an interruption loses at most one."
        ),
    ] = 1000.0,
    strict: Annotated[
        bool, typer.Option("--strict", help="Exit with status 1 if any clip was rejected.")
    ] = False,
) -> None:
    """Pack collections of sounds into one corpus for training.

    \b
    A SOURCE is one of
      a folder of audio files, tar shards or Parquet files, at any depth
      a manifest: csv, tsv, parquet, or fairseq's tsv
      a tar (WebDataset), Parquet of encoded audio, or an audio file
      an AudioSet segment list joined to its audio: LIST.csv=FOLDER
    Several sources form one corpus; duplicate clips are kept once.

    DEST gets pcm-00000.npy ... (int16, 16 kHz, mono), index.parquet, corpus.json and
    rejected.csv, which lists every clip left out and the reason. After an interruption the same
    command resumes after the last complete shard, and the result has the same bytes.
    Exit status: 0 if any clip is packed, 1 if none.

    \b
    Examples:
      byola-rq prepare /data/my_sounds packed
      byola-rq prepare /data/a /data/b/clips.csv /data/c/shard-0000.tar packed --dry-run
      byola-rq prepare unbalanced_train_segments.csv=/data/audioset/unbalanced packed
      byola-rq prepare /data/hf/train-00000-of-00010.parquet packed --max-seconds 60
      byola-rq prepare --verify packed
      byola-rq pretrain data.source=packed run.dir=runs/a

    \b
    On a cluster, as an array job of tasks 1 to 8 that share DEST, followed by the merge:
      byola-rq prepare /data/my_sounds /shared/packed --shard $SLURM_ARRAY_TASK_ID/8
      byola-rq prepare --merge /shared/packed
    """
    *sources, dest = paths
    folder = Path(dest)
    if merge or verify:
        _check_alone(context, "merge" if merge else "verify", paths)
        return _verify(folder) if verify else _merge(folder, strict=strict)
    if not sources:
        message = f"prepare takes at least one SOURCE, then DEST; got only {dest}"
        raise ConfigError(message, code="usage", key="SOURCE")
    if min_seconds > max_seconds:
        message = (
            f"--min-seconds must be at most --max-seconds ({max_seconds:g}); got {min_seconds:g}"
        )
        raise ConfigError(message, code="usage", key="--min-seconds", value=min_seconds)
    from byola_rq.packing.decode import ClipRules
    from byola_rq.packing.plan import PackingOptions
    from byola_rq.runtime.sandbox import Limits

    options = PackingOptions(
        rules=ClipRules(min_seconds, max_seconds),
        limits=Limits(clip_timeout, clip_memory),
        shard_megabytes=shard_megabytes,
        limit=limit,
    )
    if dry_run:
        return _describe(sources, folder, options, workers)
    return _pack(sources, folder, options, workers=workers, share=share, strict=strict)


def _describe(
    sources: list[str], folder: Path, options: "PackingOptions", workers: int | None
) -> None:
    """Print a description of the work."""
    from byola_rq.packing.prepare import describe_work
    from byola_rq.runtime.workers import count_cores

    for line in describe_work(sources, folder, options, num_workers=workers or count_cores()):
        say(line)


def _pack(
    sources: list[str],
    folder: Path,
    options: "PackingOptions",
    *,
    workers: int | None,
    share: str | None,
    strict: bool,
) -> None:
    """Pack, and print the amounts."""
    from byola_rq.packing.prepare import prepare_corpus
    from byola_rq.runtime.workers import count_cores

    num_workers, numbers = workers or count_cores(), _parse_share(share)
    outcome = prepare_corpus(sources, folder, options, num_workers=num_workers, share=numbers)
    _report(folder, outcome, strict=strict, share=share)


def _merge(folder: Path, *, strict: bool) -> None:
    """Join the packed shares, and print the amounts."""
    from byola_rq.packing.prepare import merge_corpus

    _report(folder, merge_corpus(folder), strict=strict)


def info(
    corpus: Annotated[Path, typer.Argument(help="Folder that `prepare` has packed.")],
    picture: Annotated[
        Path | None, typer.Option(help="Also draw the clips' lengths (.png, .pdf, .svg).")
    ] = None,
) -> None:
    """Summarize a packed corpus.

    Prints clips, hours, lengths, sample rates, labels and rejected clips.

    \b
    Examples:
      byola-rq info packed
      byola-rq info packed --picture lengths.png
    """
    from byola_rq.packing.inventory import describe_corpus, draw_lengths

    for line in describe_corpus(corpus):
        say(line)
    if picture is not None:
        draw_lengths(corpus, picture)
        say(picture)


def synthesize(
    folder: Annotated[Path, typer.Argument(help="Folder to write to; must be new or empty.")],
    clips: Annotated[int, typer.Option(min=2, help="Number of clips.")] = 600,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the sounds.")] = 0,
) -> None:
    """Write synthetic sounds, to pretrain without a download.

    They are unlabeled and go to FOLDER/clips/. For labeled sets of similar sounds, see
    `python -m evaluate miniature` in the source checkout.

    \b
    Example:
      byola-rq synthesize sounds
      byola-rq pretrain data.source=sounds/clips run.dir=runs/trial encoder.dim=128
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        message = f"{folder}: must be new or empty; nothing was written"
        raise ConfigError(message, code="exists", path=folder)
    from byola_rq.runtime.progress import ProgressBar
    from byola_rq.synthesis.generate import write_corpus

    with ProgressBar("synthesizing clips", clips) as bar:
        write_corpus(folder / "clips", num_clips=clips, seed=seed, on_clip=lambda _: bar.advance())
    say(folder / "clips")


def _parse_share(text: str | None) -> tuple[int, int] | None:
    """Parse `I/N`."""
    if text is None:
        return None
    number, _, of = text.partition("/")
    if not (number.isdecimal() and of.isdecimal() and 1 <= int(number) <= int(of)):
        message = f"--shard must be I/N with I from 1 to N; got {text}"
        raise ConfigError(message, code="value", key="--shard", value=text)
    return int(number), int(of)


def _check_alone(context: typer.Context, name: str, paths: list[str]) -> None:
    """Raise if `--merge` or `--verify` is given with arguments that it would ignore."""
    others = [
        f"--{other.replace('_', '-')}"
        for other in context.params
        if other not in {name, "paths", "strict" if name == "merge" else name}
        and (source := context.get_parameter_source(other))
        and source.name == "COMMANDLINE"
    ]
    if others or len(paths) > 1:
        message = f"--{name} takes only DEST; got {' '.join([*paths, *others])}"
        raise ConfigError(message, code="usage", key=f"--{name}", value=[*paths, *others])


def _report(folder: Path, outcome: Any, *, strict: bool, share: str | None = None) -> None:
    """Print the amounts packed; raise if nothing was, or with `strict` if clips were rejected."""
    from byola_rq.packing.shards import PackingError

    what = f"{folder}, share {share}" if share else str(folder)
    duplicates = "" if share else f", {outcome.duplicates} duplicates"
    say(
        f"{what}: {outcome.clips} clips, {outcome.hours:.2f} hours, "
        f"{outcome.rejected} rejected{duplicates}"
    )
    if share:
        say(f"when all shares are packed: byola-rq prepare --merge {folder}")
    where = "" if share else f"; {folder / 'rejected.csv'} has the reasons"
    # One share may have no usable clip by chance.
    if outcome.clips == 0 and outcome.rejected and not share:
        raise PackingError(f"{folder}: no clip could be packed{where}", code="empty", path=folder)
    if strict and outcome.rejected:
        message = f"{what}: {outcome.rejected} clips are rejected{where}"
        raise PackingError(message, code="too-many", path=folder, value=outcome.rejected)


def _verify(folder: Path) -> None:
    """Verify the digests of a packed corpus; raise if it is damaged."""
    from byola_rq.packing.prepare import verify_corpus
    from byola_rq.packing.shards import PackingError

    num_files, damages = verify_corpus(folder)
    for damage in damages:
        say(damage)
    if damages:
        message = (
            f"{folder}: {len(damages)} of {num_files} files are damaged. Copy them again from an "
            "intact corpus, or pack again into another folder"
        )
        raise PackingError(message, code="damaged", path=folder, value=len(damages))
    say(f"{folder}: {num_files} files are intact")
