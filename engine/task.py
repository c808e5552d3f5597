"""Base class of tasks: the methods that the trainer, the evaluation loop and the checkpoints call."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol

import torch
from torch import Tensor, nn

from ..errors import InputError, shorten
from ..registry import TASKS, lookup
from ..weights.loading import fine_tune
from ..weights.sources import read_file
from .checkpoint import find_checkpoint, read_checkpoint
from .config import TrainConfig

Split = Literal["train", "val"]


class Task(Protocol):
    """A task such as object detection: data, model, losses and metrics. Register a subclass in `TASKS`.

    A dataset is indexed with `(index, seed)`, the seed decides augmentation; an item is whatever the task makes of it.
    Batches are lists of items; the engine moves the tensors in them to the device.

    Attributes:
        config_class: class of the config, with the keys that the task adds.
        main_metric: metric by which the best checkpoint is chosen; larger is better.
        config: the checked and resolved config.
    """

    config_class: ClassVar[type[TrainConfig]] = TrainConfig
    main_metric: str
    config: Any

    def __init__(self, config: Any):
        self.config = config

    def open_split(self, split: Split) -> Any:
        """Open and check the dataset of a split. Raises InputError if it cannot be used."""

    def build_model(self, metadata: Mapping[str, Any], load_weights: bool) -> nn.Module:
        """Build the model for data that `metadata` describes.

        With `load_weights=False` the config's pretrained weights are not read, because a checkpoint follows.
        """

    def losses(self, model: nn.Module, items: Sequence[Any]) -> dict[str, Tensor]:
        """Return scalar losses by name; their sum is minimised.

        Each is a mean over the items, or see `counted_losses`. In training mode, call `model(...)` and not its methods,
        because it may be wrapped for mixed precision or for several processes. In evaluation mode, return validation
        losses. `items` are dataset items, with their tensors on the model's device.
        """

    def predict(self, model: nn.Module, items: Sequence[Any]) -> Sequence[Any]:
        """Return an output per item, in the form that the evaluator takes. The model is in evaluation mode."""

    def evaluator(self, dataset: Any) -> Any:
        """Return an object with `update(items, outputs)` and `compute()`, which returns the metrics by name.

        For several processes it also has `predictions`, which can be pickled, and `merge(predictions)`, which adds
        those of another process.
        """

    # The methods below have defaults.

    def counted_losses(self, model: nn.Module, items: Sequence[Any]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Return the training losses, and by the same names the number of things that each is a mean over.

        A step over several batches or processes then has the loss of one large batch. The default is for losses that
        are means over the items.
        """
        losses = self.losses(model, items)
        return losses, {name: torch.tensor(float(len(items)), device=loss.device) for name, loss in losses.items()}

    def counts_vary(self, model: nn.Module) -> bool:
        """Return whether the counts of `counted_losses` are known only after a forward pass."""
        return False

    @classmethod
    def expand_config(cls, values: dict[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
        """Return the values of a config in the form that `overrides` are merged into, such as names as dicts."""
        return values

    @classmethod
    def resolve_config(cls, config: Any) -> Any:
        """Check the model's arguments and write out what was left to defaults. Raises InputError."""
        return config

    @classmethod
    def describe_model(cls, config: Any) -> list[str]:
        """Return help texts on the model's keys."""
        return []

    def metadata(self, dataset: Any) -> dict[str, Any]:
        """Return what the model must know about the data, such as class names, as numbers, text, lists and dicts.

        It is saved in checkpoints. Training, validation, resuming and evaluation must agree on it, see
        `adopt_metadata`.
        """
        return {}

    def adopt_metadata(self, dataset: Any, metadata: Mapping[str, Any], where: str) -> None:
        """Make a dataset mean what `metadata` of the training data or of a checkpoint means, such as its labels.

        The default compares them. Raises InputError if they do not agree; `where` names the dataset.
        """
        present = self.metadata(dataset)
        for key, value in metadata.items():
            if present.get(key) != value:
                raise InputError(f"{where} has {key} {shorten(present.get(key))}, expected {shorten(value)}")

    def read_trained(self, source: str) -> tuple[Any, Mapping[str, Tensor], Mapping[str, Any]]:
        """Return a trained model: a config with the model that it was trained as, its state dict and its metadata.

        Raises:
            InputError: `source` cannot be read, or does not fit the config.
        """
        content = read_checkpoint(source)
        config = self.config.model_copy(update={"model": content["config"]["model"]})
        return config, content["model"], content["metadata"]

    @classmethod
    def config_of(cls, source: str) -> dict[str, Any] | None:
        """Return the values of a config to evaluate a model of another library, or None for a run of ours."""
        return None

    def start_from(self, model: nn.Module, path: str, metadata: Mapping[str, Any]) -> list[str]:
        """Load weights of another run, or another state dict; return the keys that keep their random values."""
        return fine_tune(model, read_file(find_checkpoint(path)), path)

    def unreadable(self, item: Any) -> str | None:
        """Return an error message if the dataset could not read `item`, else None (the default).

        Example: "image a.jpg is unreadable (truncated)".
        """
        return None

    def describe_items(self, items: Sequence[Any]) -> str:
        """Name the items of a batch in an error message."""
        return f"a batch of {len(items)}"

    def grouping_flags(self, dataset: Any) -> Sequence[bool] | None:
        """Return a flag per item; items of equal flags come in one batch if possible."""
        return None

    def repeat_factors(self, dataset: Any) -> Sequence[float] | None:
        """Return how often each item comes per epoch on average, at least 1; None for once."""
        return None

    def metric_names(self, dataset: Any) -> Sequence[str]:
        """Return the names of the metrics of an evaluation, to check `best_metric`; empty if they are not known."""
        return []

    def describe_data(self, training: Any, validation: Any) -> Any:
        """Return text or a rich table on the data, which is printed before a training starts, or None."""

    def parts_to_compile(self, model: nn.Module) -> Iterable[nn.Module]:
        """Return the parts that `compile=true` compiles."""
        return [model]

    def validation_loss_dataset(self, dataset: Any) -> Any:
        """Return the validation data with items that `losses` takes."""
        return dataset

    def metrics_table(self, metrics: Mapping[str, float]) -> Any:
        """Return text or a rich table of the metrics for the terminal."""
        return "\n".join(f"{name}  {value:.4f}" for name, value in metrics.items())

    def save_results(self, evaluator: Any, folder: Path, is_last: bool) -> Any:
        """Write the predictions of an evaluation into the folder of a run, after the last one also their details.

        Returns text or a rich table for the terminal, or None.
        """

    def save_pictures(self, model: nn.Module, dataset: Any, folder: Path, device: torch.device) -> Sequence[Path]:
        """Write pictures of predictions into the folder of a run; return their paths."""
        return []


def build_task(config: TrainConfig) -> Task:
    """Return the task that a loaded config names."""
    return lookup(TASKS, config.task)(config)
