"""Common style of all pictures: colors, figures, axes, files."""

import contextlib
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from byola_rq.errors import ConfigError, package_needed
from byola_rq.runtime.files import whole_file
from byola_rq.text.shown import shown

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLOR_MAP = "magma"  # perceptually uniform, dark for silence
# Okabe and Ito (2008) without yellow: distinguishable with every kind of color vision.
COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#333333")
TEXT, QUIET, GRID = "#1a1a1a", "#5a5a5a", "#dddddd"


def make_figure(width: float, height: float) -> Any:
    """Create an empty matplotlib figure, size in inches; needs no display, unlike pyplot.

    Raises:
        MissingPackageError: If matplotlib is not installed.
    """
    with package_needed("a picture", "matplotlib", extra="plots"):
        from matplotlib.figure import Figure
    return Figure(figsize=(width, height), layout="constrained", facecolor="white")


def save_figure(figure: Any, path: Path) -> None:
    """Write a figure in the format given by the path's suffix.

    Raises:
        ConfigError: If it cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(path) as temporary, quiet_glyphs():
            figure.savefig(temporary, format=path.suffix[1:], dpi=110)
    except (OSError, ValueError) as error:
        message = f"{path}: the picture cannot be written ({error})"
        raise ConfigError(message, code="unwritable", path=path) from error


@contextlib.contextmanager
def quiet_glyphs() -> Iterator[None]:
    """Silence matplotlib's warnings about names in a script that its font lacks."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph")
        yield


def plain(text: object) -> str:
    """Escape a foreign name, so that matplotlib does not read it as a formula."""
    return shown(text).replace("$", r"\$")


def tidy(axes: "Axes") -> None:
    """Style axes with numbers: a pale grid behind, no box around."""
    axes.grid(color=GRID, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
