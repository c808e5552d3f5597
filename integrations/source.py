"""What every integration takes as its backbone: a name, a config, or a run of ours with its trained weights."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..backbones.base import Backbone
from ..errors import InputError, shorten
from ..registry import BACKBONES, Config, build_backbone, import_modules, lookup
from ..weights.checkpoints import is_checkpoint, part_config
from ..weights.sources import read_content


class MissingPackageError(InputError, ImportError):
    """The package of a framework is not installed."""


@contextmanager
def required(package: str, install: str = "pip install 'detbackbones[integrations]'") -> Iterator[None]:
    """Turn the failed import of `package` inside the context into one line that says how to install it.

    Raises:
        MissingPackageError: The package is not installed.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != package:
            raise
        raise MissingPackageError(f"this integration needs {package}, which is not installed: {install}") from None


def backbone_config(source: Config) -> dict[str, Any]:
    """Return the config of a backbone as a dict with "type".

    Args:
        source: a name such as "resnet50_dilated", a config, or the path of a run or of its checkpoint. Of a run, this
            is the config of its backbone with the run as `weights`.

    Raises:
        InputError: The name is unknown, or the path is not a checkpoint of ours with a backbone.
    """
    if isinstance(source, Mapping):
        return dict(source)
    if not Path(source).exists() and len(Path(source).parts) == 1:
        lookup(BACKBONES, source)
        return {"type": source}
    content = read_content(Path(source))
    saved = part_config(content, "backbone") if is_checkpoint(content) else {}
    if "type" not in saved:
        raise InputError(
            f"{shorten(source)} is not a run with a backbone; give weights={shorten(source)!r} in a config"
        )
    import_modules(content["config"].get("imports", ()))
    return saved | {"weights": str(source)}


def build_source(source: Config | Backbone, **overrides: Any) -> Backbone:
    """Build the backbone of `source`, see `backbone_config`; `overrides` replace arguments of its config.

    Raises:
        InputError: As `backbone_config` and `build_backbone`.
    """
    if not isinstance(source, (str, Mapping)):
        return build_backbone(source, **overrides)
    return build_backbone(backbone_config(source), **overrides)


def pixel_statistics(backbone: Backbone) -> tuple[list[float], list[float]]:
    """Return mean and standard deviation per channel that the backbone's images need, on the scale 0 to 255."""
    mean, std = backbone.preprocess.mean.flatten() * 255, backbone.preprocess.std.flatten() * 255
    return mean.tolist(), std.tolist()
