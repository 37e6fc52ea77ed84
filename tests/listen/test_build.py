"""The listening page: right sounds, right pictures, in a real browser; and every bad input."""

import re
import shlex
import sys
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from typer.testing import CliRunner

from byola_rq import Embedder, RandomizedQuantization
from byola_rq.audio.frontend import LogMelSpectrogram, Statistics
from byola_rq.audio.io import read_audio
from byola_rq.augment.views import Views
from byola_rq.cli.app import main
from byola_rq.config import Config, default_config_path, load_config
from byola_rq.errors import AudioError, ConfigError, MissingPackageError
from byola_rq.listen.build import listen_to_clip
from byola_rq.listen.clip_demo import MAX_GAIN, PEAK, Listening
from byola_rq.listen.page import render_page, write_page
from byola_rq.listen.segments import read_segment
from byola_rq.model.builtin import SHA256, VERSION
from byola_rq.runtime.rng import sample_keys
from byola_rq.synthesis.generate import make_clip, write_wav
from tests.browser import Browser
from tests.refusal import refused

RATE = 16000


@pytest.fixture(scope="module")
def config() -> Config:
    return load_config(default_config_path())


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clip with nothing beside it."""
    path = tmp_path_factory.mktemp("clip") / "a <b> & 'c'.wav"
    write_wav(path, make_clip("voice-en", seed=1, seconds=2.5))
    return path


@pytest.fixture(scope="module")
def listening(config: Config, clip: Path) -> Listening:
    return listen_to_clip(config, clip)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "encoder.safetensors"
    Embedder.untrained(dim=32, seed=7).with_statistics(Statistics(-6.0, 4.0)).save(path)
    return path


def run(*arguments: object) -> tuple[int, str, str]:
    """Status, stdout and stderr of the command."""
    import io
    from contextlib import redirect_stderr, redirect_stdout

    out, err = io.StringIO(), io.StringIO()
    status = 0
    with redirect_stdout(out), redirect_stderr(err):
        try:
            main([str(each) for each in arguments])
        except SystemExit as leaving:
            status = int(leaving.code or 0)
    return status, out.getvalue(), err.getvalue()


# What is heard


def test_the_views_are_those_of_training(config: Config, listening: Listening) -> None:
    views = Views(config.views.chain(), post_norm=False)
    standardized = listening.statistics.standardize(listening.original.log_mel)[None, None]
    key = sample_keys(config.run.seed, 0, torch.tensor([0]))
    for expected, view in zip(views(standardized, key), listening.views, strict=True):
        in_nat = expected[0, 0] * listening.statistics.std + listening.statistics.mean
        torch.testing.assert_close(view.log_mel, in_nat)


def test_what_was_drawn_gives_the_view_again(listening: Listening) -> None:
    (crop,) = listening.crop.steps
    (first, second) = listening.views[0].steps
    assert first.key == crop.key  # alone, an augmentation has view 1's key
    assert second.key == listening.quantized[0].steps[0].key
    standardized = listening.statistics.standardize(listening.original.log_mel)[None, None]
    for sound in listening.quantized:
        (step,) = sound.steps
        assert step.band is not None
        num_bins = len(step.band.values)
        quantize = RandomizedQuantization(num_bins)
        again = quantize(standardized, torch.tensor([step.key]))[0, 0]
        in_nat = again * listening.statistics.std + listening.statistics.mean
        torch.testing.assert_close(sound.log_mel, in_nat)
        # The step curve of the band that is shown gives what the band became.
        index = torch.searchsorted(step.band.edges, step.band.before, right=True)
        torch.testing.assert_close(step.band.values[index], step.band.after)
        torch.testing.assert_close(step.band.after, sound.log_mel[listening.band])


def test_every_sound_has_the_spectrogram_of_its_picture(listening: Listening) -> None:
    """A quantized spectrogram is no sound's, but no other picture is as near to its sound."""
    for sound in listening.sounds:
        again = listening.frontend(sound.waveform)
        # Where it is loud: far below, one band's leakage fills what its neighbors left empty.
        is_loud = sound.log_mel > sound.log_mel.max() - 5
        errors = {
            other.name: float((again - other.log_mel)[is_loud].abs().mean())
            for other in listening.sounds
        }
        assert min(errors, key=errors.__getitem__) == sound.name
        if sound.name in ("original", "inversion", "mixed-in"):
            assert errors[sound.name] < 0.05
    assert listening.inversion.distance is not None
    assert listening.inversion.distance < 0.1


