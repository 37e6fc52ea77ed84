"""Models on the Hugging Face hub: load, save, push. Only this and `hub_download` go online."""

import json
from pathlib import Path
from typing import Any, Self

from byola_rq.embed.embedder import Embedder, load
from byola_rq.errors import CheckpointError, package_needed
from byola_rq.export.model_card import write_model_card
from byola_rq.model.hub_download import MODEL_FILE, hub_errors, or_from_cache
from byola_rq.runtime.files import replace_file

with package_needed("byola_rq.hub", "huggingface_hub", extra="hub"):
    from huggingface_hub import ModelCard, ModelHubMixin, hf_hub_download


class HubEmbedder(ModelHubMixin, Embedder):
    """Embedder with `from_pretrained`, `save_pretrained` and `push_to_hub`.

    A folder or repository contains the model file, a readable copy of its description (config.json)
    and a model card (README.md).

    Example:
        HubEmbedder.of(byola_rq.load("encoder.safetensors")).push_to_hub("owner/name")
    """

    @classmethod
    def of(cls, embedder: Embedder) -> Self:
        """Wrap an embedder, sharing its weights, with the methods of the hub."""
        other = cls.__new__(cls)
        other.__dict__.update(embedder.__dict__)
        other._hub_mixin_config = None
        return other

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | Path, **options: Any) -> Self:
        """Load a model written by `save_pretrained` or `push_to_hub`.

        Args:
            pretrained_model_name_or_path: Folder, or repository id on the hub, `owner/name`.
            options: `device`, see `byola_rq.load`, and the mixin's options: `revision`, `token`,
                `cache_dir`, `force_download`, `local_files_only`.

        Raises:
            CheckpointError: If there is no such model, the hub cannot be reached, or the file
                cannot be used.
        """
        name = pretrained_model_name_or_path
        if not Path(name).is_dir():
            options = or_from_cache(options)
        with hub_errors(name):
            model: Self = super().from_pretrained(name, **options)
            return model

    def save_pretrained(self, save_directory: str | Path, **options: Any) -> str | None:
        """Write model file, description and model card into a folder.

        Args:
            save_directory: Folder; created if missing. An existing README.md is kept: remove it to
                get a new model card.
            options: Options of the mixin: `push_to_hub`, `repo_id` ...

        Raises:
            CheckpointError: If the folder cannot be written.
        """
        try:
            url: str | None = super().save_pretrained(save_directory, **options)
            return url
        except OSError as error:
            message = f"{save_directory}: cannot be written ({error})"
            raise CheckpointError(message, code="unwritable", path=save_directory) from error

    def push_to_hub(self, repo_id: str, **options: Any) -> str:
        """Upload model file, description and model card.

        Args:
            repo_id: Repository id on the hub, `owner/name`; created if missing.
            options: Options of the mixin: `private`, `token`, `branch`, `commit_message`,
                `create_pr` ...

        Returns:
            URL of the commit.

        Raises:
            CheckpointError: If the hub cannot be reached or rejects the upload.
        """
        options["model_card_kwargs"] = {
            "repo_id": repo_id,
            **(options.get("model_card_kwargs") or {}),
        }
        with hub_errors(repo_id):
            return str(super().push_to_hub(repo_id, **options))

    def generate_model_card(self, *args: Any, **kwargs: Any) -> ModelCard:  # noqa: ARG002
        """Return the card of `model_card.write_model_card`, as the hub's type."""
        return ModelCard(write_model_card(self, kwargs.get("repo_id")))

    def _save_pretrained(self, save_directory: Path) -> None:
        card = save_directory / "README.md"
        if card.is_symlink() and not card.exists():
            card.unlink()  # else the mixin would write through the link
        self.save(save_directory / MODEL_FILE)
        # Under one key, since the mixin passes top-level keys named like arguments to the class.
        config = {"byola_rq": {**self.description, "training": self.summary}}
        text = json.dumps(config, indent=2, sort_keys=True)
        replace_file(save_directory / "config.json", f"{text}\n")

    @classmethod
    def _from_pretrained(
        cls,
        *,
        model_id: str,
        device: str = "cpu",
        **options: Any,  # of the download
    ) -> Self:
        if Path(model_id).is_dir():
            return cls.of(load(Path(model_id) / MODEL_FILE, device))
        return cls.of(load(Path(hf_hub_download(model_id, MODEL_FILE, **options)), device))
