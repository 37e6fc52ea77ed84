"""Commands `byola-rq views` and `listen`."""

from pathlib import Path
from typing import Annotated

import typer

from byola_rq.cli.options import Model, Overrides, load_config
from byola_rq.errors import ConfigError
from byola_rq.model.builtin import NAME
from byola_rq.runtime.terminal import say


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
    from byola_rq.listen.preview import draw_preview

    draw_preview(loaded, clip, picture)
    say(picture)


def listen(
    clip: Annotated[Path, typer.Argument(help="Audio file.")],
    *,
    page: Annotated[Path, typer.Option("--out", "-o", help="The page to write, .html.")],
    start: Annotated[
        float | None,
        typer.Option(help="Start of the segment in seconds; the loudest part by default."),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of all random draws.")] = 42,
    bins: Annotated[
        str, typer.Option(metavar="K,K,...", help="Numbers of quantization bins.")
    ] = "2,5,8,15,30",
    model: Model = NAME,
    wav: Annotated[Path | None, typer.Option(help="Also write the sounds to this folder.")] = None,
) -> None:
    """Write a page to listen to the augmentations of a clip.

    It shows and plays a segment as recorded; converted to a log-mel spectrogram and back; cropped;
    quantized with each K; mixed; and as two training views. All sounds have the same gain, and each
    shows its random key. The page is one file that works offline. It ends with cosine similarities
    between the embeddings of the two views and of other sounds, also for an untrained encoder.

    \b
    Examples:
      byola-rq listen dog.wav -o dog.html
      byola-rq listen dog.wav -o dog.html --start 1.5 --seed 7 --bins 2,5,100
      byola-rq listen dog.wav -o dog.html --model runs/a/encoder.safetensors --wav sounds/
    """
    numbers = _parse_bins(bins)
    from byola_rq.listen.build import make_page

    for line in make_page(
        clip, page, start=start, seed=seed, bins=numbers, model=model, sounds=wav
    ):
        say(line)


def _parse_bins(text: str) -> list[int]:
    try:
        return [int(each) for each in text.split(",")]
    except ValueError:
        message = f"--bins must be whole numbers joined by commas, such as 2,5,100; got {text!r}"
        raise ConfigError(message, code="value", key="--bins", value=text) from None