def test_fewer_bins_move_further(listening: Listening) -> None:
    distances = [sound.distance or 0 for sound in listening.quantized]
    assert distances == sorted(distances, reverse=True)
    assert distances[0] > 5 * distances[-1] > 0


def test_one_gain_keeps_loudness(config: Config, tmp_path: Path) -> None:
    waveform = make_clip("event-dog_bark", seed=2, seconds=1.5)
    levels = []
    for name, factor in (("loud", 1.0), ("quiet", 0.1)):
        folder = tmp_path / name
        folder.mkdir()
        write_wav(folder / "clip.wav", waveform * factor)
        listening = listen_to_clip(config, folder / "clip.wav", start=0.0, bins=(5,))
        peak = max(float(sound.waveform.abs().max()) for sound in listening.sounds)
        assert peak * listening.gain == pytest.approx(PEAK)
        levels.append(float(listening.inversion.waveform.square().mean().sqrt()))
        original = float(listening.original.waveform.square().mean().sqrt())
        assert levels[-1] == pytest.approx(original, rel=0.1)
    assert levels[1] == pytest.approx(0.1 * levels[0], rel=0.1)


def test_mixup_takes_a_file_beside_the_clip(config: Config, clip: Path, tmp_path: Path) -> None:
    alone = listen_to_clip(config, clip, bins=())
    assert alone.mixed_in.title.startswith("synthesized")
    for name, kind in (("a", "note-brass"), ("b", "event-siren")):
        write_wav(tmp_path / f"{name}.wav", make_clip(kind, seed=0, seconds=1.5))
    (tmp_path / "broken.wav").write_bytes(b"RIFF")
    listening = listen_to_clip(config, tmp_path / "a.wav", bins=())
    assert listening.mixed_in.title == "b.wav"
    (step,) = listening.mixup.steps
    assert step.share is not None
    x, z = (
        listening.statistics.standardize(sound.log_mel)
        for sound in (listening.original, listening.mixed_in)
    )
    mixed = torch.log((1 - step.share) * x.exp() + step.share * z.exp())
    in_nat = mixed * listening.statistics.std + listening.statistics.mean
    torch.testing.assert_close(listening.mixup.log_mel, in_nat, atol=1e-4, rtol=1e-4)


def test_rivals_are_shown_as_training_makes_them(clip: Path) -> None:
    chain = "views.augmentations=[dacl, spec_augment, ssql]"
    config = load_config(default_config_path(), [chain])
    listening = listen_to_clip(config, clip, bins=())
    mixed, masked = listening.views[0].steps
    standardize = listening.statistics.standardize
    x, other = (
        standardize(each) for each in (listening.original.log_mel, listening.mixed_in.log_mel)
    )
    assert mixed.share is not None
    x = (1 - mixed.share) * x + mixed.share * other
    assert masked.masks is not None
    mean = x.mean()
    for first, end in masked.masks["bands"]:
        x[first:end] = mean
    for first, end in masked.masks["frames"]:
        x[:, first:end] = mean
    torch.testing.assert_close(
        standardize(listening.views[0].log_mel), x, atol=1e-4, rtol=0
    )  # through nat and back
    page = render_page(listening, command="")
    for words in ("share of the other sound", "masked", "not in these pictures"):
        assert words in page


def test_a_picture_of_rivals(clip: Path, tmp_path: Path) -> None:
    pictures = []
    for chain, told in (("dacl", "synthesized"), ("spec_augment, imix", "imix")):
        picture = tmp_path / f"{chain}.png"
        status, _, stderr = run("views", clip, picture, f"views.augmentations=[{chain}]")
        assert status == 0, stderr
        assert stderr.count("\n") == 1
        assert told in stderr
        pictures.append(picture.read_bytes())
    assert len(set(pictures)) == 2


