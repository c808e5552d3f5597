"""Save models to a folder or to the Hugging Face Hub, and build them from there.

A saved model is a folder with

- `model.safetensors`: tensors, resolved config and metadata, in the form of our checkpoints (`weight_files.py`);
- `config.json`: the same config and metadata, for people and for the Hub;
- `README.md`: a model card.

Loading builds the model from its config without reading any other weights, and accepts neither missing nor unexpected
keys. The Hub is reached through `huggingface_hub`, which takes another address of it from `HF_ENDPOINT`.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from huggingface_hub import ModelCard, ModelHubMixin
from mmengine.registry import Registry
from torch import Tensor, nn

from ..errors import InputError, shorten
from ..registry import accepts, build, lookup
from .checkpoints import WEIGHTS_FILE, is_checkpoint
from .config_file import CONFIG_FILE, check_config_file, config_text
from .hub import download_model
from .loading import load_state
from .model_card import model_card_text
from .model_difference import first_difference
from .sources import read_content
from .weight_files import weights_file_content

NOT_SAVED = ("weights", "load_weights", "channel_order")  # arguments that say where a model started

IMAGE_SIZES = ("short_side", "long_side")


class PretrainedModel(ModelHubMixin, nn.Module, library_name="detbackbones"):
    """Base of backbones and detectors: `save_pretrained`, `push_to_hub` and `from_pretrained`.

    Attributes:
        config_key: key of the model's config in a file, "backbone" or "model".
        registry: registry that builds the model.
        build_config: type and arguments that `registry.build` built the model from; None if it was built otherwise.
        metadata: what is known about the weights besides the config, such as "category_names".
    """

    config_key: ClassVar[str]
    registry: ClassVar[Registry]
    build_config: dict[str, Any] | None = None
    metadata: dict[str, Any]

    def resolved_config(self) -> dict[str, Any]:
        """Return the config that builds this model without the weights that it started from.

        Raises:
            InputError: the model was not built from a config.
        """
        if self.build_config is None:
            builder = "build_detector" if self.config_key == "model" else "build_backbone"
            raise InputError(
                f"{type(self).__name__} was not built from a config, so it cannot be saved with one; use {builder}(...)"
            )
        return {key: value for key, value in self.build_config.items() if key not in NOT_SAVED}

    def resolved_metadata(self) -> dict[str, Any]:
        """Return the metadata with what the model itself knows, such as the mean and std of its images."""
        return dict(self.metadata)

    def adopt_metadata(self, metadata: Mapping[str, Any]) -> None:
        """Take over the metadata of a file that this model's weights come from."""
        self.metadata = dict(metadata)

    def weights_file(self, state: Mapping[str, Tensor] | None = None) -> bytes:
        """Return the content of a file with the weights, the resolved config and the metadata of this model.

        Args:
            state: the weights, if not those of the model, such as the same in half precision.

        Raises:
            InputError: the model was not built from a config, or was changed since.
        """
        config = self.resolved_config()
        try:
            content = weights_file_content(
                self.state_dict() if state is None else state, {self.config_key: config}, self.resolved_metadata()
            )
        except TypeError as error:
            raise InputError(
                f"{type(self).__name__} cannot be saved: its config has a value that is not text or numbers ({error})"
            ) from None
        with torch.device("meta"), torch.random.fork_rng(devices=[]):
            rebuilt = build_for_weights(self.registry, config)
        difference = first_difference(self, rebuilt)
        if difference:
            raise InputError(
                f"{type(self).__name__} cannot be saved: it was changed after it was built, {difference}; set that in "
                "its config"
            )
        return content

    def _save_pretrained(self, save_directory: Path) -> None:
        weights = self.weights_file()
        content = {"config": {self.config_key: self.resolved_config()}, "metadata": self.resolved_metadata()}
        (save_directory / WEIGHTS_FILE).write_bytes(weights)
        (save_directory / CONFIG_FILE).write_text(config_text(content), encoding="utf-8")

    def generate_model_card(self, *args: Any, **kwargs: Any) -> ModelCard:
        """Return the README of a saved model; the arguments, which fill HF's template, are not used."""
        data = self._hub_mixin_info.model_card_data
        return ModelCard(model_card_text(data, self.config_key, self.resolved_config(), self.resolved_metadata()))

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | Path,
        *,
        force_download: bool = False,
        token: str | bool | None = None,
        cache_dir: str | Path | None = None,
        local_files_only: bool = False,
        revision: str | None = None,
        **overrides: Any,
    ) -> Self:
        """Build a saved model with its weights, in evaluation mode.

        Args:
            pretrained_model_name_or_path: a folder that `save_pretrained` wrote, a run or a checkpoint of ours, or a
                repository of the Hugging Face Hub ("owner/name").
            force_download, token, cache_dir, local_files_only, revision: see `huggingface_hub.hf_hub_download`.
            overrides: arguments that replace those of the saved config, such as `freeze=2`.

        Raises:
            InputError: the model cannot be found or read, is of another kind, or its weights do not fit.
        """
        path = Path(pretrained_model_name_or_path)
        if not path.exists():
            path = download_model(
                str(pretrained_model_name_or_path),
                revision,
                force_download=force_download,
                token=token,
                cache_dir=cache_dir,
                local_files_only=local_files_only,
            )
        return cls._from_file(path, overrides)

    @classmethod
    def _from_file(cls, path: Path, overrides: Mapping[str, Any]) -> Self:
        content, where = read_content(path), shorten(path)
        if not is_checkpoint(content):
            raise InputError(
                f"{where} is not a model that detbackbones has saved; other weights go into build_backbone or "
                "build_detector as weights="
            )
        check_config_file(path, content)
        config = content["config"].get(cls.config_key)
        if not isinstance(config, Mapping):
            kind = "a detector" if "model" in content["config"] else "a backbone"
            raise InputError(f"{where} has {kind}, which {cls.__name__}.from_pretrained does not build")
        metadata = {name: content["config"][name] for name in IMAGE_SIZES if name in content["config"]}  # of a run
        metadata |= content["metadata"]
        model = build_for_weights(cls.registry, cls._complete_config(config, metadata) | dict(overrides))
        if not isinstance(model, cls):
            raise InputError(f"{where} has a {type(model).__name__}, not a {cls.__name__}")
        load_state(model, content["model"], where)
        model.adopt_metadata(metadata)
        return model.eval()

    @classmethod
    def _complete_config(cls, config: Mapping[str, Any], metadata: Mapping[str, Any]) -> dict[str, Any]:
        """Return a saved config with what stands in the metadata alone."""
        return dict(config)


def build_for_weights(registry: Registry, config: Mapping[str, Any]) -> Any:
    """Build a model whose weights follow, without those that its config names."""
    arguments = {key: value for key, value in config.items() if key not in NOT_SAVED}
    if accepts(lookup(registry, arguments.get("type", "")), "load_weights"):
        arguments["load_weights"] = False
    return build(registry, arguments)
