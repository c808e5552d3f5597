"""Which folder a run gets, what is removed from it, and that nobody else gets it."""

import threading
from pathlib import Path

import pytest
from helpers import input_error

from detbackbones.engine.config import TrainConfig
from detbackbones.engine.run_folder import (
    RESULT_FILES,
    RUN_FILES,
    RUNS,
    RunFolder,
    create_work_dir,
    launch_id,
    resolve_work_dir,
)
from detbackbones.engine.run_lock import LOCK_FILE, RunLock, read_lock

pytestmark = pytest.mark.usefixtures("here")


def config(**values) -> TrainConfig:
    return TrainConfig(model={}, optimizer={}, max_iters=1, **values)


def resolve(**values) -> RunFolder:
    return resolve_work_dir(config(**values), "x")


def create(run: RunFolder, **values) -> Path:
    """Make the folder and release the lock, as a run that has ended; return the folder."""
    with create_work_dir(run, config(**values)) as lock:
        return lock.folder


def files(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()} - {LOCK_FILE}


def fill(folder: Path | str, *names: str) -> Path:
    """Make a folder with files that hold their names."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).write_text(name)
    return folder


def test_a_run_gets_the_next_number_of_its_name():
    assert resolve() == RunFolder(RUNS / "x-1", "new")
    assert not RUNS.exists()
    for name in ("x-2", "x-10", "x-eval-30", "xy-40", "x-50b"):
        fill(RUNS / name)
    assert resolve().path == RUNS / "x-11"


def test_two_that_choose_the_same_number_get_two_folders():
    first, second = resolve(), resolve()
    assert first == second
    with create_work_dir(first, config()) as one, create_work_dir(second, config()) as other:
        assert [one.folder, other.folder] == [RUNS / "x-1", RUNS / "x-2"]


def test_many_that_start_together_get_as_many_folders():
    folders, barrier = [], threading.Barrier(8)

    def start():
        run = resolve()
        barrier.wait()
        folders.append(create(run))

    threads = [threading.Thread(target=start) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(folders) == [RUNS / f"x-{number}" for number in range(1, 9)]


@pytest.mark.parametrize("name", [*RUN_FILES, "last-1.pt"])
def test_a_folder_that_holds_a_run_is_refused(name):
    fill("mine", name)
    with input_error("mine", "already holds a run", "resume=true", "overwrite=true"):
        resolve(work_dir="mine")
    assert files(Path("mine")) == {name}


def test_other_files_in_a_folder_stay():
    fill("mine", "notes.txt", "model.pt")
    run = resolve(work_dir="mine")
    assert run == RunFolder(Path("mine"), "new")
    create(run, work_dir="mine")
    assert files(Path("mine")) == {"notes.txt", "model.pt"}


def test_overwriting_removes_the_files_of_the_run_and_no_others():
    removed = (*RUN_FILES, *RESULT_FILES, "last-1.pt", "last-7.pt", "last.pt.damaged", "last.pt.12-ab34.tmp")
    kept = ("notes.txt", "mine.pt", "lasting.pt", "photo.png")
    run = fill("mine", *removed, *kept)
    place = resolve(work_dir="mine", overwrite=True)
    assert place == RunFolder(run, "replace") and files(run) == {*removed, *kept}
    create(place, work_dir="mine", overwrite=True)
    assert files(run) == set(kept)


@pytest.mark.parametrize("action", ["new", "resume", "replace", "reuse"])
def test_a_folder_in_use_is_refused_and_left_alone(action):
    run = fill("mine", "last.pt", "log.jsonl")
    with RunLock(run) as lock:
        lock.acquire()
        with input_error("mine", "is in use"):
            create(RunFolder(run, action), work_dir="mine")
        lock.check()
    assert files(run) == {"last.pt", "log.jsonl"}


def test_a_run_that_began_and_ended_in_the_folder_meanwhile_is_kept():
    place = resolve(work_dir="mine")
    fill("mine", "last.pt")
    with input_error("already holds a run"):
        create(place, work_dir="mine")
    assert files(Path("mine")) == {"last.pt"}
    with RunLock(Path("mine")) as lock:
        lock.acquire()  # the refused one has released it


def test_resuming():
    with input_error("nothing to resume", "x-<n> does not exist", "work_dir="):
        resolve(resume=True)
    for number in (1, 2):
        fill(RUNS / f"x-{number}", "last.pt", "log.jsonl")
    place = resolve(resume=True)
    assert place == RunFolder(RUNS / "x-2", "resume") and place.resume
    assert create(place, resume=True) == RUNS / "x-2"
    assert files(RUNS / "x-2") == {"last.pt", "log.jsonl"}
    assert resolve(resume=True, work_dir=f"{RUNS}/x-1") == RunFolder(RUNS / "x-1", "resume")


def test_resuming_without_a_checkpoint_writes_nothing():
    with input_error("nothing to resume", "nowhere does not have a checkpoint"):
        resolve(resume=True, work_dir="nowhere")
    assert not Path("nowhere").exists()
    fill(RUNS / "x-1", "log.jsonl")
    with input_error("nothing to resume", "x-1 does not have a checkpoint"):
        resolve(resume=True)


@pytest.mark.parametrize(
    "present,action",
    [
        ((), "replace"),
        (("config.py", "log.jsonl", "notes.txt"), "replace"),  # ended before its first checkpoint
        (("last.pt",), "resume"),
        (("last-1.pt", "log.jsonl"), "resume"),  # killed while it renamed
    ],
)
def test_auto_resume_in_a_folder(present, action):
    fill("mine", *present)
    assert resolve(work_dir="mine", auto_resume=True) == RunFolder(Path("mine"), action)


def test_auto_resume_begins_in_a_folder_that_does_not_exist():
    assert create(resolve(work_dir="a/b", auto_resume=True), work_dir="a/b").is_dir()


@pytest.mark.parametrize("name", ["best.pt", "metrics.json", "model.safetensors"])
def test_auto_resume_does_not_replace_results(name):
    fill("mine", "log.jsonl", name)
    with input_error("already holds a run"):
        resolve(work_dir="mine", auto_resume=True)


def test_auto_resume_of_numbered_runs():
    assert resolve(auto_resume=True) == RunFolder(RUNS / "x-1", "new")
    fill(RUNS / "x-1", "last.pt")
    assert resolve(auto_resume=True) == RunFolder(RUNS / "x-1", "resume")
    fill(RUNS / "x-2", "log.jsonl")  # may be starting now
    assert resolve(auto_resume=True) == RunFolder(RUNS / "x-3", "new")


def test_an_evaluation_writes_over_results_and_removes_nothing():
    run = fill("mine", "last.pt", "metrics.json")
    for mode in ({"resume": True}, {"overwrite": True}):
        place = resolve(work_dir="mine", eval_only=True, checkpoint="last.pt", **mode)
        assert place == RunFolder(run, "reuse")
        create(place, work_dir="mine")
    assert files(run) == {"last.pt", "metrics.json"}
    with input_error("already holds a run"):
        resolve(work_dir="mine", eval_only=True, checkpoint="last.pt", auto_resume=True)


@pytest.mark.parametrize("path,reason", [("text/run", "text/run"), ("text", "it is a file"), ("a\0b", "null")])
def test_folders_that_cannot_be_made(path, reason):
    Path("text").write_text("a file")
    with input_error("cannot be created", reason):
        create(RunFolder(Path(path)), work_dir=path)


@pytest.fixture
def torchrun(monkeypatch):
    """Return a function that sets the environment of a process that torchrun has started."""

    def start(restarts: int, run_id: str = "none") -> None:
        monkeypatch.setenv("TORCHELASTIC_RUN_ID", run_id)
        monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", str(restarts))

    return start


@pytest.mark.parametrize("values", [{}, {"work_dir": "mine"}, {"work_dir": "mine", "overwrite": True}])
@pytest.mark.parametrize("saved,action", [((), "replace"), (("last.pt",), "resume"), (("last-1.pt",), "resume")])
def test_processes_that_torchrun_restarts_go_on_with_their_run(torchrun, values, saved, action):
    torchrun(0)
    run = create(resolve(**values), **values)
    fill(run, "config.py", *saved)
    fill(RUNS / "x-9", "last.pt")  # of another launch
    torchrun(1)
    assert resolve(**values) == RunFolder(run, action)
    create(resolve(**values), **values)
    assert resolve(**values) == RunFolder(run, action)  # the next restart


def test_a_restarted_process_whose_launch_resumes_goes_on_resuming(torchrun):
    run = fill("mine", "last.pt")
    torchrun(0)
    create(resolve(work_dir="mine", resume=True), work_dir="mine", resume=True)
    torchrun(1)
    assert resolve(work_dir="mine", resume=True) == RunFolder(run, "resume")


def test_another_launch_of_torchrun_does_not_go_on_by_itself(torchrun):
    torchrun(0)
    run = fill(create(resolve(work_dir="mine"), work_dir="mine"), "last.pt")
    assert read_lock(run)["launch"] == launch_id() != ""
    with input_error("already holds a run"):  # the same command again
        resolve(work_dir="mine")
    torchrun(1, run_id="another")
    with input_error("already holds a run"):
        resolve(work_dir="mine")


def test_a_process_that_is_restarted_before_it_has_a_folder_begins(torchrun):
    torchrun(1)
    assert resolve() == RunFolder(RUNS / "x-1", "new")


def test_without_torchrun_there_is_no_launch(monkeypatch):
    monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    run = fill(create(resolve()), "last.pt")
    assert launch_id() == "" == read_lock(run)["launch"]
    assert resolve() == RunFolder(RUNS / "x-2", "new")
