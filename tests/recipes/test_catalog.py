"""Recipes: what each changes, and that its scores' command makes the run they came from."""

import shlex
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from byola_rq import ConfigError
from byola_rq.cli.app import app
from byola_rq.cli.options import load_config as load_arguments
from byola_rq.config import default_config_path, flatten, load_config
from byola_rq.recipes.catalog import NAMES, load_recipe, read_recipe
from byola_rq.train.budget import count_steps
from tests.refusal import refused

FOUR = ["mixup", "random_resized_crop", "random_linear_fader", "randomized_quantization"]
GENERAL = {
    "views.augmentations": FOUR,
    "encoder.dim": 512,
    "byol.ema_schedule": "cosine",
    "optimizer.schedule": "cosine",
}
CHANGES = {
    "paper": {},
    "byola": {"views.augmentations": FOUR[:2]},
    "byola_v2": {
        "views.augmentations": FOUR[:3],
        "views.mixup.ratio": 0.2,
        "encoder.name": "audio_ntt_2022",
        "encoder.dim": 3072,
        "optimizer.lr": 1e-4,
    },
    "general": GENERAL,
    "short": {**GENERAL, "train.segments": 180_000},
}


def test_every_file_is_a_recipe() -> None:
    assert {read_recipe(name).path for name in NAMES} == set(
        read_recipe("paper").path.parent.glob("*.yaml")
    )


@pytest.mark.parametrize("name", NAMES)
def test_a_recipe_holds_what_it_changes_of_the_paper_s(name: str) -> None:
    ours = flatten(load_recipe(name).model_dump())
    paper = flatten(load_config(default_config_path()).model_dump())
    assert {key: value for key, value in ours.items() if value != paper[key]} == CHANGES[name]
    assert flatten(yaml.safe_load(read_recipe(name).path.read_text())) == CHANGES[name]


# Steps that the runs of docs/pretraining.md were planned for, and their encoders.
RUNS = {
    "paper": (5382, "audio_ntt_2020", 512, ["random_resized_crop", "randomized_quantization"]),
    "byola": (5494, "audio_ntt_2020", 512, FOUR[:2]),
    "byola_v2": (7288, "audio_ntt_2022", 1536, FOUR),
    "general": (6503, "audio_ntt_2020", 512, FOUR),
    "short": (712, "audio_ntt_2020", 512, FOUR),
}


@pytest.mark.parametrize("name", NAMES)
def test_the_command_of_its_scores_makes_their_run(name: str) -> None:
    program, command, option, other, *overrides = shlex.split(read_recipe(name).command)
    assert (program, command, option) == ("byola-rq", "pretrain", "--recipe")
    config = load_recipe(other, overrides)
    encoder = config.encoder
    made = (count_steps(config, 1823), encoder.name, encoder.dim, config.views.augmentations)
    assert made == RUNS[name]
    assert config.optimizer.schedule == "cosine"
    assert config.byol.ema_schedule == ("cosine" if name in ("general", "short") else "constant")


def test_overrides_come_last() -> None:
    config = load_recipe("short", ["encoder.dim=64", "train.segments=null", "train.max_steps=9"])
    assert (config.encoder.dim, config.train.segments, config.train.max_steps) == (64, None, 9)
    path = read_recipe("short").path
    with refused(ConfigError, "value", path, key="train.segments", value=180_000):
        load_recipe("short", ["train.max_steps=9"])
    with refused(ConfigError, "unknown", path, key="encoder.width"):
        load_recipe("short", ["encoder.width=9"])


@pytest.mark.parametrize(("name", "near"), [("genral", "general"), ("byola-v2", "byola_v2")])
def test_a_name_that_is_none_is_refused_with_the_near_one(name: str, near: str) -> None:
    with refused(ConfigError, "unknown", key="recipe", value=name) as caught:
        load_recipe(name)
    assert str(caught.value).endswith(f"{near}?")


def test_a_file_and_a_recipe_are_not_taken_together() -> None:
    with refused(ConfigError, "usage", key="--recipe", value="short") as caught:
        load_arguments(["mine.yaml", "encoder.dim=64"], "short")
    assert "mine.yaml" in str(caught.value)
    assert load_arguments(["encoder.dim=64"], "byola").encoder.dim == 64
    assert load_arguments(None, "byola_v2") == load_recipe("byola_v2")
    assert load_arguments([]) == load_recipe("paper")


def test_the_command_lists_them_and_writes_them_out(tmp_path: Path) -> None:
    listed = CliRunner().invoke(app, ["recipes"])
    assert [line.split()[0] for line in listed.stdout.splitlines()] == list(NAMES)
    for name, line in zip(NAMES, listed.stdout.splitlines(), strict=True):
        recipe = read_recipe(name)
        assert all(fact in line for fact in (recipe.summary, recipe.source, recipe.scores))
    written = CliRunner().invoke(app, ["recipes", "general"])
    (tmp_path / "my.yaml").write_text(written.stdout)
    assert load_config(tmp_path / "my.yaml") == load_recipe("general")
    assert isinstance(CliRunner().invoke(app, ["recipes", "none"]).exception, ConfigError)
