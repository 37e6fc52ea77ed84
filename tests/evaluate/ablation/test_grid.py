import json
import re
from pathlib import Path

import pytest

from byola_rq.config import NEWER_KEYS, load_config
from byola_rq.corpus.packed_format import FORMAT, FORMAT_VERSION, INDEX, REJECTED, shard_name
from byola_rq.errors import ConfigError
from evaluate.ablation.cost import H100_SEGMENTS_PER_SECOND
from evaluate.ablation.grid import identify, plan_runs, read_grid
from tests.conftest import ROOT
from tests.refusal import refused

SHIPPED = sorted((ROOT / "ablations").glob("*.yaml"))

GRID = """
base: paper
overrides: {encoder.dim: 16, train.segments: 64}
reference: with
variants:
  with: {}
  without: {views.augmentations: [random_resized_crop]}
"""


@pytest.fixture
def grid_file(tmp_path: Path) -> Path:
    path = tmp_path / "small.yaml"
    path.write_text(GRID)
    return path


def changed(path: Path, before: str, after: str) -> Path:
    text = path.read_text()
    assert before in text
    path.write_text(text.replace(before, after))
    return path


@pytest.mark.parametrize("path", SHIPPED, ids=[path.stem for path in SHIPPED])
def test_a_shipped_grid_resolves_and_is_planned(path: Path, tmp_path: Path) -> None:
    grid = read_grid(path, options=[f"data.source={tmp_path}"])
    runs = plan_runs(grid, 3)
    assert len({run.digest for run in runs}) == len(runs) == 3 * len(grid.variants)
    assert all(run.num_segments for run in runs)


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("quantizer", 5),
        ("bins", 7),
        ("scope", 2),
        ("rivals", 2 * 6 * 2),
        ("chain", 2**3 + 3),
        ("encoder", 4),
    ],
)
def test_a_shipped_grid_has_the_variants_it_is_about(name: str, count: int) -> None:
    assert len(read_grid(ROOT / "ablations" / f"{name}.yaml").variants) == count


def test_one_configuration_is_one_run_whatever_the_grid(tmp_path: Path) -> None:
    def digests(name: str) -> set[str]:
        grid = read_grid(ROOT / "ablations" / f"{name}.yaml", options=[f"data.source={tmp_path}"])
        return {run.digest for run in plan_runs(grid, 1)}

    shared = digests("quantizer") & digests("bins") & digests("scope") & digests("chain")
    assert len(shared) == 1
    assert len(digests("rivals") & digests("quantizer")) == 2  # with the crop: none, quantization


def test_all_variants_of_a_seed_come_before_the_next(grid_file: Path) -> None:
    runs = plan_runs(read_grid(grid_file, ["run.seed=5"]), 2)
    assert [(run.variant, run.seed) for run in runs] == [
        ("with", 5),
        ("without", 5),
        ("with", 6),
        ("without", 6),
    ]


def test_overrides_reach_every_variant(grid_file: Path) -> None:
    grid = read_grid(grid_file, ["encoder.dim=32", "optimizer.lr=1e-4"])
    assert {(v.config.encoder.dim, v.config.optimizer.lr) for v in grid.variants} == {(32, 1e-4)}


def test_a_base_may_be_a_file_beside_the_grid(grid_file: Path) -> None:
    config = load_config(ROOT / "config.yaml", ["optimizer.lr=0.125"])
    (grid_file.parent / "mine.yaml").write_text(config.to_yaml())
    grid = read_grid(changed(grid_file, "base: paper", "base: mine.yaml"))
    assert {variant.config.optimizer.lr for variant in grid.variants} == {0.125}


def test_what_decides_nothing_is_no_part_of_a_run() -> None:
    before = load_config(ROOT / "config.yaml", ["views.augmentations=[random_resized_crop]"])
    unused = ["views.mixup.ratio=0.1", "views.randomized_quantization.num_bins=9"]
    free = ["run.threads=3", "checkpoint.keep=9"]
    crop = ["views.augmentations=[random_resized_crop]"]
    assert identify(load_config(ROOT / "config.yaml", crop + unused + free)) == identify(before)
    for decisive in ("run.seed=1", "encoder.dim=64", "views.random_resized_crop.canvas=[1, 2]"):
        assert identify(load_config(ROOT / "config.yaml", [*crop, decisive])) != identify(before)


def test_a_key_that_came_later_leaves_finished_runs_finished() -> None:
    identity = identify(load_config(ROOT / "config.yaml"))
    assert not identity.keys() & NEWER_KEYS.keys()
    assert "encoder.freeze_steps" in identify(
        load_config(ROOT / "config.yaml", ["encoder.freeze_steps=2"])
    )


