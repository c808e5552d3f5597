"""Write one HTML page on a run, which opens without a server and without a network.

    python tools/report.py RUN [out=FILE]
    detbackbones report RUN [out=FILE]

RUN is the folder of a training run or of an evaluation (eval_only=true). The page has learning curves, AP by class and
size, PR curves, error types (TIDE), the confusion matrix, score calibration, the worst images, config and environment;
what a run does not have is left out with a sentence. The worst images need the run's validation data. `out` is
report.html in the folder of the run if it is not given.
"""

import functools
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from detbackbones.engine.console import plain_console
from detbackbones.engine.report import write_report
from detbackbones.errors import InputError, check_known, shorten
from detbackbones.tools.cli import one_name, run_command


def report(names: Sequence[str], pairs: Mapping[str, Any]) -> None:
    """Write the report of the run that the command line names."""
    check_known("key", ["out"], *pairs)
    out = pairs.get("out")
    if out is not None and not str(out).endswith((".html", ".htm")):
        raise InputError(f"out={shorten(out)} must be an HTML file, such as out=report.html")
    path = write_report(Path(one_name(names, "run")), None if out is None else Path(out))
    plain_console().print(f"report of {path.stat().st_size / 1e6:.1f} MB in {path}", soft_wrap=True, markup=False)


main = functools.partial(run_command, report, __doc__)


if __name__ == "__main__":
    sys.exit(main())
