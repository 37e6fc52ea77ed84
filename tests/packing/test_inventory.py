"""Output of `info` about a packed corpus, and its picture."""

import sys
from pathlib import Path

import numpy as np
import pytest

from byola_rq.errors import ConfigError, CorpusError, MissingPackageError
from byola_rq.packing.inventory import count_reasons, describe_corpus, draw_lengths
from byola_rq.packing.merge import merge_shards
from byola_rq.packing.plan import PackingPlan, fix_plan
from byola_rq.packing.shards import ShardWriter
from byola_rq.plots.style import COLORS
from tests.refusal import refused

REASONS = [
    "length must be at most 3600 s; got 7200.00 s",
    "length must be at most 3600 s; got 4000.50 s",
    "cut short: 10 of 20 bytes of its sound data are there",
    "cut short: 11 of 20 bytes of its sound data are there",
    "cut short: 12 of 40 bytes of its sound data are there",
    "codec must be PCM or MP3; got IMA ADPCM in WAV (format tag 0x0011)",
    "codec must be PCM or MP3; got AU",
    "same clip as a.wav",
    "same clip as b2.wav",
]


def pack(folder: Path, seconds: list[float], reasons: list[str] | None = None) -> Path:
    plan = PackingPlan(
        options={},
        num_clips=len(seconds),
        clips_per_shard=len(seconds) + 1,
        mean_seconds=1.0,
        digests=["0"],
    )
    fix_plan(folder, plan)
    writer = ShardWriter(folder, 0)
    for number, each in enumerate(seconds):
        writer.append(
            np.zeros(round(each * 16000), np.int16),
            clip_id=str(number),
            source=str(number),
            original_rate=44100 if number % 3 else 8000,
            labels="dog, bark" if number % 2 else "dog",
        )
    for number, reason in enumerate(reasons or []):
        writer.reject(f"{number}.wav", reason)
    writer.finish()
    merge_shards(folder, plan)
    return folder


def test_the_whole_report(tmp_path: Path) -> None:
    folder = pack(tmp_path / "c", [0.5, 0.5, 3.0, 9.0, 10.0, 10.5, 30.0], REASONS)
    text = "\n".join(describe_corpus(folder))
    assert text.splitlines()[:6] == [
        "clips       7",
        "hours       0.02",
        "size        0.002 GB in 1 shards (int16, 16 kHz, mono)",
        "rejected    9",
        "duplicates  0",
        "seconds     shortest 0.50, 5 % 0.50, median 9.00, 95 % 24.15, longest 30.00",
    ]
    for part in (
        """lengths
         2  under 1 s          ########################################
         1  2 to 5 s           ####################
         1  5 to 10 s          ####################
         2  10 to 20 s         ########################################
         1  30 to 60 s         ####################""",
        """original rates
         4  44100 Hz
         3  8000 Hz""",
        """labels
         7  dog
         3  bark""",
        """left out
         3  cut short: ... of ... bytes of its sound data are there
         2  length must be at most 3600 s; got ... s
         2  same clip as another
         1  codec must be PCM or MP3; got AU
         1  codec must be PCM or MP3; got IMA ADPCM in WAV (format tag 0x0011)""",
    ):
        assert f"\n\n{part}" in text


def test_reasons_that_differ_in_words_stay_apart(tmp_path: Path) -> None:
    folder = pack(tmp_path / "c", [1.0], ["channels must be at most 8; got 9"] * 2 + ["lost 8"])
    assert count_reasons(folder) == {"channels must be at most 8; got 9": 2, "lost 8": 1}


def test_long_tables_are_cut(tmp_path: Path) -> None:
    words = [f"w{letter}" for letter in "abcdefghijkl"]
    folder = pack(tmp_path / "c", [1.0], [f"is {word}" for word in words])
    lines = list(describe_corpus(folder))
    assert "left out (12 different; the 10 most)" in lines
    assert sum(line.endswith(tuple(words)) for line in lines) == 10


def test_an_empty_corpus_is_described(tmp_path: Path) -> None:
    folder = pack(tmp_path / "c", [], ["bad"])
    assert list(describe_corpus(folder))[-2:] == ["left out", "         1  bad"]
    with refused(ConfigError, "empty", folder):
        draw_lengths(folder, tmp_path / "a.png")


def test_no_corpus_no_description(tmp_path: Path) -> None:
    with refused(CorpusError, "missing", tmp_path):
        list(describe_corpus(tmp_path))


@pytest.mark.parametrize(
    "seconds", [[10.0] * 40, [10.0] * 400 + [1.0, 200.0], [5.0], list(np.linspace(4, 9, 30))]
)
@pytest.mark.parametrize("suffix", ["png", "svg"])
def test_pictures_of_all_kinds_of_lengths(
    tmp_path: Path, seconds: list[float], suffix: str
) -> None:
    picture = tmp_path / "deep" / f"lengths.{suffix}"
    draw_lengths(pack(tmp_path / "c", seconds), picture)
    if suffix == "svg":
        assert "length (s)" in picture.read_text()
        return
    from matplotlib.colors import to_rgb
    from matplotlib.image import imread

    pixels = imread(picture)[..., :3]
    is_bar = np.abs(pixels - np.array(to_rgb(COLORS[0]))).max(axis=-1) < 0.02
    assert is_bar.sum() > 300  # bars can be seen


def test_pictures_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = pack(tmp_path / "c", [1.0])
    with refused(ConfigError, "unwritable", tmp_path / "lengths.doc"):
        draw_lengths(folder, tmp_path / "lengths.doc")
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(MissingPackageError, match=r"\.\[plots\]"):
        draw_lengths(folder, tmp_path / "lengths.png")


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from byola_rq.cli.app import main

    folder = pack(tmp_path / "c", [1.0, 2.0])
    with pytest.raises(SystemExit) as caught:
        main(["info", str(folder), "--picture", str(tmp_path / "a.png")])
    assert not caught.value.code
    out = capsys.readouterr().out.splitlines()
    assert out[0] == "clips       2"
    assert out[-1] == str(tmp_path / "a.png")
    assert (tmp_path / "a.png").exists()
