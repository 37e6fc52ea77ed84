"""`byola-rq search`."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from byola_rq.audio.encoded import printable
from byola_rq.cli.options import Model
from byola_rq.errors import ConfigError
from byola_rq.model.builtin import NAME

if TYPE_CHECKING:
    from torch import Tensor

    from byola_rq.embed.embedder import Embedder
    from byola_rq.explore.collection import Collection


Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps.")]
Workers = Annotated[int, typer.Option(min=1, help="Decoding threads.")]
Embeddings = Annotated[
    Path | None,
    typer.Option(
        "--out", "-o", help="Where to keep new embeddings.  [default: the user's cache folder]"
    ),
]


def search(
    query: Annotated[
        Path, typer.Argument(help="Audio file; with --duplicates the folder to look through.")
    ],
    source: Annotated[
        Path | None, typer.Argument(help="Folder of sound, or of what `byola-rq embed` wrote.")
    ] = None,
    *,
    k: Annotated[int, typer.Option("-k", min=1, help="Number of clips to list.")] = 10,
    frames: Annotated[
        bool, typer.Option("--frames", help="Look for the best moment within each clip.")
    ] = False,
    duplicates: Annotated[
        bool, typer.Option("--duplicates", help="List pairs of clips that are nearly the same.")
    ] = False,
    model: Model = NAME,
    device: Device = "auto",
    workers: Workers = 2,
    out: Embeddings = None,
) -> None:
    """List the clips of a folder that sound most like a query.

    Similarity is the cosine between embeddings, each dimension standardized over the folder: 1 is
    the same sound, 0 what two sounds of the folder have on average. A folder that is not embedded
    yet is embedded first; asked again, only the question takes time. With --frames, second is
    where in the clip the stretch most like the query begins.

    \b
    Examples:
      byola-rq search dog.wav /data/my_sounds
      byola-rq search dog.wav /data/long_recordings --frames -k 20
      byola-rq search /data/my_sounds --duplicates
      byola-rq embed /data/my_sounds -o embeddings/ && byola-rq search dog.wav embeddings/
    """
    if duplicates != (source is None) or (duplicates and frames):
        message = "search takes QUERY and SOURCE, or a folder and --duplicates without --frames"
        raise ConfigError(message, code="usage", key="--duplicates")
    from byola_rq.embed.embedder import load
    from byola_rq.explore.collection import open_collection
    from byola_rq.runtime.device import choose_device
    from byola_rq.runtime.memory import keep_freed_memory

    keep_freed_memory()
    embedder = load(model, choose_device(device, key="--device"))
    sought = query if source is None else source
    if source is not None:
        wanted = _embed_query(query, embedder, frames=frames)  # before work that takes long
    collection = open_collection(sought, embedder, frames=frames, out=out, num_workers=workers)
    if source is None:
        lines = _list_duplicates(collection)
    else:
        lines = _list_found(wanted, collection, embedder, k=k, frames=frames)
    for line in lines:
        print(printable(line))


def _embed_query(query: Path, embedder: "Embedder", *, frames: bool) -> "Tensor":
    """Embedding `(D,)`, or frame embeddings `(T', D)`, on the CPU."""
    if not frames:
        return embedder.embed_files([query])[0]
    from byola_rq.audio.io import read_audio

    waveform = read_audio(query, embedder.sample_rate)
    embedder.clips.refuse_short(len(waveform), query)
    return embedder.frames(waveform, embedder.sample_rate)[0][0].cpu()


def _list_found(
    query: "Tensor", collection: "Collection", embedder: "Embedder", *, k: int, frames: bool
) -> Iterator[str]:
    from byola_rq.explore.search import find_clips, find_moments

    if frames:
        seconds = embedder.frame_seconds(2).diff().item()
        found = find_moments(query, collection, k, frame_seconds=seconds)
        yield "similarity    second  file"
    else:
        found = find_clips(query, collection, k)
        yield "similarity  file"
    for each in found:
        second = f"{each.second:8.2f}  " if frames else ""
        yield f"{each.similarity:10.3f}  {second}{each.path}"


def _list_duplicates(collection: "Collection") -> Iterator[str]:
    from byola_rq.explore.search import find_duplicates

    pairs, threshold = find_duplicates(collection)
    yield f"{len(pairs)} pairs of {len(collection)} clips are {threshold:.4f} or more alike"
    for pair in pairs:
        first, second = collection.paths[pair.first], collection.paths[pair.second]
        yield f"{pair.similarity:10.4f}  {first}  {second}"
