"""Mixup, fader and the pair of views, against their formulas."""

import itertools
import math

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from byola_rq import Mixup, RandomizedQuantization, RandomLinearFader, RandomResizedCrop
from byola_rq.augment.mixup import MixupParameters
from byola_rq.augment.views import AUGMENTATIONS, Views
from byola_rq.runtime.rng import fold_in, integers, sample_keys, uniform

KEYS = sample_keys(0, 0, torch.arange(16))
OPTIONS = {"random_resized_crop": {}, "randomized_quantization": {"num_bins": 3}}


def test_mixup_is_the_formula() -> None:
    mixup = Mixup(memory=10)
    past, x = torch.randn(2, 4, 1, 8, 9, generator=torch.Generator().manual_seed(0))
    mixup.remember(past)
    share = torch.tensor([0.0, 0.1, 0.39, 0.25])
    index = torch.tensor([3, 0, 2, 2])
    mixed = mixup.apply(x, MixupParameters(share=share, index=index))
    for row in range(4):
        a, z = share[row].double(), past[index[row]].double()
        expected = torch.log((1 - a) * x[row].double().exp() + a * z.exp())
        # float32: logaddexp and the two logarithms, a few units in the last place of values < 8.
        torch.testing.assert_close(mixed[row].double(), expected, atol=4e-6, rtol=0)
    assert torch.equal(mixed[0], x[0])


@pytest.mark.parametrize(("options", "ratio"), [({}, 0.4), ({"ratio": 1.0}, 1.0)])
def test_mixup_draws_shares_and_places_from_what_was_seen(
    options: dict[str, float], ratio: float
) -> None:
    mixup = Mixup(**options, memory=8)
    keys = sample_keys(1, 0, torch.arange(4000))
    x = torch.randn(4000, 1, 2, 2)
    assert (mixup.draw(x, keys).share == 0).all()
    for num_new, num_kept in ((1, 1), (2, 3), (7, 8)):
        mixup.remember(x[:num_new])
        share, index = (each.double() for each in vars(mixup.draw(x, keys)).values())
        assert index.unique().tolist() == list(range(num_kept))
        assert share.max() < ratio
        # Mean ratio / 2, standard deviation ratio / sqrt(12) over sqrt(n); for the square
        # ratio^2 / 3 and ratio^2 sqrt(4 / 45).
        assert abs(share.mean() - ratio / 2) < 5 * ratio / math.sqrt(12 * 4000)
        assert abs(share.square().mean() - ratio**2 / 3) < 5 * ratio**2 * math.sqrt(4 / 45 / 4000)


@pytest.mark.parametrize(("options", "memory"), [({}, 2048), ({"memory": 5}, 5)])
def test_mixup_keeps_the_last_inputs(options: dict[str, int], memory: int) -> None:
    mixup = Mixup(**options)
    inputs = torch.arange(3.0 * memory, requires_grad=True).reshape(-1, 1, 1, 1)
    # The third batch alone is more than is kept.
    starts = [0, memory - 2, memory + 2, 2 * memory + 3, 2 * memory + 4]
    for start, stop in itertools.pairwise(starts):
        mixup.remember(inputs[start:stop])
        last = list(range(max(stop - memory, 0), stop))
        assert sorted(mixup.ring.flatten().tolist())[-len(last) :] == last
        assert mixup.num_seen == stop
    assert not mixup.ring.requires_grad


def test_mixup_is_a_ring_written_by_position() -> None:
    """Step by step what a ring in Python's lists and integers gives, resumed in between."""
    mixup, ring, num_seen = Mixup(memory=7), [torch.zeros(1, 2, 3)] * 7, 0
    sizes = [1, 2, 4, 7, 3, 16, 5, 6, 7, 8, 1, 21]
    for step, size in enumerate(sizes):
        if step in (2, 5):
            saved = {"ring": torch.stack(ring), "num_seen": torch.tensor(num_seen)}
            assert mixup.state_dict().keys() == saved.keys()
            mixup = Mixup(memory=7)
            mixup.load_state_dict(saved)
        x = torch.randn(size, 1, 2, 3, generator=torch.Generator().manual_seed(step))
        keys = sample_keys(2, step, torch.arange(size))
        places = integers(fold_in(keys, "index"), torch.full((size,), max(min(num_seen, 7), 1)))
        shares = uniform(fold_in(keys, "share")) * 0.4 * (num_seen > 0)
        earlier = torch.stack([ring[place] for place in places.tolist()])
        share = shares.reshape(-1, 1, 1, 1)
        expected = torch.logaddexp(x + (-share).log1p(), earlier + share.log())
        assert torch.equal(mixup(x, keys), expected)
        for row in x:
            ring[num_seen % 7] = row
            num_seen += 1
        assert torch.equal(mixup.ring, torch.stack(ring))
        assert mixup.num_seen == num_seen == sum(sizes[: step + 1])


def test_mixup_state_survives_saving() -> None:
    mixup, restored = Mixup(memory=6), Mixup(memory=6)
    mixup(torch.randn(4, 1, 8, 9))
    restored.load_state_dict(mixup.state_dict())
    x = torch.randn(4, 1, 8, 9)
    assert torch.equal(mixup(x, KEYS[:4]), restored(x, KEYS[:4]))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_mixup_keeps_the_type(dtype: torch.dtype) -> None:
    mixup = Mixup()
    for x in torch.randn(2, 4, 1, 8, 9).to(dtype):
        assert mixup(x, KEYS[:4]).dtype == dtype


def test_mixup_refuses_another_shape() -> None:
    mixup = Mixup()
    mixup(torch.randn(2, 1, 8, 9))
    with pytest.raises(ValueError, match=r"\(1, 8, 10\) after \(1, 8, 9\)"):
        mixup(torch.randn(2, 1, 8, 10))


