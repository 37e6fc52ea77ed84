"""The corpus: which clips there are, in which order, and which samples a key gives."""

import hashlib
import os
import pickle
import re
import resource
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile
import torch

from byola_rq import AudioError
from byola_rq.audio.io import read_audio
from byola_rq.corpus.decoded_clips import DecodedClips, measure_clips, measure_readable_clips
from byola_rq.corpus.packed_clips import PackedClips
from byola_rq.corpus.packed_format import open_packed
from byola_rq.corpus.segments import (
    MAX_NEIGHBORS,
    Replacement,
    SegmentBatch,
    SegmentCorpus,
    find_clips,
    open_packed_clips,
)
from byola_rq.errors import Code, CorpusError
from byola_rq.runtime.rng import fold_in, integers, sample_keys
from byola_rq.sources.clip_source import ClipSource
from tests.hand_packed import pack
from tests.refusal import refused

SEGMENT = 15200


@pytest.fixture(scope="module")
def waveforms(sounds: Path) -> list[np.ndarray]:
    """The sounds as int16, every third cut to less than a segment, one to a single sample."""
    clips = [
        np.round(read_audio(path, 16000).numpy() * 32767).astype(np.int16)
        for path in sorted(sounds.glob("*.wav"))
    ]
    clips[::3] = [clip[: 5001 + 500 * place] for place, clip in enumerate(clips[::3])]
    clips[5] = clips[5][:1]
    clips[6] = clips[6][:SEGMENT]
    return clips


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory: pytest.TempPathFactory, waveforms: list[np.ndarray]) -> Path:
    folder = tmp_path_factory.mktemp("unpacked")
    for number, clip in enumerate(waveforms):
        soundfile.write(folder / f"{number:02d}.wav", clip, 16000, subtype="PCM_16")
    return folder


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory, waveforms: list[np.ndarray]) -> Path:
    return pack(tmp_path_factory.mktemp("packed") / "corpus", waveforms, clips_per_shard=7)


def decoded_clips(*sources: Path) -> DecodedClips:
    return measure_clips(find_clips(list(sources))[0], 16000)


def corpus_of(folder: Path, seed: int = 0) -> SegmentCorpus:
    clips = open_packed_clips([folder], 16000) or decoded_clips(folder)
    return SegmentCorpus(clips, segment_samples=SEGMENT, seed=seed)


def all_items(corpus: SegmentCorpus, num_epochs: int) -> list[tuple[int, int]]:
    return [(epoch, index) for epoch in range(num_epochs) for index in range(len(corpus.clips))]


def test_packed_and_unpacked_clips_give_the_same_bits(packed: Path, unpacked: Path) -> None:
    ours, theirs = corpus_of(packed, seed=3), corpus_of(unpacked, seed=3)
    assert isinstance(ours.clips, PackedClips)
    assert isinstance(theirs.clips, DecodedClips)
    assert ours.clips.num_samples.tolist() == theirs.clips.num_samples.tolist()
    assert ours.clips.hours == theirs.clips.hours > 0
    items = all_items(ours, 4)
    from_packed, decoded = ours.load(items), theirs.load(items)
    assert from_packed.waveform.dtype == torch.int16
    assert decoded.waveform.dtype == torch.float32
    cpu = torch.device("cpu")
    assert torch.equal(from_packed.to(cpu).waveform, decoded.to(cpu).waveform)
    assert torch.equal(from_packed.key, decoded.key)


