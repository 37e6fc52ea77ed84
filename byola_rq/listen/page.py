"""One self-contained HTML page of everything there is to hear of a segment."""

import base64
import io
from collections.abc import Sequence
from html import escape
from importlib.resources import files
from pathlib import Path
from string import Template

import soundfile
from torch import Tensor

from byola_rq.audio.mel import mel_centres
from byola_rq.errors import ConfigError
from byola_rq.listen.augmented import CropDrawn, Sound, Step
from byola_rq.listen.captions import (
    NAMES,
    count_bins,
    describe_box,
    describe_distance,
    describe_facts,
    describe_step,
    list_notes,
)
from byola_rq.listen.clip_demo import Listening
from byola_rq.listen.svg import (
    bins_svg,
    color_scale_svg,
    similarity_svg,
    spectrogram_svg,
)
from byola_rq.plots.spectrograms import color_limits
from byola_rq.runtime.files import replace_file

_SIMILARITY = """<section>
<div class="text"><h2>What the encoder makes of it</h2>
<p>Cosine between embeddings. <span class="key views">&#9670;</span> View 1 with view 2: what
training pulls together. View 1 with a view of another sound:
<span class="key beside">&#9679;</span> of the files beside the clip ($beside), and
<span class="key synthesized">&#9679;</span> of synthesized sounds ($synthesized).</p>
<p>An encoder has learned something where the diamond stands clear of the dots, and clearer than in
its untrained twin.</p></div>
<div class="grid">$blocks</div>
</section>"""


def write_page(listening: Listening, page: Path, *, command: str) -> int:
    """Write the page; nothing on it is loaded from elsewhere.

    Args:
        listening: What to show.
        page: The file; its folder is made where missing.
        command: That makes the same page again.

    Returns:
        The page's size in bytes.

    Raises:
        ConfigError: If it cannot be written.
        MissingPackageError: If matplotlib is not installed.
    """
    text = render_page(listening, command=command)
    try:
        page.parent.mkdir(parents=True, exist_ok=True)
        replace_file(page, text)
    except OSError as error:
        reason = error.strerror or error
        raise ConfigError(f"{page}: the page cannot be written there ({reason})") from error
    return len(text.encode())


def render_page(listening: Listening, *, command: str) -> str:
    """The page as text; see `write_page`."""
    template = Template((files("byola_rq.listen") / "page.html").read_text(encoding="utf-8"))
    return _Page(listening).fill(template, command)


