"""Random changes of valid annotation files and images: either all of it works, or one line names the problem."""

import copy
import json
import random

import numpy as np
import pytest
import torch
from coco_problems import fill, true_detections
from PIL import Image

from detbackbones.data.annotations import read_annotations
from detbackbones.data.coco import CocoDataset, Unreadable
from detbackbones.data.image_files import read_headers
from detbackbones.data.images import read_image
from detbackbones.errors import InputError
from detbackbones.evaluation.coco import CocoEvaluator

VALUES = [None, True, False, 0, 1, -1, 2, 0.5, -3.5, 1e308, 2e8, 2**70, 10**400, float("nan"), float("inf")]
VALUES += [
    "",
    "0",
    "1",
    "x",
    "\n",
    "../..",
    "a.jpg",
    "\ud800",
    "b''",
    [],
    {},
    [1],
    [[1, 2]],
    [None] * 4,
    {"size": [1, 1]},
]
NUM_FEW, NUM_MANY = 150, 10_000


def places(node):
    """Yield (container, key) of every value in a parsed JSON file."""
    for key, value in list(node.items() if isinstance(node, dict) else enumerate(node)):
        yield node, key
        if isinstance(value, dict | list):
            yield from places(value)


def mutate(content, rng):
    """Return a copy with one to three values replaced, removed, doubled or moved."""
    content = copy.deepcopy(content)
    for _ in range(rng.randint(1, 3)):
        node, key = rng.choice(list(places(content)))
        action = rng.choice(["replace", "replace", "remove", "double", "move"])
        if action == "remove":
            del node[key]
        elif action == "double" and isinstance(node, list):
            node.insert(key, copy.deepcopy(node[key]))
        elif action == "move":
            other, other_key = rng.choice(list(places(content)))
            node[key] = copy.deepcopy(other[other_key])
        else:
            node[key] = copy.deepcopy(rng.choice(VALUES))
        if not content:
            break
    return content


def check_usable(annotations, backend):
    """Assert that every item loads, and that the ground truth given as detections has perfect scores."""
    dataset = CocoDataset(annotations, training=True, short_side=20)
    for index in range(len(dataset)):
        _, target = dataset[index, 0]
        assert torch.isfinite(target["boxes"]).all()
        assert len(target["masks"]) == len(target["boxes"]) == len(target["labels"])
    detections = true_detections(annotations.content)
    if all(output["masks"].any(2).any(1).all() for output in detections.values()):  # a mask without a pixel has no IoU
        metrics = fill(CocoEvaluator(annotations.content, backend=backend), detections).compute()
        assert {metrics[f"{kind}/{name}"] for kind in ("bbox", "segm") for name in ("AP", "AP50", "AP75")} <= {
            1.0,
            -1.0,
        }


def outcome_of_annotations(path, folder, text, backend):
    path.write_text(text, encoding="utf-8", errors="surrogatepass")
    try:
        annotations = read_annotations(path, folder)
    except InputError as error:
        assert str(error).isprintable(), str(error)
        assert len(str(error)) < 5000
        return "refused"
    check_usable(annotations, backend)
    return "works"


def run_annotations(write_coco, count, seed):
    path, folder = write_coco()
    content = json.loads(path.read_text())
    content["annotations"].append(content["annotations"][0] | {"id": 3, "image_id": 5, "bbox": [2.5, 2.25, 7.5, 9.0]})
    rng = random.Random(seed)
    outcomes = []
    for number in range(count):
        text = json.dumps(mutate(content, rng))
        if rng.random() < 0.02:
            text = text[: rng.randrange(len(text))]
        backend = "pycocotools" if number % 10 == 0 else "hotcoco"
        outcomes.append(outcome_of_annotations(path, folder, text, backend))
    return outcomes


def damage(data, rng):
    """Return a file's bytes with some of them changed, removed, inserted or cut off."""
    data = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        start, length = rng.randrange(len(data)), rng.choice([1, 1, 2, 8, 64])
        action = rng.choice(["change", "change", "remove", "insert", "cut"])
        if action == "change":
            data[start : start + length] = rng.randbytes(length)
        elif action == "remove":
            del data[start : start + length]
        elif action == "insert":
            data[start:start] = rng.randbytes(length)
        else:
            del data[start:]
        if not data:
            break
    return bytes(data)


def run_images(folder, count, seed):
    pixels = np.random.default_rng(0).integers(0, 255, (24, 32, 3), dtype=np.uint8)
    originals = {}
    for suffix in ("jpg", "png", "bmp", "gif", "tif", "webp"):
        Image.fromarray(pixels).save(folder / f"original.{suffix}")
        originals[suffix] = (folder / f"original.{suffix}").read_bytes()
    np.save(folder / "original.npy", pixels)
    originals["npy"] = (folder / "original.npy").read_bytes()
    rng = random.Random(seed)
    paths = []
    for number in range(count):
        suffix = rng.choice(list(originals))
        paths.append(folder / f"{number}.{suffix}")
        paths[-1].write_bytes(damage(originals[suffix], rng))
    outcomes = []
    for start in range(0, count, 2000):
        for path, header in zip(paths[start : start + 2000], read_headers(paths[start : start + 2000], channels=3)):
            if header.problem is None:
                image = read_image(path, orientation=header.orientation)
                assert image.shape[0] == 3 and image.dtype == torch.uint8
            else:
                assert header.problem.isprintable()
            outcomes.append("works" if header.problem is None else "refused")
    return outcomes


def test_changed_annotations_work_or_are_refused(write_coco):
    assert set(run_annotations(write_coco, NUM_FEW, seed=0)) == {"works", "refused"}


def test_damaged_images_work_or_are_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("DETBACKBONES_CACHE", str(tmp_path / "cache"))
    assert set(run_images(tmp_path, NUM_FEW, seed=0)) == {"works", "refused"}


@pytest.mark.slow
def test_many_changed_annotations_work_or_are_refused(write_coco):
    assert set(run_annotations(write_coco, NUM_MANY, seed=1)) == {"works", "refused"}


@pytest.mark.slow
def test_many_damaged_images_work_or_are_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("DETBACKBONES_CACHE", str(tmp_path / "cache"))
    assert set(run_images(tmp_path, NUM_MANY, seed=1)) == {"works", "refused"}


def test_an_unreadable_item_is_left_out_of_training(write_coco):
    path, folder = write_coco()
    (folder / "b.jpg").write_bytes(b"")
    annotations = read_annotations(path, folder, skip_unreadable=True)
    dataset = CocoDataset(annotations, training=False)
    assert isinstance(dataset[1, 0], Unreadable)
    assert len(CocoDataset(annotations, training=True)) == 1
