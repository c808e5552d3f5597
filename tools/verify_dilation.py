"""Measure the a-trous identity of a backbone and show its geometry.

    python tools/verify.py BACKBONE [argument=value ...]      e.g.  resnet101_dilated  stride_in_1x1=true  size=(97,130)

Arguments are the backbone's own; `size` is the height and width of the random image. Exit code 0 where every level is
within 1e-4 of its undilated self, 1 where not, 2 for a bad input.
"""

import sys

import torch

from detbackbones import InputError, describe, verify_dilation
from detbackbones.backbones.verify import EXACT
from detbackbones.engine.config import parse_words
from detbackbones.tools.cli import command


def verify(names: list[str], pairs: list[str]) -> int:
    if len(names) != 1:
        raise InputError(f"one backbone at a time, not {' and '.join(names) or 'none'}")
    settings = parse_words(pairs)
    size = settings.pop("size", (97, 130))
    if not (isinstance(size, (tuple, list)) and len(size) == 2 and all(isinstance(s, int) and s > 0 for s in size)):
        raise InputError(f"size={size!r} is not (height,width)")
    torch.manual_seed(0)
    description = describe(names[0], **settings)
    errors = verify_dilation(names[0], size, **settings)
    print(description)
    print(f"\nmax|dilated - undilated| / max|undilated| on a {size[0]} x {size[1]} image, float32, random norm statistics:")
    for name, error in errors.items():
        print(f"  {name}  {error:.1e}  {'exact' if error <= EXACT else 'not exact'}")
    return 0 if max(errors.values()) <= EXACT else 1


def main(arguments: list[str] | None = None) -> int:
    return command(__doc__, verify, arguments)


if __name__ == "__main__":
    sys.exit(main())