class _Page:
    """The parts of one page."""

    def __init__(self, listening: Listening) -> None:
        self.listening = listening
        self.limits = color_limits([listening.original.log_mel])
        centres = mel_centres(
            listening.frontend.n_mels, listening.frontend.f_min, listening.frontend.f_max
        )
        self.band_hertz = centres[listening.band]

    def fill(self, template: Template, command: str) -> str:
        listening = self.listening
        quantized = "".join(self.figure(sound) for sound in listening.quantized)
        return template.substitute(
            title=escape(listening.segment.name),
            facts=_list_facts(listening),
            notes="".join(f"<li>{escape(note)}</li>" for note in list_notes(listening)),
            scale=color_scale_svg(self.limits),
            segment=self.figure(listening.original) + self.figure(listening.inversion),
            crop=self.canvas(listening.crop) + self.figure(listening.crop),
            band=f"{self.band_hertz:,.0f}",
            quantized=quantized,
            mixup=self.figure(listening.mixed_in) + self.figure(listening.mixup),
            chain=escape(", then ".join(NAMES[name] for name in listening.chain)),
            views="".join(self.view(view) for view in listening.views),
            similarity=self._similarity(),
            command=escape(command),
            replay=escape(self._replay()),
        )

    def figure(self, sound: Sound, extra: str = "") -> str:
        """A spectrogram beside its player, with what was drawn."""
        listening = self.listening
        picture = spectrogram_svg(
            sound.log_mel, listening.frontend, self.limits, label=f"{sound.title}: spectrogram"
        )
        waveform = sound.waveform * listening.gain
        audio = _wav_uri(waveform, listening.frontend.sample_rate)
        bins = "".join(
            f'<p class="what">the band at {self.band_hertz:,.0f} Hz</p>'
            + bins_svg(step.band, label=f"{sound.title}: step curve of one band")
            for step in sound.steps
            if step.band is not None
        )
        return (
            f'<figure class="sound" id="{escape(sound.name)}" tabindex="0">'
            f"<figcaption><h3>{escape(sound.title)}</h3>{self._distance(sound)}</figcaption>"
            f"{picture}"
            f'<audio controls preload="metadata" src="{audio}" '
            f'aria-label="{escape(sound.title)}"></audio>'
            f"{bins}{extra}{_drawn(sound.steps)}</figure>"
        )

    def _distance(self, sound: Sound) -> str:
        """How far it is from the original, to the ear and to the model."""
        parts = []
        if sound.distance is not None:
            parts.append(f"moved by {describe_distance(sound.distance)}")
        for similarity in self.listening.similarities[:1]:
            if sound.name in similarity.to_original and sound.name != "original":
                parts.append(f"cosine {similarity.to_original[sound.name]:.3f}")
        title = "mean absolute difference from the original, and cosine with it"
        text = ", ".join(parts)
        return f'<span class="distance" title="{title}">{text}</span>' if parts else ""

    def canvas(self, sound: Sound) -> str:
        """The canvas of a crop with its box."""
        return "".join(
            f"<figure><figcaption><h3>The box on the canvas</h3></figcaption>"
            f"{self._canvas_picture(sound, step.crop)}"
            f'<p class="drawn">{escape(describe_box(step.crop))}</p></figure>'
            for step in sound.steps
            if step.crop is not None
        )

    def view(self, view: Sound) -> str:
        """A view of the whole chain, with its crop's box."""
        canvases = "".join(
            f'<p class="what">its box on the canvas</p>{self._canvas_picture(view, step.crop)}'
            for step in view.steps
            if step.crop is not None
        )
        return self.figure(view, canvases)

    def _canvas_picture(self, sound: Sound, crop: CropDrawn) -> str:
        return spectrogram_svg(
            sound.log_mel,
            self.listening.frontend,
            self.limits,
            label=f"{sound.title}: the canvas and the box that is cut from it",
            crop=crop,
        )

    def _similarity(self) -> str:
        listening = self.listening
        if not listening.similarities:
            return ""
        cosines = [
            cosine
            for each in listening.similarities
            for cosine in (each.views, *each.to_others.values())
        ]
        low = min(cosines) - 0.05 * (1 - min(cosines))
        blocks = []
        for each in listening.similarities:
            others = list(each.to_others.values())
            blocks.append(
                f"<figure><figcaption><h3>{escape(each.encoder)}</h3></figcaption>"
                f"{similarity_svg(each, listening.beside, low, label=f'cosines of {each.encoder}')}"
                f'<p class="drawn">two views of this segment: {each.views:.3f}; with other sounds: '
                f"{sum(others) / len(others):.3f} ({min(others):.3f} to {max(others):.3f})</p>"
                f"</figure>"
            )
        beside = ", ".join(listening.beside) or "none was there"
        synthesized = ", ".join(
            name.removeprefix("synthesized ")
            for name in listening.similarities[0].to_others
            if name not in listening.beside
        )
        return Template(_SIMILARITY).substitute(
            beside=escape(beside), synthesized=escape(synthesized), blocks="".join(blocks)
        )

    def _replay(self) -> str:
        sound = self.listening.quantized[0] if self.listening.quantized else None
        if sound is None:
            return ""
        return (
            "from byola_rq import RandomizedQuantization\n"
            f"quantize = RandomizedQuantization(num_bins={count_bins(sound)})\n"
            f"quantize(standardized_log_mel, key=torch.tensor([{sound.steps[0].key}]))"
        )


def _wav_uri(waveform: Tensor, sample_rate: int) -> str:
    data = io.BytesIO()
    soundfile.write(data, waveform.numpy(), sample_rate, format="WAV", subtype="PCM_16")
    return "data:audio/wav;base64," + base64.b64encode(data.getvalue()).decode()


def _list_facts(listening: Listening) -> str:
    return "".join(
        f"<div><dt>{escape(name)}</dt><dd>{escape(text)}</dd></div>"
        for name, text in describe_facts(listening).items()
    )


def _drawn(steps: Sequence[Step]) -> str:
    return "".join(
        f'<p class="drawn">{escape(describe_step(step))}<br><code>key {step.key}</code></p>'
        for step in steps
    )
