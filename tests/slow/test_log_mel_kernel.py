"""The kernels of the log-mel spectrogram against its plain path, interpreted or on a GPU."""

import pytest
import torch

from byola_rq.audio.frontend import LogMelSpectrogram
from byola_rq.audio.log_mel import KERNELS

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


@pytest.mark.parametrize(
    ("shape", "options"),
    [
        ((3, 4000), {}),
        ((2, 513), {}),
        ((5, 1601), {"win_length": 640}),
        ((2, 1600), {"n_fft": 401, "win_length": 400, "n_mels": 3}),
        ((2, 3000), {"sample_rate": 8000, "n_fft": 256, "win_length": 255, "f_max": 4000}),
    ],
)
@pytest.mark.parametrize("most", [7, 1 << 16])
def test_kernels_give_what_the_plain_path_gives(
    shape: tuple[int, int], options: dict[str, float], most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    log_mel_kernel = pytest.importorskip("byola_rq.audio.log_mel_kernel")
    monkeypatch.setattr(log_mel_kernel, "MAX_FRAMES", most)
    frontend = LogMelSpectrogram(**options).to(DEVICE)  # type: ignore[arg-type]
    waveform = torch.randn(shape, generator=torch.Generator().manual_seed(0)) * 0.1
    waveform[1, 100:] = 0  # silence: the logarithm of epsilon
    waveform = waveform.to(DEVICE)
    monkeypatch.setattr(KERNELS, "device_types", set())
    expected = frontend(waveform)
    monkeypatch.setattr(KERNELS, "device_types", {DEVICE})
    found = frontend(waveform.T.contiguous().T)  # of any strides
    assert not KERNELS.have_failed
    torch.testing.assert_close(found, expected, atol=2e-5, rtol=0)
    # Alone or with others: on a GPU the FFT may round by how many frames there are.
    rounding = 0.0 if DEVICE == "cpu" else 2e-6
    torch.testing.assert_close(frontend(waveform[1]), found[1], atol=rounding, rtol=0)
    spoilt = waveform.clone()
    spoilt[0, 300] = torch.nan
    assert frontend(spoilt)[0].isnan().any()
    assert torch.equal(frontend(spoilt)[1], found[1])