def test_cosines_with_a_model(config: Config, clip: Path, model: Path) -> None:
    from byola_rq import load

    embedder = load(model)
    listening = listen_to_clip(config, clip, bins=(5,), model=embedder, model_name="<mine>")
    assert listening.statistics == embedder.statistics
    own, untrained = listening.similarities
    assert (own.encoder, untrained.encoder) == ("<mine>", "untrained")
    assert own.views != untrained.views
    embeddings = embedder.encoder(
        embedder.statistics.standardize(
            torch.stack([view.log_mel for view in listening.views])[:, None]
        )
    )
    expected = torch.nn.functional.cosine_similarity(embeddings[:1], embeddings[1:])
    assert own.views == pytest.approx(float(expected), abs=1e-5)
    assert own.to_original["original"] == pytest.approx(1, abs=1e-5)
    assert len(own.to_others) == 6
    assert all(-1 <= cosine <= 1 for cosine in own.to_others.values())
    text = render_page(listening, command="")
    assert "Similarity of embeddings" in text
    assert f"{own.views:.3f}" in text
    assert "<h3>&lt;mine&gt;</h3>" in text
    assert "<mine>" not in text


# Where it is cut


@pytest.mark.parametrize("rate", [8000, 16000, 22050, 44100, 96000])
def test_a_part_is_that_of_the_whole(tmp_path: Path, rate: int) -> None:
    rng = np.random.default_rng(rate)
    samples = rng.standard_normal((3 * rate, 2)) * 0.1
    soundfile.write(tmp_path / "clip.wav", samples, rate, subtype="FLOAT")
    whole = read_audio(tmp_path / "clip.wav", RATE)
    for start in (0.0, 0.7301, 1.9, 2.4):
        segment = read_segment(tmp_path / "clip.wav", RATE, 8000, start)
        first = round(start * RATE)
        part = whole[first : first + 8000]
        assert segment.num_channels == 2
        assert segment.clip_rate == rate
        torch.testing.assert_close(segment.waveform[: len(part)], part, atol=2e-4, rtol=0)


def test_by_default_the_loudest_place_is_heard(tmp_path: Path) -> None:
    waveform = np.zeros(10 * RATE, np.float32)
    waveform[7 * RATE : 7 * RATE + 4000] = 0.5
    write_wav(tmp_path / "clip.wav", waveform)
    segment = read_segment(tmp_path / "clip.wav", RATE, 15200)
    assert float(segment.waveform.sum()) == pytest.approx(2000, rel=1e-3)


def test_two_hours_are_not_decoded(tmp_path: Path) -> None:
    path = tmp_path / "long.flac"
    with soundfile.SoundFile(path, "w", 22050, 1, "PCM_16") as file:
        minute = np.zeros(60 * 22050, np.int16)
        minute[:22050] = np.arange(22050) % 300 * 20
        for _ in range(120):
            file.write(minute)
    tracemalloc.start()
    segment = read_segment(path, RATE, 15200, 7140.0)
    loudest = read_segment(path, RATE, 15200)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert segment.waveform.abs().max() > 0.05
    assert loudest.start_seconds < 60
    assert most < 40e6  # two hours at 16 kHz are 460 MB
    assert run("listen", path, "-o", tmp_path / "p.html", "--start", 8000) == (
        2,
        "",
        f"error: {path}: start must be at least 0 and before the end of the clip, at 7200.000 s; "
        "got 8000 s\n",
    )


# Bad and odd input


def write(path: Path, samples: Any, rate: int = RATE) -> Path:
    soundfile.write(path, samples, rate, subtype="FLOAT")
    return path


def noise(seconds: float, rate: int = RATE) -> Any:
    return np.random.default_rng(0).standard_normal(int(seconds * rate)) * 0.1


