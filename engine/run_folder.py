"""Choose and make the folder of a run."""

import os
import re
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ..errors import InputError, shorten
from ..weights.checkpoints import checkpoint_files
from .checkpoint import TEMPORARY
from .config import TrainConfig
from .run_lock import RunLock, read_lock

RUNS = Path("runs")
STARTED_FILES = ("config.py", "log.jsonl")  # written before the first checkpoint
RUN_FILES = (*STARTED_FILES, "metrics.json", "last.pt", "best.pt", "model.safetensors")
RESULT_FILES = (
    "predictions.json",
    "predictions_segm.json",
    "per_class.csv",
    "details.json",
    "curves.png",
    "predictions.png",
    "pr_curves.png",
    "confusion_matrix.png",
    "calibration.png",
    "environment.json",
    "report.html",
)


@dataclass(frozen=True)
class RunFolder:
    """The folder of a run, which may not exist yet.

    Args:
        path: its path.
        action: "new": it may not hold a run; "resume": continue the run in it; "replace": remove the files of the run
            in it; "reuse": write over results, as evaluations do.
    """

    path: Path
    action: Literal["new", "resume", "replace", "reuse"] = "new"

    @property
    def resume(self) -> bool:
        """Whether the run continues from the checkpoint in the folder."""
        return self.action == "resume"


def resolve_work_dir(config: TrainConfig, name: str) -> RunFolder:
    """Choose the folder of a run without creating it: `work_dir`, the newest run to resume, or the next number.

    A process that torchrun has restarted continues the run that its launch began, whatever the config says, or begins
    it again if it did not get to a checkpoint.

    Raises:
        InputError: There is nothing to resume, or `work_dir` holds a run.
    """
    restarted = _restarted_run(config, name)
    run = restarted or (_numbered(config, name) if config.work_dir is None else _chosen(config, Path(config.work_dir)))
    if config.eval_only and run.action in ("resume", "replace"):
        return RunFolder(run.path, "reuse")
    if run.resume and not checkpoint_files(run.path):
        raise InputError(f"nothing to resume: {shorten(run.path)} does not have a checkpoint")
    return run


def create_work_dir(run: RunFolder, config: TrainConfig) -> RunLock:
    """Make the folder of a run and lock it; then remove the files of a run that is replaced.

    If another process has made a numbered folder at the same moment, the next number is taken.

    Args:
        run: what `resolve_work_dir` returned.
        config: the config of the run.

    Returns:
        The lock, which the caller releases at the end; `lock.folder` is the folder.

    Raises:
        InputError: The folder cannot be made or locked, or another process uses it.
    """
    lock = RunLock(_make_folder(run.path, numbered=config.work_dir is None and run.action == "new"))
    lock.acquire()
    try:
        if run.action == "new":
            _check_unused(lock.folder)  # another process may have run in it since it was chosen
        elif run.action == "replace":
            _remove_run(lock.folder)
        lock.mark(launch_id())
    except OSError as error:
        lock.release()
        raise InputError(f"folder {shorten(lock.folder)} cannot be used: {error.strerror}") from None
    except BaseException:
        lock.release()
        raise
    return lock


def launch_id() -> str:
    """Return what the processes of one launch of torchrun have in common, restarts included; "" without torchrun."""
    run = os.environ.get("TORCHELASTIC_RUN_ID")
    return "" if run is None else f"{shorten(run)} {socket.gethostname()} {os.getppid()}"


def _restarted_run(config: TrainConfig, name: str) -> RunFolder | None:
    """Return the run that this launch of torchrun began before it restarted its processes, or None."""
    launch = launch_id()
    if not launch or os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") == "0":
        return None
    if config.work_dir is None:
        folders = [RUNS / f"{name}-{number}" for number in reversed(_numbers(name))]
    else:
        folders = [Path(config.work_dir)]
    for folder in folders:
        if read_lock(folder).get("launch") == launch:
            return RunFolder(folder, "resume" if config.resume or checkpoint_files(folder) else "replace")
    return None


def _chosen(config: TrainConfig, folder: Path) -> RunFolder:
    if config.resume:
        return RunFolder(folder, "resume")
    if config.auto_resume and not config.eval_only:
        if checkpoint_files(folder):
            return RunFolder(folder, "resume")
        if not any(os.path.exists(folder / file) for file in set(RUN_FILES) - set(STARTED_FILES)):
            return RunFolder(folder, "replace")
    if config.overwrite:
        return RunFolder(folder, "replace")
    _check_unused(folder)
    return RunFolder(folder)


def _numbered(config: TrainConfig, name: str) -> RunFolder:
    last = max(_numbers(name), default=0)
    newest = RUNS / f"{name}-{last}"
    if config.resume and not last:
        raise InputError(f"nothing to resume: {RUNS / name}-<n> does not exist; name the run with work_dir=")
    if config.resume or (config.auto_resume and not config.eval_only and checkpoint_files(newest)):
        return RunFolder(newest, "resume")
    return RunFolder(RUNS / f"{name}-{last + 1}")


def _numbers(name: str) -> list[int]:
    """Return the numbers in use for runs of a name, in order."""
    matches = [re.fullmatch(rf"{re.escape(name)}-(\d+)", path.name) for path in RUNS.glob("*")]
    return sorted(int(match[1]) for match in matches if match)


def _check_unused(folder: Path) -> None:
    if any(os.path.exists(folder / file) for file in RUN_FILES) or checkpoint_files(folder):
        raise InputError(
            f"work_dir {shorten(folder)} already holds a run; use resume=true, overwrite=true or another folder"
        )


def _make_folder(path: Path, numbered: bool) -> Path:
    """Make a folder, of a numbered run the first one from `path` on that nobody else makes; return its path."""
    try:
        while numbered:
            try:
                path.mkdir(parents=True)
                return path
            except FileExistsError:
                name, _, number = path.name.rpartition("-")
                path = path.with_name(f"{name}-{int(number) + 1}")
        path.mkdir(parents=True, exist_ok=True)
    except (OSError, ValueError) as error:
        reason = "it is a file" if isinstance(error, FileExistsError) else getattr(error, "strerror", error)
        raise InputError(f"folder {shorten(path)} cannot be created: {reason}") from None
    return path


def _remove_run(folder: Path) -> None:
    files = [folder / name for name in (*RUN_FILES, *RESULT_FILES)]
    for pattern in ("last-*.pt", "*.pt.damaged", TEMPORARY):
        files += folder.glob(pattern)
    for file in files:
        file.unlink(missing_ok=True)
