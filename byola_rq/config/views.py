"""Schema of the section `views`: augmentations and their options."""

from collections.abc import Iterable
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from byola_rq.config.fields import Count, Float, Int, Positive, Range, Section

AugmentationName = Literal[
    "mixup",
    "random_resized_crop",
    "randomized_quantization",
    "random_linear_fader",
    "dacl",
    "spec_augment",
    "imix",
    "ssql",
]
# These change what the objective compares, not a view.
OF_OBJECTIVE = ("imix", "ssql")


class CropConfig(Section):
    """Arguments of `RandomResizedCrop`."""

    canvas: tuple[Annotated[Float, Field(ge=1)], Annotated[Float, Field(ge=1)]]
    freq_scale: Range
    time_scale: Range

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        for name in ("freq_scale", "time_scale"):
            low, high = getattr(self, name)
            if low > high:
                raise ValueError(f"{name} must be [low, high]; got [{low:g}, {high:g}]")
        return self


class QuantizationConfig(Section):
    """Arguments of `RandomizedQuantization`."""

    num_bins: Count
    bins: Literal["random", "uniform"]
    values: Literal["random", "midpoint"]
    per: Literal["channel", "instance"]
    p: Annotated[Float, Field(ge=0, le=1)]


class MixupConfig(Section):
    """Arguments of `Mixup`."""

    ratio: Annotated[Float, Field(gt=0, le=1)]
    memory: Count


class FaderConfig(Section):
    """Arguments of `RandomLinearFader`."""

    gain: Positive


class DaclConfig(Section):
    """Arguments of `DACL`."""

    alpha: Annotated[Float, Field(ge=0, le=1)]


class SpecAugmentConfig(Section):
    """Arguments of `SpecAugment`."""

    num_freq_masks: Annotated[Int, Field(ge=0)]
    freq_width: Annotated[Int, Field(ge=0)]
    num_time_masks: Annotated[Int, Field(ge=0)]
    time_width: Annotated[Int, Field(ge=0)]


class IMixConfig(Section):
    """Arguments of `IMix`."""

    alpha: Positive


Bits = Annotated[Int, Field(ge=2, le=16)]


class SsqlConfig(Section):
    """Arguments of `SSQL`."""

    weight_bits: tuple[Bits, Bits]
    activation_bits: tuple[Bits, Bits]

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        for name in ("weight_bits", "activation_bits"):
            fewest, most = getattr(self, name)
            if fewest > most:
                raise ValueError(f"{name} must be [fewest, most]; got [{fewest}, {most}]")
        return self


class ViewsConfig(Section):
    """Augmentations in their order, and the options of each."""

    augmentations: list[AugmentationName]
    post_norm: bool
    random_resized_crop: CropConfig
    randomized_quantization: QuantizationConfig
    mixup: MixupConfig
    random_linear_fader: FaderConfig
    dacl: DaclConfig
    spec_augment: SpecAugmentConfig
    imix: IMixConfig
    ssql: SsqlConfig

    @model_validator(mode="after")
    def _is_a_chain(self) -> Self:
        names = self.augmentations
        if len(set(names)) < len(names):
            raise ValueError(f"augmentations must not repeat; got {names}")
        if "mixup" in names[1:]:
            raise ValueError(f"augmentations must have mixup first; got {names}")
        if {*OF_OBJECTIVE} & {*names[:-1]}:
            raise ValueError(
                "augmentations must have imix or ssql, one of them, last: each replaces what the "
                f"objective compares; got {names}"
            )
        if {"dacl", "imix"} <= {*names}:
            raise ValueError(
                "augmentations must not have dacl beside imix, whose targets would leave out what "
                f"dacl mixed in; got {names}"
            )
        return self

    def chain(self) -> dict[str, dict[str, Any]]:
        """Return name -> options of the augmentations of views, in order, for `Views`."""
        return self._options(name for name in self.augmentations if name not in OF_OBJECTIVE)

    def of_objective(self) -> dict[str, dict[str, Any]]:
        """Return name -> options of the augmentations that the objective applies."""
        return self._options(name for name in self.augmentations if name in OF_OBJECTIVE)

    def _options(self, names: Iterable[str]) -> dict[str, dict[str, Any]]:
        return {name: getattr(self, name).model_dump() for name in names}
