"""A proof that the line learns real images: from random weights to nearly all objects of eight COCO images."""

import json

import pytest

from detbackbones.tools.train_coco import main


@pytest.mark.slow
def test_eight_real_images_are_learnt_from_random_weights(coco_tiny, tmp_path, monkeypatch):
    """The first eight images of train2017, 30 objects of 12 classes; scored on the images it was trained on."""
    content = json.loads((coco_tiny / "annotations/instances_train2017.json").read_text())
    content["images"] = content["images"][:8]
    shown = {image["id"] for image in content["images"]}
    content["annotations"] = [a for a in content["annotations"] if a["image_id"] in shown]
    (tmp_path / "eight.json").write_text(json.dumps(content))
    monkeypatch.chdir(tmp_path)
    data = [f"{split}.{key}={value}" for split in ("train", "val")
            for key, value in (("ann_file", "eight.json"), ("image_dir", coco_tiny / "train2017"))]  # fmt: skip
    assert main([
        "mask_rcnn_resnet18_fpn_short_shapes", "data_root=none", *data, "short_side=224", "long_side=400", "flip=0",
        "batch_size=4", "reference_batch_size=4", "max_iters=150", "work_dir=run",
    ]) == 0  # fmt: skip
    metrics = json.loads((tmp_path / "run/metrics.json").read_text())
    assert metrics["bbox"]["AP"] >= 0.5
    assert metrics["segm"]["AP"] >= 0.4
