"""The trainer's validation loss: the losses of held-out images, with the weights that the run has at that moment."""

import json

import pytest
import torch

from detbackbones import build_detector
from detbackbones.data.annotations import read_annotations
from detbackbones.data.coco import CocoDataset
from detbackbones.data.shapes import ShapesSpec, ensure_shapes
from detbackbones.tools.train_coco import main

NARROW = ["model.neck.out_channels=8", "batch_size=2", "workers=0", "max_iters=1", "val_loss=true"]
BOXES = ["model.box_head_dim=8", "model.mask_channels=(8,)", "model.mask_dim=8", "model.rpn_post_nms_top_n=(20,10)"]


@pytest.mark.parametrize("kind", ["mask_rcnn", "retinanet"])
def test_it_is_logged(kind, tmp_path, monkeypatch):
    shapes = ensure_shapes(ShapesSpec(num_train=4, num_val=3, side=64), tmp_path)
    monkeypatch.chdir(tmp_path)
    config, more = "mask_rcnn_resnet18_fpn_short_shapes", BOXES
    if kind == "retinanet":
        (tmp_path / "own.py").write_text(
            "model = dict(type='retinanet', backbone=dict(type='resnet18'), neck=dict(type='fpn'))\n"
            "train = dict(ann_file='instances_train.json', image_dir='images')\n"
            "val = dict(ann_file='instances_val.json', image_dir='images')\n"
            "optimizer = dict(type='SGD', lr=0.01)\nmax_iters = 1\nshort_side = None\n"
        )  # fmt: skip
        config, more = "own.py", []
    assert main([config, f"data_root={shapes}", *NARROW, *more, "work_dir=run"]) == 0
    entries = [json.loads(line) for line in (tmp_path / "run/log.jsonl").read_text().splitlines()]
    (entry,) = [e for e in entries if "val_loss" in e]
    parts = {k: v for k, v in entry.items() if k.startswith("val_") and k != "val_loss"}
    assert len(parts) == (5 if kind == "mask_rcnn" else 2)
    assert entry["val_loss"] == pytest.approx(sum(parts.values()), rel=1e-5)

    saved = torch.load(tmp_path / "run/last.pt", weights_only=True)
    model = build_detector(saved["config"]["model"], num_classes=5)
    model.load_state_dict(saved["model"])
    annotations = read_annotations(shapes / "instances_val.json", shapes / "images")
    dataset = CocoDataset(annotations, training=True, masks=kind == "mask_rcnn", flip=0.0)
    with torch.no_grad():
        torch.manual_seed(0)
        items = [dataset[i, 0] for i in range(len(dataset))]
        own = [sum(model.eval().losses([image], [target]).values()).item() for image, target in items]
    assert entry["val_loss"] == pytest.approx(sum(own) / len(own), rel=1e-4)
