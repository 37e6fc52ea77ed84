"""config.yaml: what loads, and one line for every rule broken."""

import math
from pathlib import Path

import pytest
import yaml

from byola_rq import ConfigError
from byola_rq.config import NEWER_KEYS, default_config_path, flatten, load_config
from byola_rq.errors import Code
from tests.refusal import refused

DEFAULT = default_config_path()


def test_the_recipe_is_the_paper_s() -> None:
    config = load_config(DEFAULT)
    assert config.views.augmentations == ["random_resized_crop", "randomized_quantization"]
    assert config.views.randomized_quantization.num_bins == 5
    assert (config.encoder.name, config.encoder.dim) == ("audio_ntt_2020", 2048)
    assert (config.optimizer.name, config.optimizer.lr) == ("adam", 3e-4)
    assert (config.train.epochs, config.train.batch_size) == (100, 256)
    assert config.byol.ema_decay == 0.99
    assert config.segment_samples == 15200


def test_overrides_reach_any_key() -> None:
    config = load_config(
        DEFAULT,
        [
            "optimizer.lr=1e-4",
            "data.source=[/a, /b.csv]",
            "views.randomized_quantization.num_bins=8",
            "views.augmentations=[mixup, random_resized_crop]",
            "train.max_steps=7",
        ],
    )
    assert config.optimizer.lr == 1e-4
    assert config.data.sources == [Path("/a"), Path("/b.csv")]
    assert config.views.randomized_quantization.num_bins == 8
    assert list(config.views.chain()) == ["mixup", "random_resized_crop"]
    assert config.train.max_steps == 7


def test_resolved_config_loads_again(tmp_path: Path) -> None:
    config = load_config(DEFAULT, ["optimizer.lr=1e-4", "data.source=/data/x"])
    (tmp_path / "config.yaml").write_text(config.to_yaml())
    assert load_config(tmp_path / "config.yaml") == config


@pytest.mark.parametrize(
    "names",
    [
        ["random_resized_crop", "mixup"],
        ["imix", "random_resized_crop"],
        ["ssql", "imix"],
        ["dacl", "imix"],
        ["dacl", "dacl"],
    ],
)
def test_chains_that_make_no_sense_are_refused(names: list[str]) -> None:
    with refused(ConfigError, "value", DEFAULT, key="views.augmentations", value=names):
        load_config(DEFAULT, [f"views.augmentations=[{', '.join(names)}]"])


def test_what_changes_the_objective_is_not_of_the_views() -> None:
    chain = "views.augmentations=[mixup, random_resized_crop, dacl, spec_augment, ssql]"
    views = load_config(DEFAULT, [chain, "views.ssql.weight_bits=[3, 4]"]).views
    assert list(views.chain()) == ["mixup", "random_resized_crop", "dacl", "spec_augment"]
    assert views.of_objective() == {"ssql": {"weight_bits": (3, 4), "activation_bits": (4, 8)}}


@pytest.mark.parametrize(
    ("override", "code", "value"),
    [
        ("optimizer.lr=abc", "value", "abc"),
        ("optimizer.lr=-1", "value", -1),
        ("optimizer.lr=.inf", "value", math.inf),
        ("views.randomized_quantization.num_bins=0", "value", 0),
        ("train.batch_size=1", "value", 1),
        ("train.batch_size=true", "value", True),
        ("run.device=tpu", "value", "tpu"),
        ("run.precision=float16", "value", "float16"),
        ("run.threads=0", "value", 0),
        ("run.threads=true", "value", True),
        ("data.resident=maybe", "value", "maybe"),
        ("encoder.name=resnet", "value", "resnet"),
        ("frontend.f_max=9000", "value", 9000),
        ("frontend.n_mels=60", "value", 60),
        ("frontend.win_length=2000", "value", 2000),
        ("data.segment_seconds=0.05", "value", 0.05),
        ("train.accumulate=7", "value", 7),
        ("train.segments=0", "value", 0),
        ("encoder.freeze_steps=-1", "value", -1),
        ("views.augmentations=[noise]", "value", "noise"),
        (
            "views.augmentations=[random_resized_crop, mixup]",
            "value",
            ["random_resized_crop", "mixup"],
        ),
        ("views.augmentations=[mixup, mixup]", "value", ["mixup", "mixup"]),
        ("views.random_resized_crop.time_scale=[2, 1]", "value", [2, 1]),
        ("optimizer.speed=3", "unknown", None),
        ("speed=3", "usage", None),
        ("optimizer.lr", "usage", None),
        ("optimizer.lr=[", "malformed", "["),
    ],
)
def test_one_broken_rule_is_one_line(override: str, code: Code, value: object) -> None:
    key = override.partition("=")[0]
    with refused(ConfigError, code, key=key, value=value) as caught:
        load_config(DEFAULT, [override])
    if code == "value":
        assert caught.value.path == DEFAULT
        assert caught.value.problems == ((key, value, code),)


