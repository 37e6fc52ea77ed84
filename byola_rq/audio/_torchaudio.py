"""torchaudio's Python part, importable beside any torch.

torchaudio 2.11, the last release, pins no torch version. Its compiled part fails to load with
a CPU build (`OSError`) or a torch built for another CUDA (`RuntimeError`). The transforms and
functional modules are plain Python and need none of it.
"""

import functools
import importlib
import importlib.util
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any, NoReturn

from byola_rq.errors import MissingPackageError


@functools.cache
def import_torchaudio() -> ModuleType:
    """Import torchaudio, without its compiled part where that does not load.

    Returns:
        The `torchaudio` module; `transforms` and `functional` are usable.

    Raises:
        MissingPackageError: If torchaudio is not installed, or not even its Python part imports.
    """
    if importlib.util.find_spec("torchaudio") is None:
        raise MissingPackageError(
            "torchaudio is not installed; `pip install torchaudio` adds it "
            "(or choose frontend.backend=torch, which does not need it)",
            code="missing",
            key="torchaudio",
        )
    try:
        return importlib.import_module("torchaudio")
    except (ImportError, OSError, RuntimeError, AttributeError):
        return _import_without_extension()


def has_compiled_part() -> bool:
    """Return whether the imported torchaudio has its compiled operators."""
    extension: Any = import_torchaudio()._extension
    return bool(extension._IS_TORCHAUDIO_EXT_AVAILABLE)


def _import_without_extension() -> ModuleType:
    """Import torchaudio again, its compiled part replaced by a module that declares it absent."""
    # Modules that the failed import left half initialized would be reused.
    for name in [n for n in sys.modules if n == "torchaudio" or n.startswith("torchaudio.")]:
        del sys.modules[name]
    sys.modules["torchaudio._extension"] = _absent_extension()
    try:
        return importlib.import_module("torchaudio")
    except Exception as error:
        del sys.modules["torchaudio._extension"]
        raise MissingPackageError(
            f"torchaudio is installed but does not import ({type(error).__name__}: {error}); "
            "install the release that belongs to your torch, or choose another frontend.backend",
            code="damaged",
            key="torchaudio",
        ) from error


def _absent_extension() -> ModuleType:
    def fail_if_no_align(function: Callable[..., Any]) -> Callable[..., NoReturn]:
        @functools.wraps(function)
        def fail(*_args: object, **_kwargs: object) -> NoReturn:
            raise MissingPackageError(
                f"{function.__name__} needs torchaudio's compiled part, which does not load here",
                code="missing",
                key=function.__name__,
            )

        return fail

    module = ModuleType("torchaudio._extension")
    vars(module).update(
        _IS_TORCHAUDIO_EXT_AVAILABLE=False,
        _IS_ALIGN_AVAILABLE=False,
        fail_if_no_align=fail_if_no_align,
    )
    return module