@pytest.mark.parametrize("form", ["packed", "unpacked"])
def test_segments_are_stretches_of_their_clips(
    form: str, waveforms: list[np.ndarray], request: pytest.FixtureRequest
) -> None:
    corpus = corpus_of(request.getfixturevalue(form))
    items = all_items(corpus, 3)
    batch = corpus.load(items).to(torch.device("cpu"))
    assert batch.waveform.shape == (len(items), SEGMENT)
    starts = set()
    for (_, index), segment in zip(items, batch.waveform.numpy(), strict=True):
        whole = waveforms[index].astype(np.float32) / 32768
        if len(whole) <= SEGMENT:
            before = (SEGMENT - len(whole)) // 2
            after = SEGMENT - len(whole) - before
            assert np.array_equal(segment, np.pad(whole, (before, after)))
            continue
        windows = np.lib.stride_tricks.sliding_window_view(whole, SEGMENT)
        places = np.flatnonzero((windows[:, :50] == segment[:50]).all(axis=1))
        places = [place for place in places if np.array_equal(windows[place], segment)]
        assert places, index
        starts.add((index, int(places[0])))
    num_long = sum(len(clip) > SEGMENT for clip in waveforms)
    # Of the same clip, another place in another epoch.
    assert len(starts) > 2.5 * num_long


def test_a_segment_depends_on_seed_epoch_and_clip_alone(packed: Path) -> None:
    corpus = corpus_of(packed)
    whole = corpus.load([(0, 3), (1, 7), (0, 8)])
    alone = corpus.load([(1, 7)])
    assert torch.equal(whole.waveform[1], alone.waveform[0])
    assert whole.key[1] == alone.key[0]
    assert corpus_of(packed, seed=1).load([(1, 7)]).key != alone.key


def test_the_device_converts_exactly() -> None:
    values = torch.arange(-(2**15), 2**15, dtype=torch.int16)[None]
    batch = SegmentBatch(values, torch.zeros(1, dtype=torch.int64)).to(torch.device("cpu"))
    assert batch.waveform.dtype == torch.float32
    assert torch.equal(batch.waveform.double(), values.double() / 32768)


def test_resampled_clips_fill_their_segments(tmp_path: Path) -> None:
    rate = 44100
    t = np.arange(2 * rate) / rate
    soundfile.write(tmp_path / "a.wav", 0.5 * np.sin(2 * np.pi * 440 * t), rate)
    segment = corpus_of(tmp_path).load([(0, 0)]).waveform[0]
    assert len(segment) == SEGMENT
    spectrum = torch.fft.rfft(segment * torch.hann_window(SEGMENT)).abs()
    assert spectrum.argmax() * 16000 / SEGMENT == pytest.approx(440, abs=16000 / SEGMENT)


def test_a_clip_may_be_part_of_a_file(tmp_path: Path) -> None:
    samples = np.arange(-24000, 24000, dtype=np.int16)
    soundfile.write(tmp_path / "a.wav", samples, 16000)
    (tmp_path / "m.csv").write_text("path,start,end\na.wav,0.5,0.75\na.wav,1,\na.wav,0.2,2.4\n")
    clips = decoded_clips(tmp_path / "m.csv")
    assert clips.num_samples.tolist() == [4000, 32000, 35200]
    for index, first in enumerate((8000, 16000, 3200)):
        expected = samples[first : first + clips.num_samples[index]]
        assert np.array_equal(clips.read(index).numpy() * 32768, expected)
    corpus = SegmentCorpus(clips, segment_samples=SEGMENT, seed=0)
    for epoch in range(50):
        short, *long = corpus.load([(epoch, 0), (epoch, 1), (epoch, 2)]).waveform * 32768
        assert np.array_equal(short[5600:9600].numpy(), samples[8000:12000])
        assert not short[:5600].any()
        assert not short[9600:].any()
        assert 16000 <= long[0][0] + 24000 <= 48000 - SEGMENT
        assert 3200 <= long[1][0] + 24000 <= 38400 - SEGMENT
        assert all((segment.diff() == 1).all() for segment in long)


def test_tar_members_are_read_in_place(tmp_path: Path, unpacked: Path) -> None:
    with tarfile.open(tmp_path / "shard-0.tar", "w") as tar:
        for path in sorted(unpacked.glob("*.wav")):
            tar.add(path, path.name)
    from_tar, from_files = corpus_of(tmp_path / "shard-0.tar"), corpus_of(unpacked)
    items = all_items(from_files, 2)
    assert torch.equal(from_tar.load(items).waveform, from_files.load(items).waveform)


