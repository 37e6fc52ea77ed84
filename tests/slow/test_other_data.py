"""The examples on images, point clouds and tokens run in small, and their tables hold together."""

import math
import re
from types import ModuleType

import pytest
import torch

from examples import comparison, images, points, tokens

VARIANTS = {
    images: ("DACL", "quantization", "crop", "crop + DACL", "crop + quantization"),
    points: ("quantization", "jitter", "jitter + quantization"),
    tokens: ("e-Mix", "quantization", "e-Mix + quantization"),
}
CLASSES = {images: 10, points: 10, tokens: 23}


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(points, "CLOUDS", 40)
    monkeypatch.setattr(tokens, "CLIPS", 10)


def run(example: ModuleType, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    monkeypatch.setattr("sys.argv", ["example", "--seeds", "2", "--steps", "3", *arguments])
    example.main()


def read_table(printed: str) -> dict[str, list[str]]:
    rows = [re.split(r" *\| *", line.strip("| ")) for line in printed.splitlines() if "|" in line]
    return {name: cells for name, *cells in rows[2:]}


@pytest.mark.parametrize(
    ("example", "objective"),
    [(images, "infonce"), (points, "byol"), (tokens, "infonce")],
    ids=lambda each: str(getattr(each, "__name__", each)),
)
def test_the_table(
    example: ModuleType,
    objective: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run(example, monkeypatch, "--objective", objective)
    table = read_table(capsys.readouterr().out)
    _, *rows = table  # the first one needs no network
    assert rows == ["untrained", "none", *VARIANTS[example]]
    reference = table.pop("none")
    for name, cells in table.items():
        for column in (0, 2):
            (score, _), (above, half) = (
                map(float, cell.split(" ± ")) for cell in cells[column : column + 2]
            )
            assert 0 <= half < math.inf
            # Three figures, each rounded to 0.1.
            difference = score - float(reference[column].split(" ± ")[0])
            assert above == pytest.approx(difference, abs=0.151), name
            # Chance has a standard deviation of 1.7 points on the 138 held-out clips of the tokens.
            assert score > 200 / CLASSES[example], name


def test_the_same_seeds_give_the_same_table(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tables = []
    for _ in range(2):
        run(images, monkeypatch)
        tables.append(read_table(capsys.readouterr().out))
    assert tables[0] == tables[1]


@pytest.mark.parametrize(("option", "value"), [("--seeds", "1"), ("--steps", "0")])
def test_too_few_are_refused(
    option: str, value: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        run(images, monkeypatch, option, value)
    assert ended.value.code == 2
    *_, line = capsys.readouterr().err.splitlines()
    assert option in line
    assert line.endswith(f"got {value}")


def test_the_interval_is_students() -> None:
    # Two values 1 and 3: standard error 1, and 12.706 of it with one degree of freedom.
    columns = [torch.tensor([1.0, 5.0]).numpy(), torch.tensor([3.0, 5.0]).numpy()]
    assert comparison.interval(columns, sign="+") == ["+2.0 ± 12.7", "+5.0 ± 0.0"]


def test_a_cloud_has_no_order() -> None:
    encoder, clouds = points.SmallPointNet().eval(), torch.randn(2, 30, 3)
    assert torch.equal(encoder(clouds), encoder(clouds.flip(1)))


def test_a_token_is_a_patch() -> None:
    log_mels = torch.zeros(1, 64, 48)
    log_mels[:, 16:32, 16:32] = 1  # the second patch of the second row of 3
    assert tokens.embed_patches(log_mels)[0].any(-1).nonzero().tolist() == [[4]]
