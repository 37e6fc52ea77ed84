"""Initial encoder weights from another model."""

from torch import Tensor

from byola_rq.config import Config
from byola_rq.embed.embedder import load
from byola_rq.errors import ConfigError
from byola_rq.model.builtin import builtin_path
from byola_rq.runtime.progress import log


def read_initial_weights(config: Config) -> dict[str, Tensor]:
    """Read the encoder of `encoder.init`: the built-in one, a model file, or a model on the hub.

    Its statistics are not used: a run standardizes by those of its own corpus.

    Raises:
        CheckpointError: If it cannot be loaded.
        ConfigError: If its name, size or frontend differ from the configuration.
    """
    source = config.encoder.init
    assert source is not None
    model = load(builtin_path() if source == "builtin" else source)
    # The frontend's backends agree within 1e-3, so a different one is allowed.
    wanted = {
        **config.encoder.model_dump(include={"name", "dim"}),
        **config.frontend.model_dump(exclude={"backend"}),
    }
    found = {**model.description["encoder"], **model.frontend.options}
    if different := [name for name, value in wanted.items() if found[name] != value]:
        section = "encoder" if different[0] in ("name", "dim") else "frontend"
        key = f"{section}.{different[0]}"
        theirs, ours = (
            ", ".join(f"{name} {values[name]}" for name in different) for values in (found, wanted)
        )
        raise ConfigError(
            f"encoder.init: {source} has {theirs}, the run has {ours}; {key} must be equal",
            code="different",
            path=source,
            key=key,
            value=found[different[0]],
        )
    log(f"encoder.init: {source}, weights {model.weights_sha256[:12]}")
    return dict(model.encoder.state_dict())