def test_several_packed_corpora_are_one(
    tmp_path: Path, packed: Path, waveforms: list[np.ndarray]
) -> None:
    parts = [
        pack(tmp_path / "a", waveforms[:10], clips_per_shard=4),
        pack(tmp_path / "b", waveforms[10:], clips_per_shard=100),
    ]
    # One named twice, in whatever way, is one.
    again = [parts[0], tmp_path / "a" / ".." / "b", parts[0]]
    clips = open_packed_clips([*parts, *again], 16000)
    assert clips is not None
    assert len(clips) == len(waveforms)
    assert clips.shard.tolist() == [0] * 4 + [1] * 4 + [2] * 2 + [3] * (len(waveforms) - 10)
    joined = SegmentCorpus(clips, segment_samples=SEGMENT, seed=0)
    whole = corpus_of(packed)
    items = all_items(whole, 2)
    assert torch.equal(joined.load(items).waveform, whole.load(items).waveform)


def test_packed_and_other_sources_do_not_mix(packed: Path, unpacked: Path) -> None:
    with refused(CorpusError, "foreign", unpacked, key="data.source"):
        open_packed_clips([packed, unpacked], 16000)
    assert open_packed_clips([unpacked], 16000) is None
    with refused(CorpusError, "unsupported", packed):
        find_clips([packed])
    with refused(CorpusError, "different", packed, key="frontend.sample_rate", value=32000):
        open_packed_clips([packed], 32000)


def test_an_unfinished_packing_is_reported(tmp_path: Path) -> None:
    (tmp_path / "corpus" / ".parts").mkdir(parents=True)
    with refused(CorpusError, "cut", tmp_path / "corpus"):
        find_clips([tmp_path / "corpus"])


def test_a_packed_corpus_is_pickled_without_its_samples(packed: Path) -> None:
    corpus = corpus_of(packed)
    text = pickle.dumps(corpus)
    assert len(text) < sum(path.stat().st_size for path in packed.glob("*.npy")) / 20
    copy = pickle.loads(text)
    items = all_items(corpus, 1)
    assert torch.equal(copy.load(items).waveform, corpus.load(items).waveform)
    assert copy.clips.digest == corpus.clips.digest


def test_many_shards_may_be_open(tmp_path: Path) -> None:
    """A map keeps its file open, and a process is often allowed a thousand."""
    folder = pack(tmp_path / "many", [np.full(9, n, np.int16) for n in range(200)], 1)
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    num_open = len(list(Path("/proc/self/fd").iterdir()))
    resource.setrlimit(resource.RLIMIT_NOFILE, (num_open + 100, limits[1]))
    try:
        clips = open_packed_clips([folder], 16000)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert clips is not None
    segments = SegmentCorpus(clips, segment_samples=9, seed=0).load([(0, n) for n in range(200)])
    assert segments.waveform[:, 0].tolist() == list(range(200))


def test_digests_tell_packed_corpora_apart(tmp_path: Path, waveforms: list[np.ndarray]) -> None:
    def digest(name: str, clips: list[np.ndarray], clips_per_shard: int = 5) -> str:
        folder = pack(tmp_path / name, clips, clips_per_shard)
        return PackedClips([open_packed(folder)]).digest

    first = digest("first", waveforms)
    assert digest("moved", waveforms) == first
    changed = [*waveforms[:-1], waveforms[-1] ^ 1]
    # The same samples, but cut elsewhere.
    parted = [waveforms[0][:100], waveforms[0][100:], *waveforms[1:5]]
    others = {
        digest("changed", changed),
        digest("fewer", waveforms[:-1]),
        digest("in one", waveforms, 100),
        digest("whole", waveforms[:5], 100),
        digest("parted", parted, 100),
    }
    assert len(others | {first}) == 6


