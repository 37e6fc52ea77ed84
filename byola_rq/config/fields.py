"""Types of configuration values."""

import os
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field


def _check_not_bool(value: Any) -> Any:
    if isinstance(value, bool):
        raise ValueError("must be a number")
    return value


def expand_home(value: Any) -> Any:
    """Expand `~` in text."""
    return os.path.expanduser(value) if isinstance(value, str) else value


# pydantic converts "3e-4", which YAML reads as text, to a number, but would also convert true to 1.
Int = Annotated[int, BeforeValidator(_check_not_bool)]
Float = Annotated[float, BeforeValidator(_check_not_bool), Field(allow_inf_nan=False)]
Positive = Annotated[Float, Field(gt=0)]
Count = Annotated[Int, Field(ge=1)]
Range = tuple[Positive, Positive]
PathHere = Annotated[Path, BeforeValidator(expand_home)]


class Section(BaseModel):
    """Section of the configuration: frozen, without unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid")
