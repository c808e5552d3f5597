"""The command line as a user meets it, on a handful of generated images and a very narrow network."""

import json
import shutil

import pytest
import torch
from PIL import Image

from detbackbones import list_backbones
from detbackbones.data.shapes import ShapesSpec, ensure_shapes
from detbackbones.engine.config import CONFIG_DIR, Schedule, find_config, load_config, parse_overrides
from detbackbones.engine.trainer import learning_rate_factor
from detbackbones.tools.train_coco import main

NARROW = ["model.neck.out_channels=8", "model.box_head_dim=8", "model.mask_channels=(8,)", "model.mask_dim=8", "batch_size=2",
          "model.rpn_post_nms_top_n=(20,10)", "model.box_score_thresh=0.0", "workers=0"]  # fmt: skip


@pytest.fixture(scope="module")
def shapes(tmp_path_factory):
    return ensure_shapes(ShapesSpec(num_train=12, num_val=3, side=64), tmp_path_factory.mktemp("cache"))


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def train(shapes, here):
    def run(*arguments):
        return main([f"data_root={shapes}", *NARROW, *arguments])

    return run


def log(folder):
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def test_a_run_leaves_everything_that_the_readme_promises(train, here, capsys):
    assert train("max_iters=3", "log_every=1", "work_dir=run") == 0
    folder = here / "run"
    metrics = json.loads((folder / "metrics.json").read_text())
    assert {len(v) for v in metrics.values()} == {12} and list(metrics) == ["bbox", "segm"]
    assert [e["iteration"] for e in log(folder) if "loss" in e] == [1, 2, 3]
    assert all("loss_mask" in e for e in log(folder) if "loss" in e)
    printed = capsys.readouterr().out
    assert "learning rate" in printed and "segm" in printed
    image = Image.open(folder / "predictions.png")
    assert image.width >= 6 * 128 and image.height >= 128  # three images twice, each 64 px side enlarged
    assert len(image.convert("RGB").getcolors(2**24)) > 1000
    saved = torch.load(folder / "last.pt", weights_only=True)
    assert saved["iteration"] == 3 and saved["classes"]["ids"] == [2, 7, 13, 44, 90]
    backbone = saved["config"]["model"]["backbone"]
    said_outright = {"norm": "batch", "freeze": 0}
    assert backbone == {"type": "resnet18", "weights": None, "out_features": ("c2", "c3", "c4"), **said_outright}
    assert load_config(folder / "config.py", {}).model.backbone.to_dict() == backbone
    # the best checkpoint, evaluated again from its file alone, scores the same
    assert main(["eval_only=true", f"checkpoint={folder / 'best.pt'}", "work_dir=again"]) == 0
    assert json.loads((here / "again/metrics.json").read_text()) == metrics


def test_runs_are_numbered_and_never_overwritten(train, here, capsys):
    assert train("max_iters=1") == 0 and train("max_iters=1") == 0
    names = sorted(p.name for p in (here / "runs").iterdir())
    assert names == ["mask_rcnn_resnet18_fpn_short_shapes-1", "mask_rcnn_resnet18_fpn_short_shapes-2"]
    before = (here / "runs" / names[0] / "log.jsonl").read_text()
    assert train("max_iters=1", f"work_dir=runs/{names[0]}") == 2
    assert "already holds a run" in capsys.readouterr().err
    assert (here / "runs" / names[0] / "log.jsonl").read_text() == before
    assert train("max_iters=2", f"work_dir=runs/{names[0]}", "overwrite=true") == 0
    assert log(here / "runs" / names[0])[-1]["iteration"] == 2


def test_resume_goes_on_as_if_never_stopped(train, here):
    same = ["schedule.cosine=false", "log_every=1"]
    assert train("max_iters=4", "work_dir=whole", *same) == 0
    assert train("max_iters=2", "work_dir=parts", *same) == 0
    assert train("max_iters=4", "work_dir=parts", "resume=true", *same) == 0
    whole, parts = ([e["loss"] for e in log(here / f) if "loss" in e] for f in ("whole", "parts"))
    assert len(parts) == 4 and parts == whole
    whole, parts = (torch.load(here / f / "last.pt", weights_only=True) for f in ("whole", "parts"))
    assert whole["iteration"] == parts["iteration"] == 4
    for key, value in whole["model"].items():  # to the last bit: Adam turns a gradient's last bit into a whole step
        assert torch.equal(parts["model"][key], value), key


