"""Download of model files from the Hugging Face hub, or from its cache."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from byola_rq.errors import ByolaRQError, CheckpointError, first_line, package_needed

with package_needed("a model on the hub", "huggingface_hub", extra="hub"):
    from huggingface_hub import constants, get_session, hf_hub_download
    from huggingface_hub.errors import LocalEntryNotFoundError

PROBE_SECONDS = 10.0  # to wait for the hub's first answer
MODEL_FILE = "encoder.safetensors"  # in a hub repository, beside config.json and README.md


def download_model_file(repo_id: str, **options: Any) -> Path:
    """Return the model file of a repository, downloading it if it is not cached.

    Args:
        repo_id: Repository id on the hub, `owner/name`.
        options: Arguments of `huggingface_hub.hf_hub_download`: `revision`, `token` ...

    Raises:
        CheckpointError: If there is no such model, or the hub cannot be reached.
    """
    with hub_errors(repo_id):
        return Path(hf_hub_download(repo_id, MODEL_FILE, **or_from_cache(options)))


def or_from_cache(options: dict[str, Any]) -> dict[str, Any]:
    """Return the download options, restricted to the cache if the hub does not answer."""
    if options.get("local_files_only"):
        return options
    try:
        # Probe first: a download retries five times, with a warning each, for half a minute.
        get_session().head(constants.ENDPOINT, timeout=PROBE_SECONDS)
    except Exception:  # as below
        return {**options, "local_files_only": True}
    return options


@contextmanager
def hub_errors(name: str | Path) -> Iterator[None]:
    """Turn any error of the hub or of the connection to it into a `CheckpointError`."""
    try:
        yield
    except (ByolaRQError, TypeError):  # a TypeError is a wrong argument
        raise
    except LocalEntryNotFoundError as error:
        raise CheckpointError(
            f"{name}: not in the hub's cache, and the hub cannot be reached. Give a local model "
            "file or folder, or go online (HF_HUB_OFFLINE must not be set)",
            code="unreachable",
            key=str(name),
        ) from error
    # Errors below the hub's own depend on its HTTP client, which has changed before.
    except Exception as error:
        raise CheckpointError(
            f"{name}: the hub cannot be used ({first_line(error)})",
            code="unreachable",
            key=str(name),
        ) from error