def test_digests_tell_decoded_clips_apart() -> None:
    def digest(names: list[str], firsts: list[int], lengths: list[int], rate: int = 16000) -> str:
        sources = [ClipSource(name, file=name) for name in names]
        return DecodedClips(sources, np.array(firsts), np.array(lengths), rate).digest

    first = digest(["/x/a.wav", "/x/b.wav"], [0, 0], [5, 6])
    assert digest(["/y/a.wav", "/y/b.wav"], [0, 0], [5, 6]) == first
    assert digest(["/x/a.wav", "/x/b.wav"], [0, 0], [5, 7]) != first
    assert digest(["/x/a.wav", "/x/b.wav"], [0, 3], [5, 6]) != first
    assert digest(["/x/a.wav", "/x/c.wav"], [0, 0], [5, 6]) != first
    assert digest(["/x/a.wav", "/x/b.wav"], [0, 0], [5, 6], 8000) != first
    assert digest(["/x/a.wav", "/x/\udce9.wav"], [0, 0], [5, 6]) != first  # a name is bytes
    # What the first version of this library wrote into its checkpoints.
    text = "16000\na.wav\t5\nb.wav\t6"
    assert first == hashlib.sha256(text.encode()).hexdigest()


def test_folders_are_searched_in_depth_and_in_order(tmp_path: Path, sounds: Path) -> None:
    source = sorted(sounds.glob("*.wav"))[0].read_bytes()
    for name in ("b/2.wav", "a/x/1.WAV", "b/1.wav", ".hidden.wav", "notes.txt"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(source)
    clips, notes = find_clips([tmp_path])
    assert [str(clip.path.relative_to(tmp_path)) for clip in clips] == [
        "a/x/1.WAV",
        "b/1.wav",
        "b/2.wav",
    ]
    unread = f"{tmp_path}: not read: 1 .txt, 1 hidden .wav"
    assert notes == [unread]
    # A clip named twice is kept once.
    clips, notes = find_clips([tmp_path, tmp_path / "b", tmp_path / "b" / "1.wav"])
    assert len(clips) == 3
    assert notes == [unread, "3 clips are duplicates; each is used once"]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("m.csv", "path,label\nb.wav,x\na.wav,y\n"),
        ("m.csv", 'label,file_name\n"x, y",b.wav\ny,a.wav\n'),
        ("m.tsv", "path\tlabel\nb.wav\tx\na.wav\ty\n"),
    ],
)
def test_manifests_keep_their_order(tmp_path: Path, name: str, text: str) -> None:
    for clip in ("a.wav", "b.wav"):
        soundfile.write(tmp_path / clip, np.zeros(100), 16000)
    (tmp_path / name).write_text(text)
    clips, _ = find_clips([tmp_path / name])
    assert [clip.path.name for clip in clips] == ["b.wav", "a.wav"]


@pytest.mark.parametrize(
    ("name", "text", "code", "told"),
    [
        ("m.csv", "path\na.wav\ngone.wav\n", "missing", ["row 3", "gone.wav"]),
        ("m.csv", "path,start\na.wav,-1\na.wav,x\n", "damaged", ["row 2", "start", "-1", "1 more"]),
        ("m.csv", "name\na.wav\n", "malformed", []),
        ("m.csv", "path\n", "empty", []),
        ("m.csv", "", "empty", []),
        ("m.txt", "path\n", "foreign", []),
    ],
)
def test_bad_manifests_are_refused(
    tmp_path: Path, name: str, text: str, code: Code, told: list[str]
) -> None:
    soundfile.write(tmp_path / "a.wav", np.zeros(100), 16000)
    (tmp_path / name).write_text(text)
    with refused(CorpusError, code, tmp_path / name) as caught:
        find_clips([tmp_path / name])
    assert [each for each in told if each not in str(caught.value)] == []


