"""Miniature of UrbanSound8K: ten folds of street sounds, every recording in one fold only."""

import csv
import io
import itertools
from functools import partial

from byola_rq.synthesis.primitives import Waveform, make_generator, make_seed
from byola_rq.synthesis.recording import draw_scene, record
from byola_rq.synthesis.soundscapes import make_event
from evaluate.miniature.plans import LEVEL_DB, SetFile, SetPlan, scale

_CLASSES = (
    "air_conditioner", "car_horn", "children_playing", "dog_bark", "drilling", "engine_idling",
    "gun_shot", "jackhammer", "siren", "street_music",
)  # fmt: skip
_NUM_FOLDS = 10
_NUM_SECOND_SLICES = 12  # recordings that are cut twice
_MAX_SECONDS = 1.0  # 4 s in the real set, where most slices have the maximum length, too
_SALIENCE_SNR_DB = {1: (5.0, 25.0), 2: (0.0, 8.0)}  # foreground, background
# Recordings of many users with many devices.
_FORMATS = tuple(
    itertools.product(
        (44_100, 48_000, 22_050, 16_000), ("PCM_16", "PCM_24", "PCM_U8", "FLOAT"), (2, 1)
    )
)
_COLUMNS = ("slice_file_name", "fsID", "start", "end", "salience", "fold", "classID", "class")
_README = "A miniature of UrbanSound8K: synthetic sounds, named and arranged as the publisher's.\n"


def plan_urbansound8k(seed: int, size: float) -> SetPlan:
    """Plan `UrbanSound8K/metadata/UrbanSound8K.csv` and `audio/fold1` to `fold10`."""
    places = [(fold, class_id) for fold in range(1, _NUM_FOLDS + 1) for class_id in range(10)]
    rng = make_generator("miniature", "urbansound8k", seed)
    fs_ids = rng.choice(range(1000, 250_000), len(places), replace=False).tolist()
    # Every format occurs, independent of class and fold.
    formats = [_FORMATS[k % len(_FORMATS)] for k in rng.permutation(len(places))]
    cut_twice = set(rng.permutation(len(places))[: scale(_NUM_SECOND_SLICES, size)].tolist())
    sounds, rows = [], []
    for number, ((fold, class_id), fs_id) in enumerate(zip(places, fs_ids, strict=True)):
        salience = int(rng.choice([1, 1, 2]))
        start = 0.0
        for cut in range(1 + (number in cut_twice)):
            seconds = min(_MAX_SECONDS, round(float(rng.uniform(0.4, 2.8)), 3))
            name = f"{fs_id}-{class_id}-0-{cut}.wav"
            row = (name, fs_id, start, round(start + seconds, 6), salience, fold, class_id)
            rows.append((*row, _CLASSES[class_id]))
            make = partial(
                _make_slice, seed, fs_id, cut, name=_CLASSES[class_id], seconds=seconds,
                salience=salience,
            )  # fmt: skip
            sounds.append(SetFile(f"audio/fold{fold}/{name}", make, *formats[number]))
            start = round(start + seconds / 2, 6)
    table = io.StringIO()
    csv.writer(table, lineterminator="\n").writerows([_COLUMNS, *sorted(rows)])
    texts = {"metadata/UrbanSound8K.csv": table.getvalue(), "UrbanSound8K_README.txt": _README}
    return SetPlan("UrbanSound8K", tuple(sounds), texts)


def _make_slice(
    seed: int, fs_id: int, cut: int, *, name: str, seconds: float, salience: int
) -> Waveform:
    """Make a slice of a recording; its slices share source and scene."""
    source = make_seed("miniature", "urbansound8k", seed, fs_id)
    waveform = make_event(name, seed=source, seconds=seconds, slice_number=cut)
    scene = draw_scene(source, snr_db=_SALIENCE_SNR_DB[salience], level_db=LEVEL_DB)
    return record(waveform, scene, seed=make_seed(source, cut))
