"""Runs that are killed, values that are not finite, processes that share the work: in small."""

from pathlib import Path

import pytest

from benchmarks.survival_kills import THREE_EPOCHS, kill_often
from benchmarks.survival_memory import Sample, fit_slopes
from benchmarks.survival_nonfinite import PLACES, inject_often
from benchmarks.survival_samples import digest_sequences

pytestmark = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="reads Linux' /proc")

NUM_KILLS = 6


def test_runs_killed_at_any_moment_end_with_the_same_bits(sounds: Path, tmp_path: Path) -> None:
    seen: list[int] = []
    kills = kill_often(
        sounds,
        tmp_path,
        times=NUM_KILLS,
        seed=1,
        overrides=(*THREE_EPOCHS, "train.batch_size=4"),  # 18 steps
        on_kill=lambda kills: seen.append(kills.num_kills),
    )
    assert kills.num_kills == NUM_KILLS
    assert kills.by_phase.total() == NUM_KILLS
    assert seen == list(range(1, NUM_KILLS + 1))
    assert len(kills.expected) == 3
    assert kills.differences == []


def test_values_that_are_not_finite_change_no_weight(sounds: Path, tmp_path: Path) -> None:
    injections = inject_often(sounds, tmp_path, values=12, seed=0)
    assert {each.place for each in injections} == set(PLACES)
    assert [each for each in injections if not each.is_right] == []


def test_samples_are_the_same_whoever_reads_them(sounds: Path, tmp_path: Path) -> None:
    sequences = digest_sequences(sounds, tmp_path, steps=6, ways=[(1, 0), (2, 2)])
    assert [each.samples for each in sequences] == [48] * 3
    assert len({each.digest for each in sequences}) == 1
    # And the digest tells: another corpus has another one.
    fewer = tmp_path / "fewer"
    fewer.mkdir()
    for path in sorted(sounds.iterdir())[:20]:
        (fewer / path.name).symlink_to(path)
    others = digest_sequences(fewer, tmp_path / "others", steps=6, ways=[])
    assert {each.digest for each in others}.isdisjoint({each.digest for each in sequences})


def test_a_leak_has_a_slope_and_steady_memory_none() -> None:
    steady = [
        Sample(step, main=10**8 + 4096 * (step % 7), total=2 * 10**8) for step in range(0, 2000, 5)
    ]
    leaking = [
        Sample(each.step, each.main + 300 * each.step, each.total + 300 * each.step)
        for each in steady
    ]
    assert all(each.low <= 1 and abs(each.slope) < 10 for each in fit_slopes(steady))
    for each in fit_slopes(leaking):
        assert each.low <= each.slope <= each.high
        assert each.slope == pytest.approx(300, rel=0.1)
        assert each.low > 250
    with pytest.raises(ValueError, match="steps"):
        fit_slopes(steady[:10])
