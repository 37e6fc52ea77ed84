"""Commands `byola-rq search`, `map` and `classify`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from byola_rq.cli.options import Device, Model, Workers, this_command
from byola_rq.errors import ConfigError
from byola_rq.model.builtin import NAME
from byola_rq.runtime.outputs import check_output
from byola_rq.runtime.terminal import say

if TYPE_CHECKING:
    from byola_rq.embed.embedder import Embedder

Source = Annotated[
    Path, typer.Argument(help="Folder of sounds, or output folder of `byola-rq embed`.")
]
Embeddings = Annotated[
    Path | None,
    typer.Option(
        "--out", "-o", help="Where to keep new embeddings.  [default: the user's cache folder]"
    ),
]
# `-o` names what the command writes.
KeptEmbeddings = Annotated[
    Path | None, typer.Option(help="Where to keep new embeddings.  [default: the cache]")
]


def search(
    query: Annotated[
        Path, typer.Argument(help="Audio file; with --duplicates the folder to search.")
    ],
    source: Annotated[
        Path | None, typer.Argument(help="Folder of sounds, or output folder of `byola-rq embed`.")
    ] = None,
    *,
    k: Annotated[int, typer.Option("-k", min=1, help="Number of clips to list.")] = 10,
    frames: Annotated[
        bool, typer.Option("--frames", help="Find the best moment within each clip.")
    ] = False,
    duplicates: Annotated[
        bool, typer.Option("--duplicates", help="List pairs of clips that are nearly the same.")
    ] = False,
    html: Annotated[
        Path | None, typer.Option(help="Also write a page that plays the clips.", metavar="PAGE")
    ] = None,
    model: Model = NAME,
    device: Device = "auto",
    workers: Workers = 2,
    out: Embeddings = None,
) -> None:
    """List the clips of a folder that sound most like a query.

    Similarity is the cosine between embeddings, each dimension standardized over the folder: 1 for
    the same sound, 0 on average. A new folder is embedded first; later searches reuse its
    embeddings. With --frames, `second` is the start of the part most similar to the query.

    \b
    Examples:
      byola-rq search dog.wav /data/my_sounds
      byola-rq search dog.wav /data/long_recordings --frames -k 20 --html found.html
      byola-rq search /data/my_sounds --duplicates
      byola-rq embed /data/my_sounds -o embeddings/ && byola-rq search dog.wav embeddings/
    """
    if duplicates != (source is None) or (duplicates and (frames or html)):
        message = "search takes QUERY and SOURCE, or only a folder and --duplicates"
        raise ConfigError(message, code="usage", key="--duplicates")
    if html is not None:
        check_output(html, ".html", "--html")
    from byola_rq.explore.build import make_found_page, search_folder
    from byola_rq.explore.collection import open_collection
    from byola_rq.explore.search import find_duplicates

    embedder = _load(model, device)
    if source is None:
        collection = open_collection(query, embedder, out=out, num_workers=workers)
        pairs, threshold = find_duplicates(collection)
        say(f"{len(pairs)} pairs of {len(collection)} clips are {threshold:.4f} or more alike")
        for first, second, similarity in pairs:
            paths = f"{collection.paths[first]}  {collection.paths[second]}"
            say(f"{similarity:10.4f}  {paths}")
        return
    found = search_folder(query, source, embedder, k=k, frames=frames, out=out, num_workers=workers)
    say("similarity    second  file" if frames else "similarity  file")
    for path, begin, similarity in found.clips:
        where = f"{begin:8.2f}  " if frames else ""
        say(f"{similarity:10.3f}  {where}{path}")
    if html is not None:
        command = this_command()
        say(make_found_page(query, found, embedder, html, frames=frames, command=command))


def map_(
    folder: Source,
    *,
    page: Annotated[Path, typer.Option("--page", "-o", help="The page to write, .html.")],
    labels: Annotated[
        Path | None, typer.Option(help="Labels to color by: a csv with file_name,label.")
    ] = None,
    limit: Annotated[
        int, typer.Option(min=1, help="Maximum number of clips, drawn at random.")
    ] = 2000,
    method: Annotated[
        Literal["auto", "umap", "tsne", "pca"],
        typer.Option(help="auto: umap if installed, else tsne, for many clips pca."),
    ] = "auto",
    megabytes: Annotated[
        float, typer.Option(min=1, help="Size of the page; excerpts are as long as it allows.")
    ] = 30.0,
    seed: Annotated[int, typer.Option(min=0, help="Seed of all random draws.")] = 0,
    model: Model = NAME,
    device: Device = "auto",
    workers: Workers = 2,
    out: KeptEmbeddings = None,
) -> None:
    """Write a page with a map of a folder of sounds.

    Similar sounds are close together. Hovering shows a spectrogram, a click plays an excerpt and
    lists the nearest clips; colors show labels, folders or clusters. The page is one file that
    works offline.

    \b
    Examples:
      byola-rq map /data/my_sounds -o map.html
      byola-rq map /data/my_sounds -o map.html --labels /data/my_sounds/metadata.csv --limit 5000
      byola-rq map embeddings/ -o map.html --method pca
    """
    check_output(page, ".html", "--page")
    from byola_rq.explore.build import make_map_page

    embedder = _load(model, device)
    say(
        make_map_page(
            folder,
            page,
            embedder,
            labels=labels,
            limit=limit,
            method=method,
            megabytes=megabytes,
            seed=seed,
            out=out,
            num_workers=workers,
            command=this_command(),
        )
    )


def classify(
    labelled: Annotated[
        Path,
        typer.Argument(
            help="A csv with file_name,label, and group if clips were cut from one recording; or a "
            "classifier written by --save."
        ),
    ],
    source: Source,
    *,
    predictions: Annotated[Path, typer.Option("--predictions", "-o", help="csv to write.")],
    save: Annotated[
        Path | None, typer.Option(help="Also write the classifier, .safetensors.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the folds.")] = 0,
    model: Model = NAME,
    device: Device = "auto",
    workers: Workers = 2,
    out: KeptEmbeddings = None,
) -> None:
    """Classify a folder of sounds from a few labeled examples.

    Logistic regression on frozen embeddings; cross-validation chooses its regularization and the
    calibration of its probabilities, and estimates its accuracy. The csv lists the least certain
    clips first: label these next.

    \b
    Examples:
      byola-rq classify labels.csv /data/my_sounds -o predictions.csv
      byola-rq classify labels.csv /data/my_sounds -o predictions.csv --save birds.safetensors
      byola-rq classify birds.safetensors /data/other_sounds -o predictions.csv
    """
    from byola_rq.explore.build import classify_folder

    embedder = _load(model, device)
    for line in classify_folder(
        labelled,
        source,
        predictions,
        embedder,
        save=save,
        seed=seed,
        out=out,
        num_workers=workers,
    ):
        say(line)


def _load(model: str, device: str) -> "Embedder":
    from byola_rq.embed.embedder import load
    from byola_rq.runtime.device import choose_device
    from byola_rq.runtime.memory import keep_freed_memory

    keep_freed_memory()
    return load(model, choose_device(device, key="--device"))