def test_a_saved_run_knows_its_config_and_not_its_errand(train, here, capsys):
    assert train("max_iters=1", "work_dir=run", "overwrite=true", "model.backbone.type=resnet18_dilated") == 0
    assert main(["resume=true", "work_dir=run", "max_iters=2"]) == 0
    assert [e["iteration"] for e in log(here / "run") if "loss" in e] == [1, 2]
    assert main(["resume=true", "work_dir=run", "optimizer.type=SGD"]) == 2
    assert "run was trained with AdamW, not SGD" in capsys.readouterr().err
    before = {p: p.read_bytes() for p in (here / "run").iterdir()}
    assert main(["run/config.py", "work_dir=run"]) == 2  # the saved config does not overwrite
    assert main(["eval_only=true", "checkpoint=run/last.pt", "eval_backend=pycocotools"]) == 0
    again = json.loads((here / "runs/run-eval-1/metrics.json").read_text())
    assert again == json.loads((here / "run/metrics.json").read_text())
    assert main(["eval_only=true", "checkpoint=run/last.pt", "work_dir=run"]) == 2
    assert before == {p: p.read_bytes() for p in (here / "run").iterdir()}
    assert main(["eval_only=true", "checkpoint=run/last.pt", "work_dir=run", "overwrite=true"]) == 0
    assert before.keys() == {p for p in (here / "run").iterdir()}  # metrics anew, checkpoints kept


def test_fine_tuning_from_another_class_count(train, shapes, here, capsys):
    assert train("max_iters=1", "work_dir=five") == 0
    content = json.loads((shapes / "instances_train.json").read_text())
    content["categories"] = content["categories"][:2]
    content["annotations"] = [a for a in content["annotations"] if a["category_id"] in (2, 7)]
    (here / "two.json").write_text(json.dumps(content))
    own = ["train.ann_file=two.json", "val.ann_file=two.json"]
    assert train("max_iters=1", "init_from=five/last.pt", "work_dir=two", "optimizer.lr=0.0", *own) == 0
    assert "new for 2 classes" in capsys.readouterr().out.replace("\n", " ")
    five, two = (torch.load(here / f / "last.pt", weights_only=True)["model"] for f in ("five", "two"))
    assert two["roi_heads.box_predictor.cls_score.weight"].shape[0] == 3
    assert torch.equal(two["backbone.conv1.weight"], five["backbone.conv1.weight"])
    assert main(["eval_only=true", "checkpoint=five/last.pt", f"data_root={shapes}", "val.ann_file=two.json"]) == 2
    assert "category ids" in capsys.readouterr().err


def test_accumulated_batches_count_as_one_step_of_all_their_images(train, here, capsys):
    assert train("max_iters=1", "batch_size=1", "accumulate=2", "work_dir=a", "optimizer.type=SGD", "reference_batch_size=4") == 0
    assert "learning rate 0.0005 = 0.001 x 2 / 4" in capsys.readouterr().out.replace("\n", " ")


def test_real_coco(coco_tiny, here, capsys):
    """Two iterations of the published 1x config on real images, with a dilated backbone named on the command line."""
    arguments = [f"data_root={coco_tiny}", "weights=none", "batch_size=1", "short_side=64", "max_iters=2", "workers=0",
                 "backbone=resnet18_dilated"]  # fmt: skip
    assert main(["configs/mask_rcnn_resnet50_fpn_1x_coco.py", *arguments]) == 0
    printed = capsys.readouterr().out
    assert "bbox" in printed and "segm" in printed and "learning rate 0.00125 = 0.02 x 1 / 16" in printed.replace("\n", " ")
    saved = torch.load(here / "runs/mask_rcnn_resnet50_fpn_1x_coco-1/last.pt", weights_only=True)
    assert len(saved["classes"]["ids"]) == 80 and saved["classes"]["ids"][-1] == 90


def test_a_loss_that_is_not_finite_stops_the_run(train, here, capsys):
    assert train("max_iters=3", "optimizer.lr=1e30", "optimizer.type=SGD", "schedule.warmup_iters=0", "clip_grad_norm=none") == 2
    error = capsys.readouterr().err
    assert "not finite at iteration" in error and "images [" in error and error.count("\n") == 1


