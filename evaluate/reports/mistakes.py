"""Reads what `python -m evaluate` wrote: scores, confusions, and the clips that were mistaken."""

import csv
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from byola_rq.errors import CorpusError
from byola_rq.notebook import play_files

Record = Mapping[str, str]


@dataclass(frozen=True)
class Run:
    """One model, probe and task of results.csv; its newest run."""

    run_id: str
    model: str
    probe: str
    task: str

    @property
    def name(self) -> str:
        """Model and probe."""
        return f"{self.model}, {self.probe}"


@dataclass(frozen=True)
class Mistake:
    """A test clip that several runs got wrong.

    `said` is what they took it for most often; `num_wrong` of `num_said` predictions were wrong.
    """

    file_name: str
    label: str
    said: str
    num_wrong: int
    num_said: int


def read_runs(folder: Path) -> list[Run]:
    """The newest run of every model, probe and task with one label a clip, oldest first.

    Raises:
        CorpusError: If the folder holds no results that can be read.
    """
    newest = {
        (row["model"], row["probe"], row["task"]): Run(
            row["run_id"], row["model"], row["probe"], row["task"]
        )
        for row in _read(folder / "results.csv", "run_id", "model", "probe", "task", "metric")
        if row["metric"] == "accuracy"
    }
    return list(newest.values())


def read_table(folder: Path) -> list[dict[str, str | float]]:
    """The paper's table: a row per model and probe, measured and published, a column per task.

    Of summary.csv, which evaluation derives from results.csv; columns without a score are absent.

    Raises:
        CorpusError: If there is no summary that can be read.
    """
    words = ("model", "probe", "source")
    return [
        {
            name: cell if name in words else float(cell)
            for name, cell in row.items()
            if name in words or (cell and not name.endswith(("_low", "_high")))
        }
        for row in _read(folder / "summary.csv", *words)
    ]


def read_scores(folder: Path, task: str) -> tuple[dict[str, float], dict[str, tuple[float, float]]]:
    """Measured scores of one task and their 95 % intervals, by model and probe.

    Raises:
        CorpusError: If there is no summary that can be read.
    """
    scores, intervals = {}, {}
    for row in _read(folder / "summary.csv", "model", "probe", "source"):
        if row["source"] == "measured" and row.get(task):
            name = f"{row['model']}, {row['probe']}"
            scores[name] = float(row[task])
            if row.get(f"{task}_low"):
                intervals[name] = (float(row[f"{task}_low"]), float(row[f"{task}_high"]))
    return scores, intervals


def count_confusions(folder: Path, run: Run) -> tuple[npt.NDArray[np.int64], list[str]]:
    """How often each class (row) was taken for each (column), over folds and seeds; the classes.

    Raises:
        CorpusError: If the run's predictions cannot be read.
    """
    rows = _read_predictions(folder, run)
    classes = sorted({row["label"] for row in rows} | {row["prediction"] for row in rows})
    place = {name: number for number, name in enumerate(classes)}
    counts = np.zeros((len(classes), len(classes)), np.int64)
    for row in rows:
        counts[place[row["label"]], place[row["prediction"]]] += 1
    return counts, classes


def find_mistakes(folder: Path, runs: Sequence[Run], num: int) -> list[Mistake]:
    """The test clips that most predictions of these runs, of one task, got wrong; worst first.

    Raises:
        CorpusError: If a run's predictions cannot be read.
    """
    said: dict[tuple[str, str], Counter[str]] = defaultdict(Counter)
    for run in runs:
        for row in _read_predictions(folder, run):
            said[row["file_name"], row["label"]][row["prediction"]] += 1
    mistakes = []
    for (file_name, label), counts in said.items():
        wrong = Counter({name: count for name, count in counts.items() if name != label})
        if wrong:
            most = wrong.most_common(1)[0][0]
            mistakes.append(Mistake(file_name, label, most, wrong.total(), counts.total()))
    mistakes.sort(key=lambda each: (-each.num_wrong / each.num_said, each.file_name))
    return mistakes[:num]


def find_clip(root: Path, file_name: str) -> Path | None:
    """The file under a folder of data sets that a task calls so; None where there is none."""
    ending = "/" + file_name
    for path in root.rglob(Path(file_name).name):
        if path.as_posix().endswith(ending):
            return path
    return None


def _read_predictions(folder: Path, run: Run) -> list[Record]:
    path = folder / "predictions" / f"{run.run_id}.csv"
    return _read(path, "file_name", "label", "prediction")


def _read(path: Path, *columns: str) -> list[Record]:
    try:
        with path.open(newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file)
            rows: list[Record] = list(reader)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise CorpusError(
            f"{path}: cannot be read ({error}); `python -m evaluate` writes it"
        ) from error
    if missing := [name for name in columns if name not in (reader.fieldnames or [])]:
        raise CorpusError(f"{path}: not a file of `python -m evaluate`; no column {missing[0]}")
    return rows


def play_mistakes(mistakes: Sequence[Mistake], sets: Path) -> None:
    """Play the clips of mistakes that are found under the folder of the data sets."""
    titles = {
        f"{each.label}, taken for {each.said}: {each.file_name}": find_clip(sets, each.file_name)
        for each in mistakes
    }
    play_files({title: path for title, path in titles.items() if path is not None})
    for title in (title for title, path in titles.items() if path is None):
        print(f"not under {sets}: {title}")
