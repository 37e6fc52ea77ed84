"""Command `byola-rq doctor`: checks of the installation, with remedies."""

import importlib
import importlib.metadata
import platform
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

from byola_rq.cli.options import is_supported_system
from byola_rq.errors import first_line, how_to_install
from byola_rq.text.shown import shown


@dataclass(frozen=True)
class Diagnosis:
    """Result of one check, with a remedy if there is one."""

    name: str
    status: Literal["ok", "note", "missing", "broken"]
    detail: str
    remedy: str = ""
    is_required: bool = False

    @property
    def is_failure(self) -> bool:
        """Return whether byola_rq cannot work because of it."""
        return self.is_required and self.status in {"missing", "broken"}


REQUIRED = (
    "jinja2",
    "numpy",
    "pyarrow",
    "pydantic",
    "yaml",
    "rich",
    "safetensors",
    "soundfile",
    "soxr",
    "typer",
)
OPTIONAL = {  # import name -> purpose, how to install it
    "av": ("M4A, MP4, WebM and AAC files", how_to_install("containers")),
    "sklearn": ("probes of `python -m evaluate`", how_to_install("evaluate")),
    "librosa": ("frontend.backend=librosa", how_to_install("frontends")),
    "nnAudio": ("frontend.backend=nnaudio", how_to_install("frontends")),
    "matplotlib": ("pictures", how_to_install("plots")),
}
DISTRIBUTIONS = {"yaml": "pyyaml", "sklearn": "scikit-learn", "nnAudio": "nnaudio"}


def print_findings() -> bool:
    """Print a table of all checks; return whether everything required works."""
    from rich.console import Console
    from rich.table import Column, Table

    found = Column("found", overflow="fold")  # paths and digests are never truncated
    table = Table("", "status", found, "what to do", box=None, pad_edge=False)
    findings = list(examine())
    for finding in findings:
        table.add_row(finding.name, finding.status, shown(finding.detail), shown(finding.remedy))
    Console(soft_wrap=True).print(table, markup=False)
    return not any(finding.is_failure for finding in findings)


def examine() -> Iterator[Diagnosis]:
    """Check all parts and packages, required and optional."""
    yield _examine_system()
    yield Diagnosis("python", "ok", f"{platform.python_version()} at {sys.executable}")
    yield Diagnosis("byola_rq", "ok", importlib.metadata.version("byola_rq"))
    yield from _examine_torch()
    for name in REQUIRED:
        yield _examine_import(
            name, "every command", "pip install . in the source checkout", is_required=True
        )
    yield _examine_libsndfile()
    yield _examine_builtin()
    yield _examine_torchaudio()
    for name, (purpose, remedy) in OPTIONAL.items():
        yield _examine_import(name, purpose, remedy, is_required=False)


def _examine_system() -> Diagnosis:
    detail = f"{platform.system()} {platform.release()}"
    if is_supported_system():
        return Diagnosis("system", "ok", detail)
    remedy = "byola_rq runs on Linux and macOS; on Windows, install it within WSL"
    return Diagnosis("system", "broken", detail, remedy, is_required=True)


def _examine_torch() -> Iterator[Diagnosis]:
    try:
        import torch
    except (ImportError, OSError) as error:
        remedy = "pip install torch (a CPU build is at https://pytorch.org/get-started)"
        yield Diagnosis("torch", "broken", first_line(error), remedy, is_required=True)
        return
    yield Diagnosis("torch", "ok", str(torch.__version__))
    from byola_rq.runtime.workers import count_cores

    yield Diagnosis("cpu", "ok", f"{count_cores()} cores, {torch.get_num_threads()} torch threads")
    if not torch.cuda.is_available():
        built_for = torch.version.cuda
        detail = f"built for CUDA {built_for}, no usable device" if built_for else "CPU build"
        remedy = "install a CUDA build of torch and its driver, if this machine has a GPU"
        yield Diagnosis("cuda", "note", detail, remedy)
        return
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        bfloat16 = (
            "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "no bfloat16"
        )
        memory = properties.total_memory / 2**30
        yield Diagnosis(f"cuda:{index}", "ok", f"{properties.name}, {memory:.0f} GiB, {bfloat16}")


def _examine_libsndfile() -> Diagnosis:
    def formats() -> str:
        import soundfile

        known = soundfile.available_formats()
        missing = [name for name in ("WAV", "FLAC", "OGG", "MP3") if name not in known]
        version = soundfile.__libsndfile_version__
        return f"{version}" + (f", cannot read {', '.join(missing)}" if missing else "")

    return _examine("libsndfile", formats, "pip install --upgrade soundfile", is_required=True)


def _examine_builtin() -> Diagnosis:
    def read() -> str:
        from byola_rq.model.builtin import SHA256, VERSION, builtin_path

        card = builtin_path().with_suffix(".md")
        return f"{VERSION}, SHA-256 {SHA256}, licenses and credits in {card}"

    remedy = "pip install --force-reinstall --no-deps byola_rq"
    return _examine("built-in encoder", read, remedy, is_required=True)


def _examine_torchaudio() -> Diagnosis:
    def load() -> str:
        from byola_rq.audio._torchaudio import has_compiled_part, import_torchaudio

        import_torchaudio()
        version = importlib.metadata.version("torchaudio")
        part = "whole" if has_compiled_part() else "its Python part, which is sufficient"
        return f"{version}: {part}"

    return _examine("torchaudio", load, "pip install torchaudio", is_required=False)


def _examine_import(name: str, purpose: str, remedy: str, *, is_required: bool) -> Diagnosis:
    def load() -> str:
        importlib.import_module(name)
        return importlib.metadata.version(DISTRIBUTIONS.get(name, name))

    finding = _examine(name, load, remedy, is_required=is_required)
    if finding.status == "ok":
        return finding
    need = f"needed for {purpose}" if is_required else f"optional, for {purpose}"
    return Diagnosis(name, finding.status, f"{finding.detail}; {need}", remedy, is_required)


def _examine(name: str, look: Callable[[], str], remedy: str, *, is_required: bool) -> Diagnosis:
    try:
        return Diagnosis(name, "ok", look(), is_required=is_required)
    except ModuleNotFoundError:
        return Diagnosis(name, "missing", "not installed", remedy, is_required)
    except Exception as error:  # a broken package may raise anything
        is_absent = "is not installed" in str(error)
        status: Literal["missing", "broken"] = "missing" if is_absent else "broken"
        return Diagnosis(name, status, first_line(error), remedy, is_required)
