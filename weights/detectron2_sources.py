"""Whole detectors of detectron2: from its model zoo by name, or from a file with its config beside it."""

import re
from collections.abc import Callable, Mapping
from pathlib import Path

from torch import Tensor

from ..errors import InputError, check_known, shorten
from .detector_source import DetectorSource, foreign_source
from .detectron2_config import Detectron2Config, read_detectron2_config
from .detectron2_keys import detectron2_keys
from .detectron2_models import detector_settings
from .detectron2_zoo import ZOO, published_fields, zoo_config
from .downloads import download
from .library_configs import detectron2_config_beside
from .sources import read_state


def read_zoo_detector(name: str) -> DetectorSource:
    """Return a detector of detectron2's model zoo.

    Args:
        name: such as "COCO-Detection/faster_rcnn_R_50_FPN_1x", also as detectron2 spells its file
            ("//COCO-Detection/faster_rcnn_R_50_FPN_1x/137257794/model_final_b275ba.pkl") or its config (".yaml").

    Raises:
        InputError: the zoo does not have it, or not a detector that is supported.
    """
    name = re.sub(r"^//|\.yaml$|/\d+/model_final_\w+\.pkl$", "", name)
    check_known("detector of detectron2's model zoo:", ZOO, name)
    fields = published_fields(name)
    return _source(f"detectron2:{name}", zoo_config(name), lambda: read_state(download(fields["url"])), fields)


def read_detectron2_file(path: Path, state: Mapping[str, Tensor]) -> DetectorSource:
    """Return the detector in a file with detectron2's keys.

    Args:
        path: the file; its config lies beside it as `cfg.yaml`, `config.yaml` or `<name>.yaml`. A file of the model zoo
            is known by its name.
        state: the state dict in the file.

    Raises:
        InputError: the config is missing, or is not supported.
    """
    found = detectron2_config_beside(path)
    if found is not None:
        return _source(str(path), read_detectron2_config(found), lambda: state)
    for name, entry in ZOO.items():
        if entry.file.endswith(f"/{path.name}"):
            return _source(str(path), zoo_config(name), lambda: state, published_fields(name))
    raise InputError(
        f"{shorten(path)} is a detector of detectron2, and its tensors do not tell how it was trained (channel order, "
        f"strides, pooling, thresholds); put the config that detectron2 wrote beside it "
        f"as cfg.yaml, config.yaml or {path.stem}.yaml"
    )


def _source(
    name: str,
    config: Detectron2Config,
    read: Callable[[], Mapping[str, Tensor]],
    published: Mapping[str, str] | None = None,
) -> DetectorSource:
    model, metadata, short_side, long_side = detector_settings(config)
    is_bgr = config.get("INPUT.FORMAT") == "BGR"
    keys = detectron2_keys(model, is_bgr)
    order, sides = "BGR" if is_bgr else "RGB", (short_side, long_side)
    return foreign_source(
        name, "detectron2", model, metadata, lambda: keys.convert(read()), sides, order, published=published
    )