def test_a_packed_corpus_is_what_is_in_it(grid_file: Path, tmp_path: Path) -> None:
    for name, sha256 in (("a", "1"), ("moved", "1"), ("other", "2")):
        (tmp_path / name).mkdir()
        files = {each: {"bytes": 9, "sha256": sha256} for each in (INDEX, REJECTED, shard_name(0))}
        info = {"format": FORMAT, "format_version": FORMAT_VERSION, "clips": 1}
        info |= {"hours": 1.0, "sample_rate": 16000}
        info |= {"rejected": 0, "duplicates": 0, "shards": 1, "files": files, "options": {}}
        (tmp_path / name / "corpus.json").write_text(json.dumps(info))

    def digest(name: str) -> str:
        grid = read_grid(grid_file, options=[f"data.source={tmp_path / name}"])
        return plan_runs(grid, 1)[0].digest

    assert digest("a") == digest("moved") != digest("other")


@pytest.mark.parametrize(
    ("before", "after", "code", "key"),
    [
        ("reference:", "referense: x\nreference:", "unknown", "referense"),
        ("with: {}", "with: {encoder.dmi: 8}", "unknown", "encoder.dmi"),
        ("with: {}", "with: {dim: 8}", "usage", "dim"),
        ("encoder.dim: 16", "encoder.dim: -1", "value", "encoder.dim"),
        ("with: {}", "with: {optimizer.lr: fast}", "value", "optimizer.lr"),
        ("base: paper", "base: papper", "unknown", "base"),
        ("base: paper", "", "missing", "base"),
        ("reference: with", "reference: width", "unknown", "reference"),
        ("with: {}", "with: {}\n  with: {encoder.dim: 8}", "malformed", None),
        ("with: {}", "with: {}\n  again: {views.mixup.ratio: 0.1}", "twice", "variants.again"),
        ("  without: {views.augmentations: [random_resized_crop]}", "", "value", "variants"),
        ("with: {}", "with: 5", "value", "variants.with"),
        ("with: {}", "5: {}", "value", "variants.5"),
        ("with: {}", "'': {}", "value", "variants."),
        ("with: {}", "with: {optimizer.lr: 2026-11-27}", "value", "optimizer.lr"),
        ("encoder.dim: 16", "run.dir: x", "usage", "run.dir"),
        ("with: {}", "with: {data.source: x}", "usage", "data.source"),
        ("with: {}", "with: {run.seed: 7}", "usage", "run.seed"),
    ],
)
def test_a_wrong_grid_is_refused(
    grid_file: Path, before: str, after: str, code: str, key: str | None
) -> None:
    with refused(ConfigError, code, grid_file, key=key):
        read_grid(changed(grid_file, before, after))


@pytest.mark.parametrize("text", ["", "- a", "a: [", "5"])
def test_what_is_no_grid_is_refused(grid_file: Path, text: str) -> None:
    grid_file.write_text(text)
    with refused(ConfigError, "malformed" if text == "a: [" else "value", grid_file):
        read_grid(grid_file)


def test_a_variant_may_change_nothing_and_have_any_name(grid_file: Path) -> None:
    name = "音" * 200
    grid = read_grid(changed(grid_file, "with: {}", f"with:\n  {name}: {{encoder.dim: 8}}"))
    assert [variant.name for variant in grid.variants] == ["with", name, "without"]
    for run in plan_runs(grid, 1):
        assert len(f".{run.stem}-{run.digest}.yaml.part".encode()) < 200  # a name may have 255


def test_a_grid_is_not_named_as_results_are(grid_file: Path) -> None:
    with refused(ConfigError, "usage", grid_file.with_name("results.yaml")):
        read_grid(grid_file.rename(grid_file.with_name("results.yaml")))


def test_a_grid_that_is_not_there(tmp_path: Path) -> None:
    with refused(ConfigError, "unreadable", tmp_path / "none.yaml"):
        read_grid(tmp_path / "none.yaml")


def test_an_override_may_not_undo_what_variants_are_about(grid_file: Path) -> None:
    with refused(ConfigError, "usage", grid_file, key="views.augmentations"):
        read_grid(grid_file, ["views.augmentations=[]"])


def test_the_costs_in_the_docs_are_those_of_the_grids(tmp_path: Path) -> None:
    text = (ROOT / "docs" / "ablations.md").read_text()
    told = re.findall(
        r"^\| `ablations/(\w+).yaml` \|.*\| (\d+) \| ([\d,]+) \| ([\d.]+) \|$", text, re.M
    )
    assert {name for name, *_ in told} == {path.stem for path in SHIPPED} - {"check"}
    lengths: dict[str, int] = {}
    for name, count, segments, minutes in told:
        grid = read_grid(ROOT / "ablations" / f"{name}.yaml", options=[f"data.source={tmp_path}"])
        runs = plan_runs(grid, 3)
        total = sum(run.num_segments or 0 for run in runs)
        assert (count, segments) == (str(len(runs)), f"{total:,}")
        assert minutes == f"{total / H100_SEGMENTS_PER_SECOND / 60:.1f}"
        lengths |= {run.digest: run.num_segments or 0 for run in runs}
    whole = sum(lengths.values())
    minutes = whole / H100_SEGMENTS_PER_SECOND / 60
    said = f"{len(lengths)} runs, {whole / 1e6:.0f} million segments, {minutes:.0f} minutes"
    assert said in " ".join(text.split())