@pytest.mark.parametrize(
    ("samples", "rate", "note"),
    [
        (noise(0.3), RATE, "The clip fills only 0.300 s"),
        (noise(0.001), RATE, "The clip fills only 0.001 s"),
        (np.zeros(2 * RATE), RATE, "The segment is silent"),
        (np.full(2 * RATE, 0.25), RATE, ""),
        (np.clip(noise(2) * 30, -1, 1), RATE, "The recording is clipped: 7"),
        (noise(2) * 20, RATE, "The recording is clipped"),
        (np.stack([noise(2), noise(2)], axis=1), RATE, "The 2 channels are averaged"),
        (noise(1.5, 96000), 96000, ""),
        (noise(0.95), RATE, ""),
    ],
    ids=["short", "click", "silence", "dc", "clipped", "above full scale", "stereo", "96k", "just"],
)
def test_odd_clips_are_heard(
    config: Config, tmp_path: Path, samples: Any, rate: int, note: str
) -> None:
    path = write(tmp_path / "clip.wav", samples, rate)
    listening = listen_to_clip(config, path, bins=(2, 200))
    assert all(sound.waveform.isfinite().all() for sound in listening.sounds)
    assert all(len(sound.waveform) == 15200 for sound in listening.sounds)
    assert 0 < listening.gain <= MAX_GAIN
    text = render_page(listening, command="")
    notes = re.findall(r"<li>(.*?)</li>", text)
    assert any(note in each for each in notes) or not note
    assert "K = 200: more bins than the 96 values of a band" in "".join(notes)
    assert len(notes) == 1 + bool(note)
    assert "nan" not in re.sub(r'"data:[^"]*"', "", text)


def test_an_end_that_is_shorter_than_a_segment(config: Config, clip: Path) -> None:
    listening = listen_to_clip(config, clip, start=2.4, bins=())
    assert "The clip fills only 0.100 s" in render_page(listening, command="")


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--start", "-1"], ["start", "2.500 s", "-1 s"]),
        (["--start", "2.5"], ["start", "2.500 s", "2.5 s"]),
        (["--start", "nan"], ["start", "2.500 s", "nan s"]),
        (["--bins", "0"], ["bins", "1 to 4096", " 0"]),
        (["--bins", "5,1000000000"], ["bins", "1 to 4096", "1000000000"]),
        (["--bins", "2,x"], ["--bins", "'2,x'"]),
        (["--bins", "2,,5"], ["--bins", "'2,,5'"]),
        (["--bins", ""], ["--bins", "''"]),
        (["--model", "nowhere.safetensors"], ["error: nowhere.safetensors: "]),
        (["--seed", "99999999999"], ["run.seed", "99999999999"]),
    ],
)
def test_wrong_options_are_one_line(
    clip: Path, tmp_path: Path, options: list[str], told: list[str]
) -> None:
    status, out, err = run("listen", clip, "-o", tmp_path / "page.html", *options)
    assert (status, out) == (2, "")
    assert err.count("\n") == 1
    assert err.startswith("error: ")
    assert all(each in err for each in told), err
    assert not (tmp_path / "page.html").exists()


