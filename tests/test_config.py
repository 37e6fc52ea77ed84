"""config.yaml: what loads, and one line for every rule broken."""

from pathlib import Path

import pytest

from byola_rq import ConfigError
from byola_rq.config import default_config_path, load_config

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
    ("override", "message"),
    [
        ("optimizer.lr=abc", "optimizer.lr: must be a valid number.*'abc'"),
        ("optimizer.lr=-1", "optimizer.lr: must be greater than 0; got -1"),
        ("optimizer.lr=.nan", "optimizer.lr: must be a finite number"),
        ("views.randomized_quantization.num_bins=0", "num_bins: must be greater than or equal to"),
        ("train.batch_size=1", "train.batch_size: must be greater than or equal to 2; got 1"),
        ("train.batch_size=true", "train.batch_size: must be a number; got True"),
        ("run.device=tpu", "run.device: must be auto, cpu, cuda or cuda:N; got 'tpu'"),
        ("run.precision=float16", "run.precision: must be .*got 'float16'"),
        ("encoder.name=resnet", "encoder.name: must be 'audio_ntt_2020' or 'audio_ntt_2022'"),
        ("frontend.f_max=9000", "f_max must be .* at most half the sample rate; got 9000"),
        ("frontend.n_mels=60", "frontend.n_mels: must be a multiple of 8; got 60"),
        ("frontend.win_length=2000", "win_length must be at most n_fft; got 2000"),
        ("data.segment_seconds=0.05", "segment_seconds must give at least 8 frames"),
        ("views.augmentations=[noise]", "must be 'mixup', 'random_resized_crop'"),
        ("views.augmentations=[random_resized_crop, mixup]", "must have mixup first"),
        ("views.augmentations=[mixup, mixup]", "must not repeat"),
        ("views.random_resized_crop.time_scale=[2, 1]", r"must be \[low, high\]; got \[2, 1\]"),
        ("optimizer.speed=3", r"'optimizer.speed=3' must be .*known there: name, lr"),
        ("speed=3", "must be section.key=value"),
        ("optimizer.lr", "must be section.key=value"),
        ("optimizer.lr=[", "the value must be YAML"),
    ],
)
def test_one_broken_rule_is_one_line(override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        load_config(DEFAULT, [override])
    assert "\n" not in str(caught.value)


def test_all_broken_rules_are_told_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(DEFAULT, ["optimizer.lr=0", "train.epochs=0", "encoder.dim=-3"])
    lines = str(caught.value).splitlines()
    assert [line.split(": ")[1] for line in lines] == [
        "encoder.dim",
        "optimizer.lr",
        "train.epochs",
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("optimizer: {lr: 1, lrr: 2}\n", "optimizer.lrr: unknown key; known are name, lr,"),
        ("run: {dir: x}\n", "run.seed: missing"),
        ("- 1\n", "must hold sections"),
        ("a: [\n", "not a configuration that can be read"),
        ("", "must hold sections"),
    ],
)
def test_wrong_files_are_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=f"mine.yaml: {message}|{message}"):
        load_config(path)


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.yaml: not a configuration"):
        load_config(tmp_path / "none.yaml")