def test_a_truncated_image_stops_or_is_skipped_and_counted(train, shapes, here, capsys):
    shutil.copytree(shapes, here / "data")
    victim = here / "data/images/train_001003.jpg"
    victim.write_bytes(victim.read_bytes()[:500])
    assert train("max_iters=1", "data_root=data") == 2
    assert "train_001003.jpg is unreadable" in capsys.readouterr().err and not (here / "runs").exists()
    assert train("max_iters=12", "data_root=data", "skip_unreadable=true") == 0
    assert "skipped 1 unreadable image(s)" in capsys.readouterr().out


@pytest.mark.parametrize("arguments,message", [
    (["mask_rcnn_resnet50_fpn_2x_coco"], "did you mean mask_rcnn_resnet50_fpn_"),
    (["backbone=resnet101_dilatd"], "did you mean resnet101_dilated"),
    (["neck=fpm"], "did you mean fpn"),
    (["model.type=mask_rcn"], "did you mean mask_rcnn"),
    (["max_iter=3"], "did you mean max_iters"),
    (["model.backbone.depht=3"], "model.backbone"),
    (["schedule.warmup=3"], "did you mean warmup_iters"),
    (["data_root=nowhere"], "data_root nowhere does not exist"),
    (["train.ann_file=nowhere.json"], "nowhere.json does not exist"),
    (["batch_size=many"], "batch_size='many'"),
    (["max_iters=0"], "at least 1"),
    (["workers=-1"], "at least 0"),
    (["flip=2"], "flip=2 must be at most 1"),
    (["schedule.warmup_iters=-1"], "warmup_iters=-1 must be at least 0"),
    (["model.neck.out_channels=0"], "at least 1, not 0"),
    (["model.mask_channels=()"], "mask_channels"),
    (["short_side=[]"], "short_side"),
    (["optimizer.lr=fast"], "optimizer: AdamW says"),
    (["optimizer.lr=-1"], "Invalid learning rate"),
    (["model.neck.out_channels=many"], "model.neck.out_channels='many' is no int"),
    (["model.num_classes=3"], "model.num_classes cannot be set"),
    (["precision=fp8"], "did you mean fp16"),
    (["eval_backend=coco"], "known: faster_coco_eval, pycocotools"),
    (["max_iters"], "max_iters"),
    (["weights=torchvision:IMAGENET1K_V9"], "did you mean IMAGENET1K_V1"),
    (["model.backbone.norm=frozen"], "random layers"),
    (["model.backbone.freeze=2"], "random layers"),
    (["eval_only=true"], "checkpoint="),
    (["eval_only=true", "checkpoint=nowhere.pt"], "nowhere.pt does not exist"),
    (["init_from=nowhere.pt"], "nowhere.pt does not exist"),
    (["resume=true"], "nothing to resume"),
    (["resume=true", "overwrite=true"], "contradict"),
    (["work_dir=/dev/null/run"], "cannot be made"),
])  # fmt: skip
def test_bad_input_is_one_line_and_nothing_is_written(arguments, message, shapes, here, capsys):
    assert main([f"data_root={shapes}", *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error and error.startswith("error: ") and error.count("\n") == 1
    assert not list(here.iterdir())


@pytest.mark.parametrize("path", sorted(CONFIG_DIR.glob("*.py")), ids=lambda p: p.stem)
@pytest.mark.parametrize("backbone", ["resnet18", "resnext101_32x8d_dilated"])
def test_every_config_takes_every_backbone(path, backbone):
    if path.stem != "__init__":
        cfg = load_config(path, parse_overrides([f"backbone={backbone}", "weights=none"]))
        assert cfg.model.backbone.type == backbone and backbone in list_backbones()


def test_the_1x_schedule_is_the_fields():
    cfg = load_config(find_config("mask_rcnn_resnet50_fpn_1x_coco"), {})
    assert (cfg.max_iters, cfg.batch_size, cfg.optimizer.lr, cfg.optimizer.weight_decay) == (90_000, 16, 0.02, 1e-4)
    assert (cfg.short_side, cfg.long_side) == (800, 1333)
    assert (cfg.model.backbone["norm"], cfg.model.backbone["freeze"]) == ("frozen", 2)
    schedule = Schedule(**cfg.schedule)
    factors = [learning_rate_factor(schedule, i, cfg.max_iters) for i in (0, 500, 1000, 59_999, 60_000, 80_000)]
    assert factors == pytest.approx([0.001, 0.5005, 1, 1, 0.1, 0.01])