def test_two_lengths_of_one_run_are_refused() -> None:
    with refused(ConfigError, "value", DEFAULT, key="train.segments", value=900) as caught:
        load_config(DEFAULT, ["train.segments=900", "train.max_steps=7"])
    assert "max_steps" in str(caught.value)


def test_a_configuration_of_before_the_newer_keys_loads(tmp_path: Path) -> None:
    values = yaml.safe_load(DEFAULT.read_text())
    for key in NEWER_KEYS:
        *sections, name = key.split(".")
        parent = values
        for section in sections:
            parent = parent[section]
        del parent[name]
    for parent, section in ((values, "objective"), (values["views"], "dacl")):
        assert parent.pop(section) == {}
    path = tmp_path / "old.yaml"
    path.write_text(yaml.safe_dump(values))
    old = flatten(load_config(path).model_dump(mode="json"))
    assert {key: old[key] for key in NEWER_KEYS} == NEWER_KEYS
    assert load_config(path, ["train.segments=900"]).train.segments == 900


def test_all_broken_rules_are_reported_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(DEFAULT, ["optimizer.lr=0", "train.epochs=0", "encoder.dim=-3"])
    problems = (("encoder.dim", -3), ("optimizer.lr", 0), ("train.epochs", 0))
    assert caught.value.problems == tuple((*problem, "value") for problem in problems)
    assert (caught.value.key, caught.value.value) == problems[0]
    for line, (key, value) in zip(str(caught.value).splitlines(), problems, strict=True):
        assert line.startswith(f"{DEFAULT}: {key}")
        assert line.endswith(str(value))


@pytest.mark.parametrize(
    ("text", "code", "problem"),
    [
        ("optimizer: {lr: 1, lrr: 2}\n", "missing", ("optimizer.lrr", 2, "unknown")),
        ("run: {dir: x}\n", "missing", ("run.seed", None, "missing")),
        ("- 1\n", "empty", None),
        ("a: [\n", "malformed", None),
        ("", "empty", None),
    ],
)
def test_wrong_files_are_refused(
    tmp_path: Path, text: str, code: Code, problem: tuple[str, object, Code] | None
) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    assert (caught.value.path, caught.value.code) == (path, code)
    assert str(path) in str(caught.value)
    assert problem in caught.value.problems if problem else not caught.value.problems


def test_missing_file_is_named(tmp_path: Path) -> None:
    with refused(ConfigError, "unreadable", tmp_path / "none.yaml"):
        load_config(tmp_path / "none.yaml")


NAMES = ["2024", "001", "2026-11-26", "on", "1e3", "a [1] #x", "b: c", "{x}", "*y", "!z", "a b"]


@pytest.mark.parametrize("name", NAMES)
def test_a_path_is_what_is_written(tmp_path: Path, name: str) -> None:
    overrides = [f"run.dir=r/{name}", f"data.source={name}", f"encoder.init={name}"]
    config = load_config(DEFAULT, overrides)
    assert (config.run.dir, config.data.sources) == (Path("r") / name, [Path(name)])
    assert config.encoder.init == name
    # And it is the same again in the file that a run keeps.
    (tmp_path / "config.yaml").write_text(config.to_yaml())
    assert load_config(tmp_path / "config.yaml") == config


def test_paths_of_a_file_are_what_is_written(tmp_path: Path) -> None:
    values = yaml.safe_load(DEFAULT.read_text())
    text = yaml.safe_dump({**values, "data": {**values["data"], "source": ["001", "2024", "x"]}})
    path = tmp_path / "mine.yaml"
    path.write_text(text.replace("'001'", "001").replace("'2024'", "2024"))
    assert load_config(path).data.sources == [Path("001"), Path("2024"), Path("x")]


def test_brackets_are_a_list_unless_there_is_such_a_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert load_config(DEFAULT, ["data.source=[x, 001]"]).data.sources == [Path("x"), Path("001")]
    assert load_config(DEFAULT, ['data.source="x y"']).data.sources == [Path("x y")]
    (tmp_path / "[x, 001]").mkdir()
    assert load_config(DEFAULT, ["data.source=[x, 001]"]).data.sources == [Path("[x, 001]")]
    assert load_config(DEFAULT, ["data.source=null"]).data.sources == []


def test_a_tilde_is_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    config = load_config(
        DEFAULT, ["run.dir=~/runs/a", "data.source=[~/x, y]", "validation.labelled=~/v.csv"]
    )
    assert config.run.dir == tmp_path / "runs" / "a"
    assert config.data.sources == [tmp_path / "x", Path("y")]
    assert config.validation.labelled == tmp_path / "v.csv"
