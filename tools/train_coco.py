"""Train, resume or evaluate a model.

    python tools/train_coco.py [CONFIG] [key=value ...]
    detbackbones train [CONFIG] [key=value ...]

CONFIG is a file or a name; without it a small Mask R-CNN is trained on the embedded dataset. Every key of the config
can be set, parts of the model by dotted keys; `none` is None. Short keys: backbone= (model.backbone.type), neck=
(model.neck.type), weights= (model.backbone.weights).

    resume=true work_dir=FOLDER              continue a run from its last checkpoint
    init_from=SOURCE                         start from the weights of another detector (fine-tuning)
    eval_only=true checkpoint=SOURCE         evaluate

A SOURCE is a checkpoint or the folder of a run, or a detector of another library: torchvision:maskrcnn_resnet50_fpn_v2,
detectron2:COCO-Detection/faster_rcnn_R_50_FPN_3x, mmdet:faster-rcnn_r50_fpn_1x_coco, or a file of torchvision,
detectron2 (with cfg.yaml beside it) or mmdetection.
"""

import functools
import sys
from collections.abc import Sequence
from typing import Any

from detbackbones.engine.config import DEFAULT_CONFIG, find_config, load_config
from detbackbones.engine.distributed import end_processes
from detbackbones.engine.runs import run, saved_run
from detbackbones.engine.schema import describe_fields
from detbackbones.engine.task import build_task
from detbackbones.tools.cli import one_name, run_command


def usage(names: Sequence[str]) -> str:
    """Return the usage and every key with its value in a config, its type and its meaning."""
    path = find_config(names[0] if names else DEFAULT_CONFIG)
    config = load_config(path)
    keys = describe_fields(config, skip=["model"]) + build_task(config).describe_model(config)
    return "\n".join([__doc__, f"Keys and their values in {path.stem}:\n", *keys])


def train_or_evaluate(names: Sequence[str], overrides: dict[str, Any]) -> None:
    """Run the config that the command line names, or the one saved in the run that it resumes or evaluates."""
    key = "checkpoint" if overrides.get("eval_only") else "work_dir" if overrides.get("resume") else None
    saved = overrides.get(key) if key else None
    if saved and not names:
        values, name = saved_run(str(saved), str(overrides.get("task", "detection")))
        run(load_config(values, overrides), name)
    else:
        path = find_config(one_name(names or [DEFAULT_CONFIG], "config"))
        run(load_config(path, overrides), path.stem)
    end_processes()


main = functools.partial(run_command, train_or_evaluate, usage, needs_words=False)


if __name__ == "__main__":
    sys.exit(main())
