"""Print strides, channels, parameters and operations of a backbone, level by level.

    python tools/describe.py BACKBONE [argument=value ...]      e.g.  resnet101_dilated  norm=group  imports=my_module
    detbackbones describe BACKBONE [argument=value ...]

Arguments are those of the backbone; `imports` names modules that register backbones of your own.
"""

import functools
from collections.abc import Sequence
from typing import Any

from detbackbones.backbones.describe import describe
from detbackbones.registry import import_modules
from detbackbones.tools.cli import one_name, run_command


def describe_backbone(names: Sequence[str], arguments: dict[str, Any]) -> None:
    """Print the description of the backbone that the command line names."""
    import_modules(arguments.pop("imports", ()))
    print(describe(one_name(names, "backbone"), **arguments))


main = functools.partial(run_command, describe_backbone, __doc__)


if __name__ == "__main__":
    raise SystemExit(main())
