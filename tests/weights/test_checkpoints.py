"""Checkpoints of ours: which one of a run is read, damage that is found, and runs as weights of a backbone."""

import random

import pytest
import torch
from helpers import input_error, largest_error
from saved_runs import save_run

from detbackbones import InputError, build_backbone
from detbackbones.engine.checkpoint import read_checkpoint, save_checkpoint
from detbackbones.weights.checkpoints import checkpoint_files, damage, find_checkpoint
from detbackbones.weights.sources import read_file, read_metadata, read_network_file


@pytest.mark.parametrize("name", ["run", "run/last.pt"])
@pytest.mark.parametrize("backbone", ["resnet18", "timm:resnet18"])
def test_a_backbone_computes_the_features_of_the_run(tmp_path, backbone, name):
    trained = save_run(tmp_path / "run", **{"type": backbone}).backbone
    built = build_backbone(backbone, weights=str(tmp_path / name)).eval()
    images = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        assert largest_error(built(images), trained(images)) <= 1e-5


@pytest.mark.parametrize("backbone", ["resnet18", "timm:resnet18"])
def test_deeper_stages_of_the_run_are_left_out(tmp_path, backbone):
    trained = save_run(tmp_path / "run", **{"type": backbone}).backbone
    built = build_backbone(backbone, weights=str(tmp_path / "run"), out_features=("c2",)).eval()
    images = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        torch.testing.assert_close(built(images)["c2"], trained(images)["c2"])


def test_a_stage_that_runs_in_the_roi_heads_belongs_to_the_backbone(tmp_path):
    detector = save_run(tmp_path / "run", "c4")
    built = build_backbone("resnet18", weights=str(tmp_path / "run"), out_features=("c4", "c5")).eval()
    images = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        features = built(images)
        c4 = detector.backbone(images)["c4"]
        torch.testing.assert_close(features["c4"], c4)
        torch.testing.assert_close(features["c5"], detector.roi_heads.stage(c4))


def test_another_architecture_is_an_error(tmp_path):
    save_run(tmp_path / "run")
    with input_error("run", "do not fit", "ResNet-18", "ResNet-34"):
        build_backbone("resnet34", weights=str(tmp_path / "run"))


def test_a_checkpoint_without_backbone(tmp_path):
    torch.save(
        {"model": {"head.weight": torch.zeros(1)}, "config": {"model": {}}, "metadata": {}}, tmp_path / "last.pt"
    )
    with input_error("does not have a backbone", "'backbone.'"):
        read_network_file(tmp_path)


def test_a_folder_without_checkpoint(tmp_path):
    torch.save({}, tmp_path / "other.pt")
    with input_error("last.pt does not exist", "other.pt"):
        build_backbone("resnet18", weights=str(tmp_path))


def test_the_whole_model_of_a_run_can_be_read(tmp_path):
    state = save_run(tmp_path / "run").state_dict()
    assert read_file(tmp_path / "run").keys() == state.keys()


@pytest.mark.parametrize("stage", ["layer4", 5, None])
def test_a_stage_of_another_kind_is_not_looked_for(tmp_path, stage):
    config = {"model": {"roi_heads": {"stage": stage}}}
    torch.save({"model": {"backbone.w": torch.ones(1)}, "config": config, "metadata": {}}, tmp_path / "last.pt")
    assert list(read_network_file(tmp_path)) == ["w"]


def test_metadata_of_runs_and_of_other_sources(tmp_path, resnet18_weights):
    save_run(tmp_path / "run", metadata={"image_mean": [0.5, 0.5, 0.5]})
    (tmp_path / "text.pt").write_text("no checkpoint")
    assert read_metadata(str(tmp_path / "run")) == {"image_mean": [0.5, 0.5, 0.5]}
    for source in (resnet18_weights, "torchvision:IMAGENET1K_V1", str(tmp_path / "text.pt"), "nowhere"):
        assert read_metadata(source) == {}


STATE = {"model": {"w": torch.arange(256.0)}, "config": {"model": {}}, "metadata": {}}


def save(folder, *names):
    """Save checkpoints with an iteration: the newest has 9, the one before it 8, and so on."""
    for number, name in enumerate(names):
        save_checkpoint(folder / name, STATE | {"iteration": 9 - number})


def iteration(path) -> int:
    return read_checkpoint(path)["iteration"]


def truncate(path):
    path.write_bytes(path.read_bytes()[:-100])


def empty(path):
    path.write_bytes(b"")


def flip(path):
    """Flip a bit in a tensor's values."""
    content = bytearray(path.read_bytes())
    content[content.index(torch.arange(256.0).numpy().tobytes()) + 500] ^= 4
    path.write_bytes(content)


def delete(path):
    path.unlink()


DAMAGES = [(truncate, "cut off"), (empty, "cut off"), (flip, "wrong checksum of"), (delete, "is missing")]


def test_the_checkpoints_of_a_run_newest_first(tmp_path):
    for name in ("last-10.pt", "last.pt", "last-2.pt", "last-1.pt", "last-x.pt", "last.pt.damaged", "best.pt"):
        (tmp_path / name).touch()
    assert [path.name for path in checkpoint_files(tmp_path)] == ["last.pt", "last-1.pt", "last-2.pt", "last-10.pt"]
    assert checkpoint_files(tmp_path / "nowhere") == []


