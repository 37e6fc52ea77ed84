"""Embedding by onnxruntime and by this package, one thread: `-m benchmarks.onnx_export`."""

import argparse
import tempfile
from pathlib import Path

import onnxruntime
import torch

import byola_rq
from benchmarks.harness import Contender, Report, Row, compare, timed
from byola_rq.export.onnx import export_onnx

ENCODERS = (("audio_ntt_2020", 512), ("audio_ntt_2020", 2048), ("audio_ntt_2022", 3072))
FILES = ("safetensors", "onnx")


def main() -> None:
    """Compare both for every encoder, on single clips and batches of two lengths."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=9, help="number of rounds that count")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    options = parser.parse_args()
    torch.set_num_threads(1)
    report = Report("onnxruntime")
    with tempfile.TemporaryDirectory() as folder:
        sizes: list[Row] = []
        for name, dim in ENCODERS:
            model = byola_rq.Embedder.untrained(name, dim)
            model.save(Path(folder, "model.safetensors"))
            export_onnx(model, Path(folder, "model.onnx"))
            sizes.append(
                {"encoder": name, "D": dim}
                | {f"{end}, MB": size_in_mb(Path(folder, f"model.{end}")) for end in FILES}
            )
            for batch, seconds in ((1, 1), (1, 10), (32, 1)):
                rows = compare(
                    contenders(model, Path(folder, "model.onnx"), batch, seconds),
                    unit="clips",
                    rounds=options.rounds,
                )
                report.add(f"{name}, D = {dim}: {batch} x {seconds} s", rows)
        report.add("files", sizes)
    report.save(options.json)


def size_in_mb(path: Path) -> float:
    """Size of a file in megabytes."""
    return path.stat().st_size / 1e6


def contenders(
    model: byola_rq.Embedder, path: Path, batch: int, seconds: int
) -> dict[str, Contender]:
    """Make contenders of the model and its ONNX file, embedding the same batch a few times."""
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(path), settings, providers=["CPUExecutionProvider"])
    waveform = 0.1 * torch.randn(batch, seconds * model.sample_rate)
    repeats = max(1, 32 // (batch * seconds))

    def by_torch() -> float:
        for _ in range(repeats):
            model(waveform, model.sample_rate)
        return repeats * batch

    def by_onnxruntime() -> float:
        for _ in range(repeats):
            session.run(None, {"waveform": waveform.numpy()})
        return repeats * batch

    return {"torch": timed(by_torch), "onnxruntime": timed(by_onnxruntime)}


if __name__ == "__main__":
    main()
