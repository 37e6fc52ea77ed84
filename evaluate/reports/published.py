"""Published scores, and the conditions for ranking a measured score among them."""

from evaluate.publishers.base import MAX_SKIPPED
from evaluate.publishers.voxforge import BY_ARCHIVE
from evaluate.reports.results import ResultRow
from evaluate.tasks.few_labels import describe_fraction
from evaluate.tasks.task import PAPER_TASKS

# Accuracy in percent on PAPER_TASKS, then the mean as published. Sources: COLA (Saeed et al.,
# ICASSP 2021), TRILL (Shor et al., Interspeech 2020), BYOL-A (Niizumi et al., arXiv:2103.06695),
# BYOL-A v2 (arXiv:2204.07402), randomized quantization (Wu et al., ICCV 2023).
PUBLISHED: tuple[tuple[str, tuple[float | None, ...]], ...] = (
    ("COLA", (63.4, None, 29.9, 71.3, 71.7, 62.4, None)),
    ("TRILL", (None, None, 17.9, 88.1, 74.9, None, None)),
    ("BYOL-A (Mixup), 2048-d", (74.1, 79.1, 40.1, 90.2, 91.0, 92.2, 77.8)),
    ("BYOL-A, 512-d", (69.1, 78.2, 33.4, 83.5, 86.5, 88.9, 73.3)),
    ("BYOL-A v2, 3072-d", (73.1, 79.7, 57.6, 93.3, None, 93.1, None)),
    ("randomized quantization", (74.2, 78.0, 45.7, 92.6, 95.1, 92.1, 79.6)),
)
# Probe of each published model; COLA and TRILL have their own evaluations.
PUBLISHED_PROBES = {
    "BYOL-A (Mixup), 2048-d": "byol_a",
    "BYOL-A, 512-d": "byol_a",
    "BYOL-A v2, 3072-d": "evar",
    "randomized quantization": "byol_a",
}
# Clips of all parts. Scores on a set of another size, such as a miniature or a run with a limit,
# are not comparable to published scores.
PAPER_CLIPS = dict(
    zip(PAPER_TASKS, (305_979, 8_732, 153_516, 176_438, 100_503, 105_829), strict=True)
)
_SPLITS = {
    "nsynth": "publisher's",
    "us8k": "leave one fold out",
    "vc1": "publisher's",
    "spcv2_12": "publisher's lists and test archive",
    "spcv2": "publisher's lists",
}
_NUM_TESTED = {"nsynth": 4_096, "vc1": 8_251, "spcv2_12": 4_890, "spcv2": 11_005}


def differs_in(row: ResultRow) -> str:
    """Describe how set, labels or split differ from the published ones; empty if they do not.

    Empty also for a task without published scores. A csv with the name of a published set counts as
    the published split if it has as many test clips, or folds as the publisher's set has.
    """
    if row.task not in PAPER_CLIPS:
        return ""
    if not _is_near(row.num_clips, PAPER_CLIPS[row.task]):
        return f"{row.num_clips:,} of {PAPER_CLIPS[row.task]:,} clips"
    if row.label_fraction < 1:
        return describe_fraction(row.label_fraction)
    return "" if _has_published_split(row) else f"split: {row.split}"


def lacks_probe(row: ResultRow) -> bool:
    """Return True if a row on a published set and split has a probe without published scores."""
    is_published = row.task in PAPER_CLIPS and not differs_in(row)
    return is_published and row.probe not in PUBLISHED_PROBES.values()


def _has_published_split(row: ResultRow) -> bool:
    if row.task == "voxforge":
        return row.split.endswith(BY_ARCHIVE)
    if row.split != "given":
        return row.split == _SPLITS[row.task]
    if row.task == "us8k":
        return row.fold != ""
    return _is_near(row.n_test, _NUM_TESTED[row.task])


def _is_near(count: int, published: int) -> bool:
    return abs(count - published) <= MAX_SKIPPED * published
