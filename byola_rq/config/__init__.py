"""Configuration: the typed schema of config.yaml, loading, overrides."""

from byola_rq.config.loading import (
    NEWER_KEYS,
    default_config_path,
    flatten,
    load_config,
    read_values,
    resolve,
    with_newer_keys,
)
from byola_rq.config.schema import FRONTEND_LIMITS, Config

__all__ = [
    "FRONTEND_LIMITS",
    "NEWER_KEYS",
    "Config",
    "default_config_path",
    "flatten",
    "load_config",
    "read_values",
    "resolve",
    "with_newer_keys",
]