def test_what_a_segment_list_misses_is_a_note(tmp_path: Path, sounds: Path) -> None:
    folder = tmp_path / "clips"
    folder.mkdir()
    (folder / "YAAAAAAAAAAA.wav").write_bytes(sorted(sounds.glob("*.wav"))[0].read_bytes())
    (tmp_path / "list.csv").write_text(
        "# Segments csv created Sun Mar  5 10:54:31 2017\n# num_ytids=2\n"
        "# YTID, start_seconds, end_seconds, positive_labels\n"
        'AAAAAAAAAAA, 0.000, 10.000, "/m/09x0r"\nBBBBBBBBBBB, 0.000, 10.000, "/m/09x0r"\n'
    )
    clips, notes = find_clips([Path(f"{tmp_path / 'list.csv'}={folder}")])
    assert len(clips) == 1
    assert any("2 segments listed, 1 found" in note for note in notes)


def test_parquet_must_be_packed_first(tmp_path: Path, sounds: Path) -> None:
    data = sorted(sounds.glob("*.wav"))[0].read_bytes()
    table = pa.table(
        {"audio": [{"bytes": data, "path": "a.wav"}, {"bytes": data, "path": "b.wav"}]}
    )
    pq.write_table(table, tmp_path / "x.parquet")
    with refused(CorpusError, "unsupported", tmp_path / "x.parquet") as caught:
        find_clips([tmp_path / "x.parquet"])
    assert "x.parquet::0 " in str(caught.value)
    assert "1 more" in str(caught.value)


def test_nothing_to_read_is_an_error(tmp_path: Path) -> None:
    with refused(CorpusError, "missing", tmp_path / "gone"):
        find_clips([tmp_path / "gone"])
    with refused(CorpusError, "empty", tmp_path):
        find_clips([tmp_path])
    with refused(CorpusError, "missing", key="data.source"):
        find_clips([])
    assert open_packed_clips([], 16000) is None


def test_unreadable_clips_are_named_and_counted(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", np.zeros(100), 16000)
    for name in ("b.wav", "c.wav", "d.wav"):
        (tmp_path / name).write_text("no sound")
    with refused(AudioError, "damaged", tmp_path / "b.wav") as caught:
        decoded_clips(tmp_path)
    assert "2 more" in str(caught.value)


def write_forms(folder: Path, sounds: Path, suffixes: list[str], rate: int = 16000) -> list[Path]:
    """Clips of 3 s, in the order of their names."""
    folder.mkdir()
    paths = []
    recordings = sorted(sounds.glob("*.wav"))
    for number, suffix in enumerate(suffixes):
        waveform = np.resize(soundfile.read(recordings[number])[0], 3 * rate)
        paths.append(folder / f"{number:03d}.{suffix}")
        soundfile.write(paths[-1], waveform, rate)
    return paths


def expected_segment(path: Path, key: torch.Tensor) -> torch.Tensor:
    """The segment of a clip, longer than one, that a key of a sample gives."""
    num_places = 3 * 16000 - SEGMENT + 1
    start = int(integers(fold_in(key[None], "segment"), torch.tensor([num_places])))
    return read_audio(path, 16000, start, SEGMENT)


@pytest.mark.parametrize("rate", [16000, 44100])
def test_of_healthy_clips_nothing_is_replaced(tmp_path: Path, sounds: Path, rate: int) -> None:
    paths = write_forms(tmp_path / "a", sounds, ["flac", "mp3", "ogg", "wav", "mp3", "ogg"], rate)
    corpus = corpus_of(tmp_path / "a", seed=2)
    items = all_items(corpus, 3)
    batch = corpus.load(items)
    assert batch.replacements == ()
    for (epoch, index), key, segment in zip(items, batch.key, batch.waveform, strict=True):
        assert key == sample_keys(2, epoch, torch.tensor([index]))
        assert torch.equal(segment, expected_segment(paths[index], key))


def cut(path: Path, share: float = 0.1) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: int(share * len(data))])


