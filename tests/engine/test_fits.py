"""Every detector form learns real images from random weights, through the command line."""

import json
import time

import pytest
from tiny_runs import words

from detbackbones.tools.train_coco import main

LARGE_OBJECTS = (42, 73, 86)  # images with one to three of them
SMALL = {
    "data_root": "none",
    "weights": "none",
    "short_side": 96,
    "batch_size": 3,
    "reference_batch_size": 3,
    "workers": 0,
    "flip": 0.0,
    "optimizer": {"_delete_": True, "type": "AdamW", "lr": 5e-4},
    "schedule.warmup_iters": 20,
    "schedule.warmup_factor": 0.01,
    "schedule.cosine": True,
    "clip_grad_norm": 5.0,
    "log_every": 10,
    "model.rpn.pre_nms_top_n": (400, 200),
    "model.rpn.post_nms_top_n": (100, 50),
    "model.rpn.batch_size_per_image": 64,
    "model.roi_heads.batch_size_per_image": 16,
}


def subset(coco_tiny, here, keep) -> dict:
    """Overrides that train and validate on some images of train2017."""
    content = json.loads((coco_tiny / "annotations/instances_train2017.json").read_text())
    content["images"] = [image for image in content["images"] if keep(image)]
    ids = {image["id"] for image in content["images"]}
    content["annotations"] = [a for a in content["annotations"] if a["image_id"] in ids]
    (here / "subset.json").write_text(json.dumps(content))
    paths = {"ann_file": here / "subset.json", "image_dir": coco_tiny / "train2017"}
    return {f"{split}.{key}": path for split in ("train", "val") for key, path in paths.items()}


@pytest.mark.slow
@pytest.mark.parametrize(
    "config, iterations, overrides",
    [
        ("mask_rcnn_resnet50_dilated_fpn_1x_coco", 100, {"model.roi_heads.box_head_dim": 256}),
        ("mask_rcnn_resnet50_dc5_1x_coco", 100, {"model.roi_heads.box_head_dim": 256}),
        ("mask_rcnn_resnet50_c4_1x_coco", 220, {"model.roi_heads.batch_size_per_image": 8}),
        ("mask_rcnn_resnet50_fpn_1x_coco", 100, {"neck": "pafpn", "model.roi_heads.box_head_dim": 256}),
    ],
)
def test_three_images_are_fitted(config, iterations, overrides, coco_tiny, here, record_property):
    data = subset(coco_tiny, here, lambda image: image["id"] in LARGE_OBJECTS)
    settings = SMALL | data | {"max_iters": iterations, "work_dir": "run"} | overrides
    started = time.perf_counter()
    assert main([config, *words(settings)]) == 0
    metrics = json.loads((here / "run/metrics.json").read_text())
    record_property("seconds", round(time.perf_counter() - started))
    record_property("AP", f"box {metrics['bbox/AP']:.3f} mask {metrics['segm/AP']:.3f}")
    assert metrics["bbox/AP"] > 0.5
    assert metrics["segm/AP"] > 0.3


@pytest.mark.slow
def test_eight_images_are_learnt(coco_tiny, here):
    """30 objects of 12 classes, from random weights to nearly all of them; scored on the training images."""
    content = json.loads((coco_tiny / "annotations/instances_train2017.json").read_text())
    first = {image["id"] for image in content["images"][:8]}
    settings = subset(coco_tiny, here, lambda image: image["id"] in first) | {
        "data_root": "none",
        "short_side": 224,
        "long_side": 400,
        "flip": 0,
        "batch_size": 4,
        "reference_batch_size": 4,
        "max_iters": 150,
        "work_dir": "run",
    }
    assert main(["mask_rcnn_resnet18_fpn_short_shapes", *words(settings)]) == 0
    metrics = json.loads((here / "run/metrics.json").read_text())
    assert metrics["bbox/AP"] >= 0.5
    assert metrics["segm/AP"] >= 0.4