def test_what_cannot_be_read_or_written_is_one_line(clip: Path, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("no audio")
    for clip_path, page, wav, path in (
        (tmp_path / "none.wav", tmp_path / "p.html", None, tmp_path / "none.wav"),
        (file, tmp_path / "p.html", None, file),
        (clip, file / "page.html", None, file / "page.html"),
        (clip, tmp_path, None, tmp_path),
        (clip, tmp_path / "q.html", file / "wavs", file / "wavs"),
    ):
        options = ["--bins", 3, *(["--wav", wav] if wav else [])]
        status, _, err = run("listen", clip_path, "-o", page, *options)
        assert status == 2
        assert err.count("\n") == 1
        assert err.startswith(f"error: {path}: ")
    loud = write(tmp_path / "loud.wav", noise(1) * 1e9)
    with refused(AudioError, "too-large", loud, key="samples"):
        listen_to_clip(load_config(default_config_path()), loud)
    with refused(ConfigError, "value", key="bins", value=5000):
        listen_to_clip(load_config(default_config_path()), clip, bins=(2, 5000))


def test_without_matplotlib(listening: Listening, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(MissingPackageError, match=r"\.\[plots\]"):
        render_page(listening, command="")


# The page


def test_the_page_says_how_to_make_it_again(clip: Path, tmp_path: Path) -> None:
    from html import unescape

    first, second = tmp_path / "first.html", tmp_path / "second.html"
    status, out, err = run("listen", clip, "-o", first, "--bins", "2,9", "--seed", 5)
    assert (status, err) == (0, "")
    assert re.fullmatch(rf"{re.escape(str(first))} \(0\.\d\d MB, [\d.]+ s\)\n", out)
    text = first.read_text()
    (command,) = re.findall(r"byola-rq listen [^<]*", text)
    words = shlex.split(unescape(command))
    assert words[:2] == ["byola-rq", "listen"]
    assert words[-4:] == ["--bins", "2,9", "--model", "builtin"]
    assert VERSION in text
    assert SHA256[:12] in text
    words[words.index(str(first))] = str(second)
    assert run(*words[1:])[0] == 0
    assert second.read_text() == text.replace(str(first), str(second))
    # Another seed: the same segment, other views.
    run("listen", clip, "-o", second, "--bins", "2,9", "--seed", 6)
    (other,) = re.findall(r"byola-rq listen [^<]*", second.read_text())
    assert re.findall("--start [^ ]+", other) == re.findall("--start [^ ]+", command)
    assert set(re.findall(r"key (-?\d+)", text)).isdisjoint(
        re.findall(r"key (-?\d+)", second.read_text())
    )


def test_plain_files(clip: Path, tmp_path: Path) -> None:
    status, out, _ = run(
        "listen", clip, "-o", tmp_path / "p.html", "--bins", 4, "--wav", tmp_path / "wavs"
    )
    assert status == 0
    names = [path.name for path in sorted((tmp_path / "wavs").glob("*.wav"))]
    assert f"{len(names)} wav files, gain " in out
    assert names == [
        "01-original.wav",
        "02-inversion.wav",
        "03-crop.wav",
        "04-quantized-4.wav",
        "05-mixed-in.wav",
        "06-mixup.wav",
        "07-view-1.wav",
        "08-view-2.wav",
    ]
    samples, rate = soundfile.read(tmp_path / "wavs" / names[0])
    assert (len(samples), rate) == (15200, RATE)
    table = (tmp_path / "wavs" / "sounds.csv").read_text().splitlines()
    assert table[0] == "file,title,key,distance_nat,gain"
    assert len(table) == 1 + len(names)
    gains = {line.rpartition(",")[2] for line in table[1:]}
    assert len(gains) == 1
    original = read_segment(clip, RATE, 15200).waveform.numpy() * float(gains.pop())
    np.testing.assert_allclose(samples, original, atol=1e-4)


def test_help_teaches() -> None:
    from byola_rq.cli.app import app

    text = CliRunner().invoke(app, ["listen", "--help"]).output
    assert "\n    byola-rq listen dog.wav -o dog.html --start 1.5" in text
    assert "--bins" in text


DURATIONS = """Promise.all([...document.querySelectorAll("audio")].map((audio) => new Promise(
  (done) => {
    audio.onerror = () => done("error " + audio.error.message);
    if (audio.readyState > 0) done(audio.duration);
    audio.onloadedmetadata = () => done(audio.duration);
    audio.load();
  })))"""
PLAYED = """(async () => {
  const played = [];
  for (const audio of document.querySelectorAll("audio")) {
    await new Promise((done) => { audio.onended = done; audio.play(); audio.playbackRate = 4; });
    played.push(audio.currentTime);
  }
  return played;
})()"""
PICTURES = """Promise.all([...document.querySelectorAll("svg image")].map(async (image) => {
  const picture = new Image();
  picture.src = image.getAttribute("href");
  await picture.decode();
  const box = image.getBoundingClientRect();
  return [picture.naturalWidth, picture.naturalHeight, box.width > 100, box.height > 5];
}))"""


@pytest.mark.parametrize(("width", "dark"), [(1280, False), (390, True)])
def test_in_a_browser(
    browser: Browser,
    config: Config,
    clip: Path,
    model: Path,
    tmp_path: Path,
    width: int,
    dark: bool,
) -> None:
    from byola_rq import load

    listening = listen_to_clip(config, clip, bins=(2, 5), model=load(model), model_name="mine")
    page = tmp_path / "page.html"
    write_page(listening, page, command="byola-rq listen")
    browser.open(page, width=width, dark=dark)
    num_sounds = len(listening.sounds)
    assert browser.run("document.title") == f"Listening: {clip.name}"
    assert browser.run(DURATIONS) == pytest.approx([0.95] * num_sounds)
    assert browser.run(PLAYED) == pytest.approx([0.95] * num_sounds, abs=0.01)
    pictures = browser.run(PICTURES)
    # A spectrogram for each sound, a canvas for the crop and each view, and the color scale.
    assert pictures.count([96, 64, True, True]) == num_sounds
    assert pictures.count([144, 64, True, True]) == 3
    assert len(pictures) == num_sounds + 3 + 1
    assert browser.run("document.documentElement.scrollWidth") <= width
    background = browser.run("getComputedStyle(document.body).backgroundColor")
    assert (int(re.findall(r"\d+", background)[0]) < 100) == dark
    assert browser.complaints == []
    assert [url for url in browser.requests if not url.startswith("data:")] == [page.as_uri()]
    unnamed = 'document.querySelectorAll("audio:not([aria-label]), svg:not([aria-label])").length'
    assert browser.run(unnamed) == 0


def test_keys_play(browser: Browser, listening: Listening, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    write_page(listening, page, command="")
    browser.open(page)
    playing = """(async () => {
      await new Promise((done) => setTimeout(done, 150));
      return [...document.querySelectorAll("figure.playing")].map((figure) => figure.id);
    })()"""
    browser.press("r")  # or a sound might have ended before it is asked for
    assert browser.run("document.getElementById('repeat').ariaPressed") == "true"
    for key, expected in (
        ("j", ["inversion"]),
        ("j", ["crop"]),
        ("o", ["original"]),
        ("o", ["crop"]),
        ("k", ["inversion"]),
        ("p", []),
        ("Enter", ["inversion"]),
    ):
        browser.press(key)
        assert browser.run(playing) == expected, key
    assert browser.run("document.activeElement.id") == "inversion"
    head = "document.querySelector('#inversion .playhead').getAttribute('visibility')"
    assert browser.run(head) == "visible"
    browser.run("document.querySelector('#mixup svg').dispatchEvent(new MouseEvent('click'))")
    assert browser.run(playing) == ["mixup"]
    assert browser.complaints == []


def test_a_name_cannot_become_markup(listening: Listening) -> None:
    text = render_page(listening, command="x <script>alert(1)</script>")
    assert text.count("<script>") == 1
    assert "a &lt;b&gt; &amp; &#39;c&#39;.wav" in text
    assert "<b>" not in text


def test_nothing_of_the_page_is_elsewhere(listening: Listening) -> None:
    text = render_page(listening, command="")
    assert not re.findall(r"https?://", text)
    sources = re.findall(r'(?:src|href)="([^"]{0,30})', text)
    assert sources
    assert all(
        source.startswith(("data:image/png", "data:audio/wav", "data:,")) for source in sources
    )
    assert "default-src 'none'" in text


def test_the_frontend_can_be_another(clip: Path, tmp_path: Path) -> None:
    overrides = ["frontend.n_mels=32", "frontend.sample_rate=8000", "frontend.f_max=3900"]
    config = load_config(default_config_path(), [*overrides, "views.augmentations=[mixup]"])
    listening = listen_to_clip(config, clip, bins=(3,))
    assert isinstance(listening.frontend, LogMelSpectrogram)
    assert listening.original.log_mel.shape == (32, 48)
    text = render_page(listening, command="")
    assert "32 mel bands x 48 frames, at 8,000 Hz" in text
    assert [step.name for step in listening.views[0].steps] == ["mixup"]