@pytest.mark.parametrize("options", [{"ratio": 0}, {"ratio": 1.1}, {"memory": 0}])
def test_mixup_options(options: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=f"^{next(iter(options))} "):
        Mixup(**options)  # type: ignore[arg-type]


def test_fader_adds_a_straight_line() -> None:
    x = torch.randn(16, 1, 8, 9)
    fader = RandomLinearFader(gain=2.0)
    gains = fader.draw(x, KEYS)
    line = torch.stack(
        [
            torch.linspace(first, last, 9)
            for first, last in zip(gains.first.tolist(), gains.last.tolist(), strict=True)
        ]
    )
    torch.testing.assert_close(fader(x, KEYS), x + line[:, None, None], atol=2e-6, rtol=0)


def test_fader_ends_are_uniform() -> None:
    gains = RandomLinearFader(gain=0.5).draw(
        torch.empty(4000, 1, 2, 2), sample_keys(0, 0, torch.arange(4000))
    )
    for ends in (gains.first, gains.last):
        assert ends.abs().max() <= 0.5
        assert abs(ends.mean()) < 5 * 0.5 / math.sqrt(3 * 4000)
        assert abs(ends.square().mean() - 0.25 / 3) < 5 * 0.25 * math.sqrt(4 / 45 / 4000)
    with pytest.raises(ValueError, match="gain"):
        RandomLinearFader(gain=0)


def test_views_chain_their_augmentations_by_key() -> None:
    log_mel = torch.randn(16, 1, 64, 96)
    made = Views(OPTIONS, post_norm=False)(log_mel, KEYS)
    crop, quantization = RandomResizedCrop(), RandomizedQuantization(3)
    for number, view in enumerate(made, start=1):
        key = fold_in(KEYS, number)
        cropped = crop(log_mel, fold_in(key, "random_resized_crop"))
        expected = quantization(cropped, fold_in(key, "randomized_quantization"))
        assert torch.equal(view, expected)
    assert not torch.equal(*made)


def test_views_do_not_depend_on_the_batch_before_post_norm() -> None:
    log_mel = torch.randn(16, 1, 64, 96)
    views = Views({**OPTIONS, "random_linear_fader": {}}, post_norm=False)
    whole, part = views(log_mel, KEYS), views(log_mel[5:7], KEYS[5:7])
    assert torch.equal(whole[0][5:7], part[0])
    assert torch.equal(whole[1][5:7], part[1])


def test_post_norm_standardizes_both_views_together() -> None:
    log_mel = torch.randn(3, 1, 8, 12) * 3 + 5  # few: whether n or n - 1 divides shows
    plain = torch.stack(Views(OPTIONS, post_norm=False)(log_mel, KEYS[:3])).double()
    normed = torch.stack(Views(OPTIONS, post_norm=True)(log_mel, KEYS[:3])).double()
    expected = (plain - plain.mean()) / plain.std()
    torch.testing.assert_close(normed, expected, atol=1e-5, rtol=1e-5)
    silence = torch.stack(Views(OPTIONS, post_norm=True)(torch.zeros(2, 1, 8, 9), KEYS[:2]))
    assert (silence == 0).all()


def test_mixup_views_mix_with_earlier_batches_only() -> None:
    chain = {"mixup": {"ratio": 0.4, "memory": 32}, "random_linear_fader": {}}
    views = Views(chain, post_norm=False)
    fader = RandomLinearFader()
    first, second = torch.randn(2, 16, 1, 8, 9)
    faded = fader(first, fold_in(fold_in(KEYS, 1), "random_linear_fader"))
    assert torch.equal(views(first, KEYS)[0], faded)
    view_1, view_2 = views(second, KEYS)
    assert not torch.equal(view_1, fader(second, fold_in(fold_in(KEYS, 1), "random_linear_fader")))
    assert not torch.equal(view_1, view_2)
    # The inputs of the whole chain, not what it made of them.
    assert torch.equal(views.augmentations["mixup"].ring, torch.cat((first, second)))


class Recorder(TorchDispatchMode):
    """Names of all operations, as a device would be asked for them."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        self.names.append(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))


def test_a_step_reads_nothing_and_replaces_no_state() -> None:
    """A CUDA graph needs this: no value is read, and the ring stays in place."""
    views = Views({name: {} for name in AUGMENTATIONS}, post_norm=True)
    x = torch.randn(16, 1, 8, 9)
    views(x, KEYS)
    before = {name: state.data_ptr() for name, state in views.state_dict().items()}
    with Recorder() as recorder:
        views(x, KEYS)
    assert "index_copy_" in recorder.names
    assert not {"_local_scalar_dense", "nonzero", "masked_select"} & set(recorder.names)
    assert {name: state.data_ptr() for name, state in views.state_dict().items()} == before


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_what_is_not_finite_is_refused_wherever_it_is(value: float, dtype: torch.dtype) -> None:
    fader = RandomLinearFader()
    largest = torch.full((2, 1, 5, 67), torch.finfo(dtype).max, dtype=dtype)
    assert torch.equal(fader(largest, KEYS[:2]).isnan(), torch.zeros_like(largest).bool())
    for place in (0, 333, 669):
        x = torch.randn(2, 1, 5, 67).to(dtype)
        x.view(-1)[place] = value
        with pytest.raises(ValueError, match=r"finite; 1 of its 670"):
            fader(x, KEYS[:2])


def test_wrong_chains_are_refused() -> None:
    with pytest.raises(ValueError, match="'noise'"):
        Views({"noise": {}}, post_norm=True)
    with pytest.raises(ValueError, match="random_resized_crop, mixup"):
        Views({"random_resized_crop": {}, "mixup": {}}, post_norm=True)
