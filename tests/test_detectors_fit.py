"""Every structure learns: a ready config fits a handful of real images from random weights, through the command line."""

import json
import time

import pytest

from detbackbones.tools.train_coco import main

IMAGES = (42, 73, 86)  # one to three large objects each
SMALL = ["weights=none", "short_side=96", "batch_size=3", "reference_batch_size=3", "workers=0", "flip=0.0",
         "optimizer={'_delete_': True, 'type': 'AdamW', 'lr': 5e-4}", "schedule.warmup_iters=20", "schedule.warmup_factor=0.01",
         "schedule.cosine=true", "clip_grad_norm=5.0", "log_every=10", "model.rpn_pre_nms_top_n=(400,200)",
         "model.rpn_post_nms_top_n=(100,50)", "model.rpn_batch_size_per_image=64", "model.box_batch_size_per_image=16",
         "model.box_head_dim=256"]  # fmt: skip


@pytest.fixture
def handful(coco_tiny, tmp_path):
    content = json.loads((coco_tiny / "annotations/instances_train2017.json").read_text())
    content["images"] = [image for image in content["images"] if image["id"] in IMAGES]
    content["annotations"] = [a for a in content["annotations"] if a["image_id"] in IMAGES]
    (tmp_path / "handful.json").write_text(json.dumps(content))
    part = [f"{split}.{key}" for split in ("train", "val") for key in ("ann_file", "image_dir")]
    return [f"{key}={tmp_path / 'handful.json' if 'ann' in key else coco_tiny / 'train2017'}" for key in part]


@pytest.mark.slow
@pytest.mark.parametrize("config,iterations,options", [
    ("mask_rcnn_resnet50_dilated_fpn_1x_coco", 100, []),
    ("mask_rcnn_resnet50_dc5_1x_coco", 100, []),
    ("mask_rcnn_resnet50_c4_1x_coco", 220, ["model.box_batch_size_per_image=8"]),
    ("mask_rcnn_resnet50_fpn_1x_coco", 100, ["neck=pafpn"]),
])  # fmt: skip
def test_a_handful_of_images_is_fitted(config, iterations, options, handful, coco_tiny, tmp_path, monkeypatch, record_property):
    monkeypatch.chdir(tmp_path)
    started = time.perf_counter()
    assert main([config, f"data_root={coco_tiny}", *handful, *SMALL, f"max_iters={iterations}", "work_dir=run", *options]) == 0
    seconds = time.perf_counter() - started
    scores = json.loads((tmp_path / "run/metrics.json").read_text())
    box, mask = scores["bbox"]["AP"], scores["segm"]["AP"]
    record_property("AP", f"box {box:.3f} mask {mask:.3f} in {seconds:.0f} s")
    print(f"\n{config} {options}: {iterations} iterations, {seconds:.0f} s, box AP {box:.3f}, mask AP {mask:.3f}")
    assert box > 0.5 and mask > 0.3
