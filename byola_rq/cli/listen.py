"""`byola-rq views` and `listen`."""

from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from byola_rq.cli.options import Overrides, load_config


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
    loaded = load_config(config)
    from byola_rq.listen.preview import draw_views

    draw_views(loaded, clip, picture)
    print(picture)


class SpreadBins(TyperCommand):
    """`--bins 2 5 8` is `--bins 2 --bins 5 --bins 8`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Spread what follows `--bins`, then parse."""
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
    from byola_rq.listen.build import make_page

    for line in make_page(
        clip, page, start=start, seed=seed, bins=bins, model_file=model, sounds=wav
    ):
        print(line)
