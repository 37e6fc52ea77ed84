"""The method in plain PyTorch: python examples/pretrain_in_100_lines.py [FOLDER].

Trains for about a minute on two cores, on synthesized sounds or on a folder of audio files. With
seeds 0 to 2 the trained encoder finds the other view of a segment in 57 to 58 % of the trials, the
untrained one in 49 to 52 %. Telling kinds of sound apart takes more data and time: docs/results.md.
"""

import argparse
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from byola_rq import BYOL, LogMelSpectrogram, RandomizedQuantization, RandomResizedCrop
from byola_rq.audio.frontend import measure_statistics
from byola_rq.audio.io import AUDIO_SUFFIXES, read_audio
from byola_rq.model.encoder import AudioNTT2020
from byola_rq.synthesis.generate import KINDS, make_clip

# Hz; samples: 2 s and 0.63 s. The paper uses segments of 0.95 s and batches of 256.
SAMPLE_RATE, CLIP, SEGMENT, BATCH = 16_000, 32_000, 10_080, 32

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("folder", type=Path, nargs="?", help="audio files; default: synthesized")
parser.add_argument("--steps", type=int, default=300, help="training steps of 32 segments each")
parser.add_argument("--clips", type=int, default=368, help="number of clips; half are held out")
parser.add_argument("--seed", type=int, default=0, help="of weights, segments and augmentations")
options = parser.parse_args()
torch.manual_seed(options.seed)

# Sounds: clips of 2 s with a label each; half of them are held out.
if options.folder:
    paths = sorted(p for p in options.folder.rglob("*") if p.suffix.lower() in AUDIO_SUFFIXES)
    paths = [paths[number] for number in torch.randperm(len(paths))[: options.clips]]
    if len(paths) < 4:
        parser.error(f"{options.folder}: needs at least 4 audio files; it has {len(paths)}")
    waveforms = [read_audio(path, SAMPLE_RATE, num_samples=CLIP).numpy() for path in paths]
    names = [path.parent.name for path in paths]
else:
    kinds = [kind for kind in KINDS if kind.startswith(("note", "event"))]  # 23
    names = [kinds[number % len(kinds)] for number in range(options.clips)]
    waveforms = [make_clip(name, seed=n, seconds=2.0) for n, name in enumerate(names)]
clips = torch.from_numpy(np.stack([np.resize(each, CLIP) for each in waveforms])).float()  # (N, S)
labels = torch.tensor([sorted(set(names)).index(name) for name in names])
train, held_out = clips.chunk(2)

# Networks: `encoder` is trained; BYOL adds projector, predictor and the target network.
frontend = LogMelSpectrogram(sample_rate=SAMPLE_RATE, hop_length=320)  # the paper's: 160
crop, quantize = RandomResizedCrop(), RandomizedQuantization(num_bins=5)
encoder = AudioNTT2020(dim=128)
byol = BYOL(encoder, projection_dim=256, hidden_dim=1024)
optimizer = torch.optim.Adam([p for p in byol.parameters() if p.requires_grad], lr=3e-4)


def draw_segments() -> Tensor:
    """Compute log-mels of a random segment of random clips, `(B, 1, F, T)`."""
    rows = torch.randint(len(train), (BATCH,)).tolist()
    starts = torch.randint(CLIP - SEGMENT, (BATCH,)).tolist()
    parts = [train[row, start:][:SEGMENT] for row, start in zip(rows, starts, strict=True)]
    return torch.as_tensor(frontend(torch.stack(parts)))[:, None]


def make_views(log_mel: Tensor) -> tuple[Tensor, ...]:
    """Crop and quantize twice; standardize both views together, to keep their level difference."""
    views = torch.cat([quantize(crop(log_mel)) for _ in range(2)])
    return ((views - views.mean()) / views.std()).chunk(2)


@torch.no_grad()
def score(embed: Callable[[Tensor], Tensor]) -> str:
    """Shares of held-out views that find their other view, and of clips that find their kind."""
    whole, *views = (F.normalize(z - z.mean(0)) for z in map(embed, [whole_clips, *view_pairs]))
    found = (torch.stack(views[::2]) @ torch.stack(views[1::2]).mT).argmax(2)  # (8, N)
    nearest, kinds = (whole @ whole.T).fill_diagonal_(-1).argmax(1), labels[len(train) :]
    shares = (found == torch.arange(len(whole)), kinds[nearest] == kinds)
    return " ".join(f"{100 * share.float().mean():14.1f} %" for share in shares)


statistics = measure_statistics(draw_segments() for _ in range(8))
whole_clips = statistics.standardize(frontend(held_out))[:, None]
segments = statistics.standardize(frontend(held_out[:, :SEGMENT]))[:, None]
view_pairs = [view for _ in range(8) for view in make_views(segments)]
print(f"{len(held_out):4d} held-out clips    other view found   one of its {max(labels) + 1} kinds")
print("log-mel, mean and std ", score(lambda x: torch.cat((x.mean(-1), x.std(-1)), -1).flatten(1)))
print("untrained encoder     ", score(encoder.eval()))

byol.train()
for step in range(1, options.steps + 1):
    loss, _ = byol(*make_views(statistics.standardize(draw_segments())))
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    byol.update_target(ema_decay=0.99)
    if step % 100 == 0 or step == options.steps:
        print(f"step {step}: loss {loss.item():.3f}", flush=True)
print(f"after {options.steps:4d} steps      ", score(encoder.eval()))