def break_header(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(b"junk" + data[4:])


def put_folder_there(path: Path) -> None:
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize(
    ("suffix", "damage", "reason"),
    [
        *((suffix, cut, "cut short: ") for suffix in ("flac", "ogg", "mp3", "wav")),
        ("wav", break_header, "not an audio file of a known format$"),
        ("wav", Path.unlink, "no such file$"),
        ("wav", put_folder_there, r"cannot be read \(must be a file; got a folder"),
    ],
)
def test_the_next_clip_takes_a_broken_one_s_place(
    tmp_path: Path, sounds: Path, suffix: str, damage: Callable[[Path], None], reason: str
) -> None:
    paths = write_forms(tmp_path / "a", sounds, ["wav", "wav", suffix, "wav", "wav"])
    corpus = corpus_of(tmp_path / "a")
    items = [(3, 1), (3, 2), (3, 4), (9, 2), (3, 0)]
    before = corpus.load(items)
    damage(paths[2])
    batch = corpus.load(items)
    assert [each[:2] for each in batch.replacements] == [(2, 3), (2, 3)]
    for replacement in batch.replacements:
        assert re.match(reason, replacement.reason), replacement.reason
    assert torch.equal(batch.key, before.key)
    for row, (_, index) in enumerate(items):
        path = paths[3 if index == 2 else index]
        expected = expected_segment(path, batch.key[row])
        assert torch.equal(batch.waveform[row], expected)
        assert torch.equal(batch.waveform[row], before.waveform[row]) == (index != 2)
    # Alone, and in another batch, it is the same.
    assert torch.equal(corpus.load([(9, 2)]).waveform[0], batch.waveform[3])


@pytest.mark.parametrize("suffix", ["flac", "mp3", "ogg", "wav"])
def test_a_clip_that_is_cut_while_it_is_used_is_replaced_wherever_a_segment_lies(
    tmp_path: Path, sounds: Path, suffix: str
) -> None:
    folder = tmp_path / "a"
    folder.mkdir()
    waveform = np.concatenate([soundfile.read(path)[0] for path in sorted(sounds.glob("*.wav"))])
    soundfile.write(folder / f"0.{suffix}", waveform, 16000)
    soundfile.write(folder / "1.wav", waveform[::-1], 16000)
    corpus = corpus_of(folder)
    items = [(epoch, 0) for epoch in range(8)]
    assert not corpus.load(items).replacements
    cut(folder / f"0.{suffix}", 0.5)
    replacements = corpus.load(items).replacements
    assert [each[:2] for each in replacements] == [(0, 1)] * len(items)
    assert all(each.reason.startswith("cut short: ") for each in replacements)


def test_neighbours_may_be_broken_and_the_last_clip_s_is_the_first(
    tmp_path: Path, sounds: Path
) -> None:
    paths = write_forms(tmp_path / "a", sounds, ["wav", "wav", "flac", "ogg", "wav", "mp3"])
    corpus = corpus_of(tmp_path / "a")
    for broken in (0, 3, 4, 5):
        cut(paths[broken])
    items = [(0, 2), (0, 3), (0, 5), (0, 1), (0, 4)]
    batch = corpus.load(items)
    assert [each[:2] for each in batch.replacements] == [(3, 1), (5, 1), (4, 1)]
    for row, index in enumerate((2, 1, 1, 1, 1)):
        expected = expected_segment(paths[index], batch.key[row])
        assert torch.equal(batch.waveform[row], expected)
    # The same clip, but at places of their own.
    assert len({tuple(segment.tolist()) for segment in batch.waveform[1:]}) == 4


def test_neighbours_are_not_tried_without_end(tmp_path: Path) -> None:
    for number in range(MAX_NEIGHBORS + 3):
        soundfile.write(tmp_path / f"{number:03d}.wav", np.full(100, 0.5), 16000)
    corpus = corpus_of(tmp_path)
    for number in range(MAX_NEIGHBORS):
        (tmp_path / f"{number:03d}.wav").unlink()
    replacements = corpus.load([(0, 0)]).replacements
    assert replacements == (Replacement(0, MAX_NEIGHBORS, "no such file"),)
    (tmp_path / f"{MAX_NEIGHBORS:03d}.wav").unlink()
    with refused(AudioError, "missing", tmp_path / "000.wav") as caught:
        corpus.load([(0, 0)])
    assert "100 clips after it" in str(caught.value)
    # Clip 1 is nearer to those that are left.
    assert corpus.load([(0, 1)]).replacements[0].replaced_by == MAX_NEIGHBORS + 1


def test_where_no_clip_is_left_the_first_error_is_reported(tmp_path: Path, sounds: Path) -> None:
    paths = write_forms(tmp_path / "a", sounds, ["wav", "wav", "wav"])
    corpus = corpus_of(tmp_path / "a")
    for path in paths:
        path.unlink()
    with refused(AudioError, "missing", paths[1]) as caught:
        corpus.load([(0, 1)])
    assert "2 clips after it" in str(caught.value)


@contextmanager
def without_rights() -> Iterator[None]:
    """Run as a user without rights to read everything, unlike root."""
    before = os.geteuid()
    os.seteuid(before or 65534)
    try:
        yield
    finally:
        os.seteuid(before)


def test_files_that_may_not_be_read_are_replaced(sounds: Path) -> None:
    # Not in tmp_path, which no other user may enter.
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "a"
        write_forms(folder, sounds, ["wav", "wav"])
        soundfile.write(folder / "b.wav", np.ones(20000) / 2, 16000)
        write_forms(folder / "closed", sounds, ["wav"])
        corpus = corpus_of(folder)
        assert [source.path.name for source in corpus.clips.sources][2:] == ["b.wav", "000.wav"]
        Path(place).chmod(0o755)
        (folder / "b.wav").chmod(0)
        (folder / "closed").chmod(0)
        try:
            with without_rights():
                batch = corpus.load([(0, 3), (0, 2), (0, 1)])
                sources = [*corpus.clips.sources[:1] * 199, corpus.clips.sources[3]]
                _, unreadable = measure_readable_clips(sources, 16000)
        finally:
            (folder / "closed").chmod(0o755)
    assert [each[:2] for each in batch.replacements] == [(3, 0), (2, 0)]
    assert batch.replacements[0].reason == "cannot be read (Permission denied)"
    assert [reason for _, reason in unreadable] == ["cannot be read (Permission denied)"]
    assert "Permission denied" in batch.replacements[1].reason


def test_a_few_unreadable_clips_are_left_out(tmp_path: Path, sounds: Path) -> None:
    paths = write_forms(tmp_path / "a", sounds, ["wav"] * 4)
    break_header(paths[1])
    clips, unreadable = measure_readable_clips(find_clips([tmp_path / "a"])[0], 16000)
    assert [source.path for source in clips.sources] == [paths[0], *paths[2:]]
    ((source, reason),) = unreadable
    assert source.path == paths[1]
    assert reason == "not an audio file of a known format"
    # As if it had never been there.
    others = measure_clips(list(clips.sources), 16000)
    assert clips.digest == others.digest


def test_more_than_a_hundredth_unreadable_is_an_error(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "good.wav", np.zeros(100), 16000)
    (tmp_path / "bad.wav").write_bytes(b"no sound")
    good, bad = (ClipSource(name, file=str(tmp_path / name)) for name in ("good.wav", "bad.wav"))

    def measure(num_good: int, num_bad: int) -> tuple[int, int]:
        done = []
        sources = [good] * num_good + [bad] * num_bad
        clips, unreadable = measure_readable_clips(sources, 16000, lambda: done.append(1))
        assert len(done) == len(sources)
        return len(clips), len(unreadable)

    assert [measure(*each) for each in ((9, 0), (1, 1), (99, 1), (198, 2))] == [
        (9, 0),
        (1, 1),
        (99, 1),
        (198, 2),
    ]
    for num_good, num_bad in ((1, 2), (0, 1), (197, 2), (98, 2)):
        with refused(AudioError, "too-many", bad.path, value=num_bad) as caught:
            measure(num_good, num_bad)
        assert f"{num_bad} of {num_good + num_bad} clips" in str(caught.value)
