"""`python -m evaluate inspect`: find data sets and check that they are complete."""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import combinations
from pathlib import Path

from rich.markup import escape
from rich.table import Table

from byola_rq.audio.encoded import EncodedAudio, reason_of
from byola_rq.audio.io import inspect_audio
from byola_rq.errors import ByolaRQError
from byola_rq.runtime.files import replace_file
from byola_rq.runtime.prefetch import map_ahead
from byola_rq.runtime.progress import ProgressBar
from byola_rq.runtime.terminal import say
from byola_rq.text.cells import csv_text
from byola_rq.text.shown import printable, shown
from evaluate.publishers.layouts import LAYOUTS, find_layouts, read_layout
from evaluate.reports.table import make_console
from evaluate.tasks.archives import read_member
from evaluate.tasks.labelled_csv import read_labelled_csv
from evaluate.tasks.task import Clip, Problem, Task, TaskError

_NUM_SHOWN = 10  # problems of a kind on the terminal; the csv lists all
_HARMLESS = frozenset({"unlisted"})  # a file that no list names is in no part
_GROUPS = {layout.name: layout.group for layout in LAYOUTS}


@dataclass(frozen=True)
class Recording:
    """Audio file of a task and the facts found in it."""

    name: str
    clips: tuple[Clip, ...]  # a single clip, or the windows of the file
    seconds: float = 0.0
    fault: str = ""  # reason why it cannot be used
    digest: str = ""  # SHA-256 of its bytes, if requested


@dataclass(frozen=True)
class Finding:
    """Result of inspecting one data set; without clips if it could not be read."""

    name: str
    source: Path
    problems: tuple[Problem, ...]
    num_clips: int = 0
    num_classes: int = 0
    unit_seconds: float = 0.0
    hours: float = 0.0
    lines: tuple[str, ...] = ()  # counts, checks, notes and warnings

    @property
    def is_sound(self) -> bool:
        """True if there is no problem that could change a score."""
        return all(problem.kind in _HARMLESS for problem in self.problems)


def inspect(
    data_root: Path | None,
    csv_tasks: Sequence[Path],
    *,
    seed: int,
    num_workers: int,
    with_digests: bool,
    out: Path | None = None,
    by_archive: bool = False,
) -> bool:
    """Check every file of every data set; print counts and problems.

    Args:
        data_root: Folder to search for published sets.
        csv_tasks: Csv files of labeled clips.
        seed: Seed of splits that a publisher does not give.
        num_workers: Number of threads that open files.
        with_digests: True to read files completely, to prove that no two parts share one.
        out: Csv to write all problems to, `task,kind,name,detail`.
        by_archive: True to divide VoxForge by archive, not by speaker.

    Returns:
        True if there is a set and all are sound: no clip is missing, duplicated, in two parts or
        unreadable.

    Raises:
        TaskError: If the folder `data_root` does not exist, or `out` cannot be written.
    """
    findings = []
    for name, source, read in _list_tasks(data_root, csv_tasks, seed, by_archive):
        try:
            finding = inspect_task(read(), num_workers=num_workers, with_digests=with_digests)
        except ByolaRQError as error:
            reason = str(error).removeprefix(f"{source}: ")
            finding = Finding(name, source, (Problem("error", str(source), reason),))
        findings.append(finding)
        for line in _describe(finding):
            say(line)
    for layout in LAYOUTS if data_root is not None else ():
        if not layout.stands_in_for and layout.name not in {each.name for each in findings}:
            say(f"{layout.name}: not found ({layout.title}: a folder with {layout.holds})")
    _print_table(findings)
    if out is not None:
        _write_problems(out, findings)
    return bool(findings) and all(finding.is_sound for finding in findings)


def inspect_task(task: Task, *, num_workers: int, with_digests: bool) -> Finding:
    """Check every file of a task."""
    clips_of: dict[tuple[Path, str], list[Clip]] = defaultdict(list)
    for clip in task.clips:
        clips_of[clip.path, clip.member].append(clip)
    look = partial(check_file, with_digest=with_digests)
    recordings = []
    with ProgressBar(f"checking the files of {task.name}", len(clips_of)) as bar:
        for recording in map_ahead(look, clips_of.values(), num_workers):
            recordings.append(recording)
            bar.advance()
    problems = [
        *task.problems,
        *(Problem("unreadable", each.name, each.fault) for each in recordings if each.fault),
        *find_shared_files(recordings),
    ]
    lines = [
        _count_parts(task),
        *(f"checked: {check}" for check in _list_checks(task, problems, recordings, with_digests)),
        *(f"note: {note}" for note in task.notes),
        *(f"warning: {warning}" for warning in task.warnings),
    ]
    return Finding(
        task.name,
        task.source,
        tuple(problems),
        num_clips=len(task.clips),
        num_classes=len(task.classes),
        unit_seconds=task.unit_seconds,
        hours=sum(each.seconds for each in recordings) / 3600,
        lines=tuple(lines),
    )


def check_file(clips: Sequence[Clip], *, with_digest: bool) -> Recording:
    """Open the file of one clip, or of several windows, and check that it is complete."""
    path, member = clips[0].path, clips[0].member
    name = clips[0].file_name if len(clips) == 1 else path.name
    source: Path | EncodedAudio = path
    seconds, fault, digest = 0.0, "", ""
    try:
        if member:
            source = read_member(path, member)
        info = inspect_audio(source)
        seconds = info.num_samples / info.sample_rate
        if with_digest:
            digest = _digest(source)
    except (ByolaRQError, OSError) as error:
        fault = reason_of(error, source)
    return Recording(name, tuple(clips), seconds, fault, digest)


