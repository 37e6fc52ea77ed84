"""Every kernel compiles for GPUs that are not here, to machine code that spills no register."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT

# In a process without Triton's interpreter, which compiles nothing.
COMPILE = """
import subprocess
import sys
from pathlib import Path
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from byola_rq.audio import log_mel_kernel
from byola_rq.model import block_kernel, norm_pool_kernel
from byola_rq.augment import fused, views_kernel
from byola_rq.augment.views import AUGMENTATIONS

POINTERS = {"planes": "*fp32", "keys": "*i64", "made": "*fp32", "ring": "*fp32", "num_seen": "*i64"}
POINTERS |= dict.fromkeys(("patches", "kernels", "offsets", "sums", "totals"), "*fp32")
POINTERS |= dict.fromkeys(("mean", "scale", "gamma", "beta", "bias", "partial", "counts"), "*fp32")
POINTERS |= dict.fromkeys(("mean_out", "scale_out", "running_mean", "running_var"), "*fp32")
POINTERS |= {"num_batches": "*i64", "eps": "fp32", "momentum": "fp32", "epsilon": "fp32"}
of_sound = ("waveform", "window", "frames", "spectrum", "filters", "result")

def compile_for(kernel, constants, types, options):
    types = {**POINTERS, **types, **dict.fromkeys(constants, "constexpr")}
    signature = {name: types.get(name, "i32") for name in kernel.arg_names}
    target = GPUTarget("cuda", int(sys.argv[1]), 32)
    source = ASTSource(kernel, signature, constants)
    code = triton.compile(source, target=target, options=options).asm["cubin"]
    file = Path(sys.argv[2])
    file.write_bytes(code)
    command = [triton.knobs.nvidia.cuobjdump.path, "-res-usage", file]
    usage = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "STACK:0 " in usage, usage  # no register had to be put there

def compile_augmentations(options, types, words):
    steps = [AUGMENTATIONS[name](**values) for name, values in options.items()]
    constants = fused.constants(steps, 64, 96, words)
    if "mixup" not in options:
        constants |= {"ring": None, "num_seen": None}
    block = constants["block_bands"], constants["block_frames"]
    compile_for(views_kernel.augment, constants, types, fused.options(*block))

crop, bins = "random_resized_crop", "randomized_quantization"
variants = ({}, {"per": "instance"}, {"bins": "uniform", "values": "midpoint", "p": 0.5})
is_second_gpu = sys.argv[1] == "80"  # sees one of each kernel: compiling takes a second or two
for options in variants[:1] if is_second_gpu else variants:
    compile_augmentations({crop: {}, bins: options}, {}, [crop, bins])
chain = dict.fromkeys(("mixup", crop, "random_linear_fader", bins), {})
compile_augmentations(chain, {}, list(chain))
with_kernel = [name for name, each in AUGMENTATIONS.items() if each().step]
for name in () if is_second_gpu else with_kernel:
    compile_augmentations({name: {}}, {}, None)
    compile_augmentations({name: {}}, {"planes": "*bf16", "made": "*bf16"}, None)
for precision, dtype in (("tf32", "*bf16"), ("ieee", "*fp32")):
    of_output = {"y": dtype, "gradient": dtype}
    for kernel, rows in (
        (block_kernel._pooled, block_kernel._FORWARD_ROWS),
        (block_kernel._products, block_kernel._BACKWARD_ROWS),
    ):
        constants = {"channels": 64, "rows": rows, "precision": precision}
        compile_for(kernel, constants, of_output, block_kernel.OPTIONS)
for dtype in ("*bf16", "*fp32"):
    of_type = dict.fromkeys(("z", "y", "gradient", "of_z"), dtype)
    for name in ("_moments", "_finish", "_pool", "_sum_gradient", "_spread_gradient"):
        kernel = getattr(norm_pool_kernel, name)
        rows = norm_pool_kernel.ROWS * (4 if name == "_moments" else 1)
        constants = {"channels": 64} | ({} if name == "_finish" else {"rows": rows})
        compile_for(kernel, constants, of_type, norm_pool_kernel.OPTIONS)
of_type = dict.fromkeys(of_sound, "*fp32")
options, sizes = log_mel_kernel.OPTIONS, {"n_fft": 1024, "block": 1024}
compile_for(log_mel_kernel._windowed, sizes, of_type, options)
sizes = {"num_bins": 513, "num_bands": 64, "block_bands": 64}
sizes |= {"block_frames": log_mel_kernel.FRAMES, "block_bins": log_mel_kernel.BINS}
compile_for(log_mel_kernel._log_of_bands, sizes, of_type, options)
print("compiled")
"""


@pytest.mark.parametrize(("gpu", "capability"), [("A100", 80), ("H100", 90)])
def test_kernels_compile(gpu: str, capability: int, tmp_path: Path) -> None:
    pytest.importorskip("triton")
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment |= {"PYTHONPATH": str(ROOT), "TRITON_CACHE_DIR": str(tmp_path / gpu)}
    ended = subprocess.run(
        [sys.executable, "-c", COMPILE, str(capability), tmp_path / "cubin"],
        cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout == "compiled\n"
    assert ended.stderr == ""
