"""Evaluate a trained detector on a validation split.

    python tools/evaluate_checkpoint.py CHECKPOINT [key=value ...]      e.g.  runs/mine  data_root=data/coco
    detbackbones test CHECKPOINT [key=value ...]

CHECKPOINT is a run, a checkpoint of ours, or a detector of another library (docs/weights.md). The keys are those of
`detbackbones train`, of which this is the form `eval_only=true checkpoint=CHECKPOINT`.
"""

import functools
from collections.abc import Sequence
from typing import Any

from detbackbones.tools.cli import one_name, run_command
from detbackbones.tools.train_coco import train_or_evaluate


def evaluate(names: Sequence[str], overrides: dict[str, Any]) -> None:
    """Evaluate the checkpoint that the command line names."""
    train_or_evaluate([], overrides | {"eval_only": True, "checkpoint": one_name(names, "checkpoint")})


main = functools.partial(run_command, evaluate, __doc__)


if __name__ == "__main__":
    raise SystemExit(main())
