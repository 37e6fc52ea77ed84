"""Self-contained HTML page with the sounds of a segment."""

import base64
import io
from importlib.resources import files
from itertools import chain
from pathlib import Path

import soundfile
from jinja2 import Environment, StrictUndefined
from torch import Tensor

from byola_rq.audio.mel import mel_centers
from byola_rq.errors import ConfigError
from byola_rq.listen.captions import (
    NAMES,
    count_bins,
    describe_distance,
    describe_facts,
    describe_step,
    list_notes,
)
from byola_rq.listen.clip_demo import Listening
from byola_rq.listen.svg import bins_svg, color_scale_svg, similarity_svg, spectrogram_svg
from byola_rq.plots import style
from byola_rq.plots.spectrograms import color_limits
from byola_rq.runtime.files import replace_file
from byola_rq.text.shown import printable


def write_page(listening: Listening, page: Path, *, command: str) -> int:
    """Write the page as one file that loads nothing from elsewhere.

    Args:
        listening: Sounds to show.
        page: File to write; its folder is created if missing.
        command: Command that reproduces the page, printed on it.

    Returns:
        Size of the page in bytes.

    Raises:
        ConfigError: If it cannot be written.
        MissingPackageError: If matplotlib is not installed.
    """
    return save_page(page, render_page(listening, command=command))


def save_page(page: Path, text: str) -> int:
    """Write a page and return its size in bytes; its folder is created if missing.

    Raises:
        ConfigError: If it cannot be written.
    """
    content = printable(text).encode()
    try:
        page.parent.mkdir(parents=True, exist_ok=True)
        replace_file(page, content)
    except OSError as error:
        reason = error.strerror or error
        message = f"{page}: the page cannot be written ({reason})"
        raise ConfigError(message, code="unwritable", path=page) from error
    return len(content)


def render_page(listening: Listening, *, command: str) -> str:
    """Render the page as text; see `write_page`."""
    # Autoescape covers all inserted text; only the pictures are trusted, as `Markup`.
    page = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    ).from_string((files("byola_rq.listen") / "page.html").read_text(encoding="utf-8"))
    frontend = listening.frontend
    hertz = mel_centers(frontend.n_mels, frontend.f_min, frontend.f_max)[listening.band]
    to_others = [each.to_others for each in listening.similarities]
    cosines = [cosine for each in to_others for cosine in each.values()]
    lowest = min([each.views for each in listening.similarities] + cosines, default=0.0)
    return page.render(
        listening=listening,
        command=command,
        style=style,
        facts=describe_facts(listening),
        notes=list_notes(listening),
        chain=[NAMES[name] for name in listening.chain],
        band=f"{hertz:,.0f} Hz",
        synthesized=[
            name.removeprefix("synthesized ")
            for name in dict.fromkeys(chain(*to_others))
            if name not in listening.beside
        ],
        limits=color_limits([listening.original.log_mel]),
        lowest=lowest - 0.05 * (1 - lowest),
        spectrogram_svg=spectrogram_svg,
        bins_svg=bins_svg,
        similarity_svg=similarity_svg,
        color_scale_svg=color_scale_svg,
        wav_uri=wav_uri,
        describe_distance=describe_distance,
        describe_step=describe_step,
        count_bins=count_bins,
    )


def wav_uri(waveform: Tensor, sample_rate: int) -> str:
    """Encode a waveform `(S,)` as a 16-bit wav file in a data URI."""
    data = io.BytesIO()
    soundfile.write(data, waveform.numpy(), sample_rate, format="WAV", subtype="PCM_16")
    return "data:audio/wav;base64," + base64.b64encode(data.getvalue()).decode()