def find_shared_files(recordings: Iterable[Recording]) -> list[Problem]:
    """Find files of equal bytes in two parts; windows are skipped: they share files by design."""
    first_of: dict[str, dict[str, str]] = defaultdict(dict)  # digest -> part -> name
    problems = []
    for recording in recordings:
        if recording.digest and len(recording.clips) == 1:
            names = first_of[recording.digest]
            part = recording.clips[0].part
            for other, name in names.items():
                if other != part:
                    detail = f"in {part}, the same bytes as {name} in {other}"
                    problems.append(Problem("overlap", recording.name, detail))
                    break
            names.setdefault(part, recording.name)
    return problems


def describe_groups(task: Task, word: str) -> str:
    """Describe the parts that share speakers, or other groups; empty if clips have no groups."""
    parts_of: dict[str, set[str]] = defaultdict(set)
    for clip in task.clips:
        if clip.group:
            parts_of[clip.group].add(clip.part)
    if not parts_of:
        return ""
    shared = Counter(pair for parts in parts_of.values() for pair in combinations(sorted(parts), 2))
    if not shared:
        return f"no {word} in two parts, checked over {len(parts_of):,}"
    which = ", ".join(f"{a} and {b} {count:,}" for (a, b), count in sorted(shared.items()))
    return f"{word}s in two parts, of {len(parts_of):,}: {which}"


def _list_tasks(
    data_root: Path | None, csv_tasks: Sequence[Path], seed: int, by_archive: bool
) -> Iterator[tuple[str, Path, Callable[[], Task]]]:
    if data_root is not None:
        for name, folders in find_layouts(data_root).items():
            read = partial(read_layout, name, data_root, seed=seed, by_archive=by_archive)
            yield name, folders[0], read
    for path in csv_tasks:
        yield path.stem, path, partial(read_labelled_csv, path)


def _list_checks(
    task: Task, problems: Sequence[Problem], recordings: Sequence[Recording], has_digests: bool
) -> Iterator[str]:
    """Yield the properties that hold for all clips, and the division of groups."""
    kinds = {problem.kind for problem in problems}
    if "missing" not in kinds:
        yield "no listed clip is missing"
    if not kinds & {"duplicate", "overlap"}:
        yield "no clip twice"
    if groups := describe_groups(task, _GROUPS.get(task.name) or "group"):
        yield groups
    if "unreadable" not in kinds:
        yield f"all {len(recordings):,} files open, none is cut short"
    if has_digests and "overlap" not in kinds:
        yield "no two parts share a file, proved by SHA-256"


def _describe(finding: Finding) -> Iterator[str]:
    """Yield the lines about one data set."""
    yield f"{finding.name} in {finding.source}"
    yield from (f"  {line}" for line in finding.lines)
    of_kind: dict[str, list[Problem]] = defaultdict(list)
    for problem in finding.problems:
        of_kind[problem.kind].append(problem)
    for kind, problems in of_kind.items():
        yield f"  {kind}: {len(problems):,}"
        yield from (f"    {problem.name}: {problem.detail}" for problem in problems[:_NUM_SHOWN])
        if len(problems) > _NUM_SHOWN:
            yield f"    and {len(problems) - _NUM_SHOWN:,} more (--out FILE lists all)"


def _count_parts(task: Task) -> str:
    counts = Counter(clip.part for clip in task.clips)
    order = ("train", "valid", "test")
    # Sorts folds as 1, 2, 10.
    parts = sorted(counts, key=lambda p: (order.index(p) if p in order else 3, len(p), p))
    kind = "fold " if task.has_folds else ""
    return ", ".join(f"{kind}{part} {counts[part]:,}" for part in parts)


def _print_table(findings: Sequence[Finding]) -> None:
    console = make_console()
    table = Table(title="Data sets")
    table.add_column("task", overflow="fold")
    for column in ("clips", "classes", "unit s", "hours", "problems"):
        table.add_column(column, justify="right")
    for column in ("sound", "folder"):
        table.add_column(column, overflow="fold")
    for each in findings:
        facts = [f"{each.num_clips:,}", f"{each.num_classes:,}", f"{each.unit_seconds:g}"]
        facts.append(f"{each.hours:,.2f}")
        verdict = "yes" if each.is_sound else "no"
        cells = [
            each.name,
            *(facts if each.num_clips else "----"),
            f"{len(each.problems):,}",
            verdict,
            str(each.source),
        ]
        table.add_row(*(escape(shown(cell)) for cell in cells))
    if findings:
        console.print(table)


def _write_problems(out: Path, findings: Sequence[Finding]) -> None:
    rows = [("task", "kind", "name", "detail")]
    for finding in findings:
        rows += [
            (finding.name, p.kind, printable(p.name), printable(p.detail)) for p in finding.problems
        ]
    try:
        replace_file(out, csv_text(rows))
    except OSError as error:
        raise TaskError(
            f"{out}: the problems cannot be written: {error.strerror}", code="unwritable", path=out
        ) from error


def _digest(source: Path | EncodedAudio) -> str:
    if isinstance(source, EncodedAudio):
        return hashlib.sha256(source.data).hexdigest()
    with source.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
