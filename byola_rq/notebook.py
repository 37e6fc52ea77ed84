"""IPython helpers of the notebooks: pictures, players, sliders."""

import atexit
import inspect
import io
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from torch import Tensor

from byola_rq.audio.io import SAMPLE_RATE, read_audio
from byola_rq.config import default_config_path, load_config
from byola_rq.embed.neighbors import find_nearest
from byola_rq.embed.scaling import FloatArray
from byola_rq.errors import package_needed
from byola_rq.listen.build import listen_to_clip
from byola_rq.listen.clip_demo import Listening, common_gain
from byola_rq.plots.spectrograms import draw_views
from byola_rq.runtime.terminal import say
from byola_rq.synthesis.generate import make_clip, write_wav


def show(figure: Any) -> None:
    """Show a figure below the cell."""
    data = io.BytesIO()
    figure.savefig(data, format="png", dpi=110)
    display = _import_display()
    display.display(display.Image(data.getvalue()))


def play(sounds: Mapping[str, Tensor], sample_rate: int, *, gain: float | None = None) -> None:
    """Show a player for each waveform, all with one gain, which is printed.

    Args:
        sounds: Waveforms `(S,)` by title.
        sample_rate: Sample rate in Hz.
        gain: Common gain; by default the one that brings the loudest sample to -1 dB.
    """
    if gain is None:
        gain = common_gain(sounds.values()) if sounds else 1.0
    display = _import_display()
    say(f"gain of all players: {gain:.3g}")
    for title, waveform in sounds.items():
        samples = (waveform * gain).clamp(-1, 1).numpy()
        # Otherwise every player would be normalized to full scale separately.
        audio = display.Audio(samples, rate=sample_rate, normalize=False)
        display.display(display.HTML(f"<b>{escape(title)}</b>"), audio)


def play_files(clips: Mapping[str, Path], sample_rate: int = SAMPLE_RATE) -> None:
    """Show a player for each file, by title, all with one gain, which is printed."""
    play({title: read_audio(path, sample_rate) for title, path in clips.items()}, sample_rate)


def pick_clip(path: str, kind: str, seed: int = 0) -> Path:
    """Return the file at `path`, or if empty, a synthesized clip of a kind, 3 s long."""
    if path:
        return Path(path)
    folder = tempfile.mkdtemp(prefix="byola_rq-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    clip = Path(folder) / f"{kind}.wav"
    write_wav(clip, make_clip(kind, seed=seed, seconds=3.0))
    return clip


def explore_views(clip: Path, *, seed: int) -> None:
    """Show and play two views of a clip, with sliders; see `hear_views`."""

    def views(
        num_bins: int = 5,
        p: float = 1.0,
        bins: str = "random",
        values: str = "random",
        seed: int = seed,
    ) -> None:
        hear_views(clip, num_bins=num_bins, p=p, bins=bins, values=values, seed=seed)

    explore(
        views,
        num_bins=(1, 60),
        p=(0.0, 1.0, 0.1),
        bins=["random", "uniform"],
        values=["random", "midpoint"],
        seed=(0, max(100, seed)),
    )


def hear_views(
    clip: Path, *, num_bins: int, p: float, bins: str, values: str, seed: int
) -> Listening:
    """Show and play a segment, its inversion, and the two views of training.

    Args:
        clip: Audio file.
        num_bins: Number of bins `K`.
        p: Probability that a view is quantized.
        bins: Rule for edges: random or uniform.
        values: Rule for reproduction values: random or midpoint.
        seed: Seed of all random numbers.
    """
    options = {"num_bins": num_bins, "p": p, "bins": bins, "values": values}
    overrides = [f"views.randomized_quantization.{key}={value}" for key, value in options.items()]
    config = load_config(default_config_path(), [*overrides, f"run.seed={seed}"])
    listening = listen_to_clip(config, clip, bins=())
    chosen = (listening.original, listening.inversion, *listening.views)
    show(
        draw_views({sound.title: sound.log_mel for sound in chosen}, listening.frontend, columns=2)
    )
    rate = listening.frontend.sample_rate
    play({sound.title: sound.waveform for sound in chosen}, rate, gain=listening.gain)
    return listening


def hear_neighbors(embeddings: FloatArray, clips: Sequence[Path], row: int, num: int = 5) -> None:
    """Play the clip of a row, then its nearest neighbors, with their cosines."""
    titles = {f"the clip itself: {clips[row].name}": clips[row]}
    for other, cosine in find_nearest(embeddings, row, num):
        titles[f"{cosine:.3f}  {clips[other].name}"] = clips[other]
    play_files(titles)


def explore(function: Callable[..., object], **controls: Any) -> Any:
    """Call a function now, and again whenever one of its controls changes.

    Args:
        function: Function with a default for every control.
        controls: Controls as for `ipywidgets.interact`: (lowest, highest) or (lowest, highest,
            step) is a slider, a list a menu.

    Returns:
        The controls, as an `ipywidgets.interactive`; None without ipywidgets: then the function is
        called once, with its defaults.
    """
    try:
        from ipywidgets import interactive
    except ImportError:
        say(f"no sliders: `pip install ipywidgets`; using {_defaults(function)}")
        function()
        return None
    widget = interactive(function, **controls)
    _import_display().display(widget)
    return widget


def _defaults(function: Callable[..., object]) -> str:
    parameters = inspect.signature(function).parameters.values()
    return ", ".join(f"{each.name} = {each.default!r}" for each in parameters)


def _import_display() -> Any:
    with package_needed("a player", "IPython", extra="notebooks"):
        from IPython import display
    return display
