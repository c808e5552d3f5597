"""Measure how far the dilated features of a backbone are from the undilated ones.

    python tools/verify_dilation.py BACKBONE [argument=value ...]      e.g.  resnet101_dilated  size=(97,130)
    detbackbones verify BACKBONE [argument=value ...]

Arguments are those of the backbone; `size` is height and width of the random image, `imports` names modules that
register backbones of your own. The exit code is 0 if every level is within 1e-4 of its undilated form, 1 if not, 2 for
bad input.
"""

import functools
from collections.abc import Sequence
from typing import Any

import torch

from detbackbones.backbones.verify import TOLERANCE, verify_dilation
from detbackbones.errors import InputError
from detbackbones.tools.cli import run_command
from detbackbones.tools.describe import describe_backbone


def verify(names: Sequence[str], arguments: dict[str, Any]) -> int:
    """Print a backbone's description and the difference per level; return 0 if all are within TOLERANCE, else 1."""
    size = arguments.pop("size", (97, 130))
    if not (isinstance(size, (tuple, list)) and len(size) == 2 and all(isinstance(s, int) and s > 0 for s in size)):
        raise InputError(f"size must be (height,width) in pixels, got {size!r}")
    describe_backbone(names, arguments)  # takes `imports` out of the arguments
    torch.manual_seed(0)
    errors = verify_dilation(names[0], (size[0], size[1]), **arguments)
    print(f"\nmax|dilated - undilated| / max|undilated|, {size[0]} x {size[1]} image, float32, random norm statistics:")
    for level, error in errors.items():
        print(f"  {level}  {error:.1e}  {'exact' if error <= TOLERANCE else 'not exact'}")
    return 0 if max(errors.values()) <= TOLERANCE else 1


main = functools.partial(run_command, verify, __doc__)


if __name__ == "__main__":
    raise SystemExit(main())