@pytest.mark.parametrize("harm,reason", DAMAGES)
@pytest.mark.parametrize("name", ["", "last.pt"])
def test_the_checkpoint_before_a_damaged_one_is_used_with_a_warning(tmp_path, capsys, harm, reason, name):
    save(tmp_path, "last.pt", "last-1.pt", "last-2.pt")
    assert iteration(tmp_path / name) == 9
    assert capsys.readouterr().out == ""
    harm(tmp_path / "last.pt")
    assert iteration(tmp_path / name) == 8
    (line,) = capsys.readouterr().out.splitlines()
    assert "last-1.pt is used because last.pt" in line and reason in line
    harm(tmp_path / "last-1.pt")
    assert iteration(tmp_path / name) == 7
    assert "last-2.pt is used" in capsys.readouterr().out


def test_only_the_main_process_warns_and_only_once(tmp_path, capsys, monkeypatch):
    for rank, lines in (("0", 1), ("1", 0)):
        monkeypatch.setenv("RANK", rank)
        (tmp_path / rank).mkdir()
        save(tmp_path / rank, "last-1.pt")
        for _ in range(2):
            find_checkpoint(tmp_path / rank)
        assert len(capsys.readouterr().out.splitlines()) == lines


def test_a_run_without_a_whole_checkpoint(tmp_path):
    save(tmp_path, "last.pt", "last-1.pt")
    flip(tmp_path / "last.pt")
    truncate(tmp_path / "last-1.pt")
    with input_error("no checkpoint that can be used", "last.pt cannot be read (wrong", "last-1.pt cannot be read"):
        find_checkpoint(tmp_path)


def test_another_file_has_no_other_in_its_place(tmp_path):
    save(tmp_path, "best.pt", "last.pt", "last-1.pt")
    for name in ("best.pt", "last-1.pt"):
        flip(tmp_path / name)
        with input_error(name, "wrong checksum"):
            read_checkpoint(tmp_path / name)
    with input_error("last-3.pt does not exist", "best.pt, last-1.pt, last.pt"):
        read_checkpoint(tmp_path / "last-3.pt")


def test_bits_of_tensors_that_flip_are_found(tmp_path):
    save(tmp_path, "last.pt")
    whole = (tmp_path / "last.pt").read_bytes()
    values = STATE["model"]["w"].numpy().tobytes()
    start = whole.index(values)
    rng = random.Random(0)
    for position in rng.sample(range(start, start + len(values)), 50):
        content = bytearray(whole)
        content[position] ^= 1 << rng.randrange(8)
        (tmp_path / "flipped.pt").write_bytes(content)
        assert "wrong checksum" in str(damage(tmp_path / "flipped.pt")), position


def test_any_bit_that_flips_is_found_or_changes_nothing(tmp_path, recwarn):
    save(tmp_path, "best.pt")
    whole = (tmp_path / "best.pt").read_bytes()
    rng = random.Random(0)
    found = 0
    for position in rng.sample(range(len(whole)), 200):
        content = bytearray(whole)
        content[position] ^= 1 << rng.randrange(8)
        (tmp_path / "best.pt").write_bytes(content)
        try:
            read = read_checkpoint(tmp_path / "best.pt")
        except InputError:
            found += 1
            continue
        assert torch.equal(read["model"]["w"], STATE["model"]["w"]) and read["iteration"] == 9, position
    assert found > 100


@pytest.mark.parametrize("size", [0, 1, 30, 100, 1000, -1])
def test_a_file_that_is_cut_off_anywhere_is_found(tmp_path, size):
    save(tmp_path, "last.pt")
    (tmp_path / "last.pt").write_bytes((tmp_path / "last.pt").read_bytes()[:size])
    assert "cut off" in str(damage(tmp_path / "last.pt"))


def test_a_file_that_cannot_be_opened(tmp_path):
    (tmp_path / "last.pt").mkdir()
    assert damage(tmp_path / "last.pt") == "Is a directory"


def test_a_file_of_another_program_needs_no_checksums(tmp_path):
    before = torch.serialization.get_crc32_options()
    torch.serialization.set_crc32_options(False)
    torch.save({"w": torch.ones(3)}, tmp_path / "w.pth")
    torch.serialization.set_crc32_options(before)
    assert damage(tmp_path / "w.pth") is not None
    assert torch.equal(read_file(tmp_path / "w.pth")["w"], torch.ones(3))


class Malicious:
    """Makes a file when it is unpickled without care."""

    def __reduce__(self):
        return exec, ("open('made', 'w')",)


@pytest.mark.parametrize("name,in_zip", [("last.pt", True), ("other.pt", True), ("other.pt", False)])
def test_a_malicious_pickle_is_refused_and_not_run(tmp_path, monkeypatch, name, in_zip):
    monkeypatch.chdir(tmp_path)
    save(tmp_path, "last-1.pt")
    torch.save(STATE | {"extra": Malicious()}, name, _use_new_zipfile_serialization=in_zip)
    for read in (read_checkpoint, read_file, read_network_file):
        with input_error(name, "not a file of plain tensors"):
            read(tmp_path / name)
    assert read_metadata(name) == {}
    assert not (tmp_path / "made").exists()


def test_weights_of_a_backbone_come_from_the_checkpoint_before_a_damaged_one(tmp_path):
    trained = save_run(tmp_path / "run").backbone
    (tmp_path / "run" / "last.pt").rename(tmp_path / "run" / "last-1.pt")
    (tmp_path / "run" / "last.pt").write_bytes(b"PK cut off")
    for name in ("run", "run/last.pt"):
        state = read_network_file(tmp_path / name)
        assert torch.equal(state["conv1.weight"], trained.conv1.weight)
