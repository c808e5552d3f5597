import pytest
import torch
from torchvision.ops import batched_nms, box_iou

from detbackbones.engine.merging import clusters, fuse, join, resample_masks, suppress


def random_detections(count=60, classes=3, masks=0):
    corner = torch.rand(count, 2) * 60
    found = {
        "boxes": torch.cat([corner, corner + 10 + torch.rand(count, 2) * 30], 1),
        "scores": torch.rand(count),
        "labels": torch.randint(0, classes, (count,)),
    }
    return found | ({"masks": torch.rand(count, 1, masks, masks)} if masks else {})


def detections(*rows):
    """Detections from rows (x1, y1, x2, y2, score, label)."""
    table = torch.tensor(rows, dtype=torch.float32).reshape(-1, 6)
    return {"boxes": table[:, :4], "scores": table[:, 4], "labels": table[:, 5].long()}


def greedy_clusters(found, iou):
    """NMS as it is defined: for each detection, the kept one that suppresses it."""
    suppressor = {}
    for i in found["scores"].argsort(descending=True).tolist():
        for kept in [k for k in suppressor if suppressor[k] == k]:
            same = found["labels"][kept] == found["labels"][i]
            if same and box_iou(found["boxes"][None, kept], found["boxes"][None, i])[0, 0] > iou:
                suppressor[i] = kept
                break
        else:
            suppressor[i] = i
    return suppressor


@pytest.mark.parametrize("iou", [0.3, 0.5, 0.7])
def test_clusters_are_those_of_greedy_nms(iou):
    found = random_detections()
    kept, cluster = clusters(found, iou)
    assert dict(enumerate(kept[cluster].tolist())) == greedy_clusters(found, iou)


def test_suppression_is_torchvisions_nms_per_class():
    found = random_detections()
    kept = batched_nms(found["boxes"], found["scores"], found["labels"], 0.5)
    assert 5 < len(kept) < 60
    torch.testing.assert_close(suppress(found), {key: values[kept] for key, values in found.items()})


def test_two_views_are_averaged_by_score():
    views = [
        detections((0, 0, 10, 10, 0.6, 1), (50, 50, 60, 60, 0.5, 0)),
        detections((2, 0, 12, 10, 0.2, 1), (0, 0, 10, 10, 0.3, 0)),
    ]
    fused = fuse(views)
    # the pair of class 1: x1 = (0.6 * 0 + 0.2 * 2) / 0.8; the others are in one of two views
    expected = detections((0.5, 0, 10.5, 10, 0.4, 1), (50, 50, 60, 60, 0.25, 0), (0, 0, 10, 10, 0.15, 0))
    torch.testing.assert_close(fused, expected)


def test_a_view_counts_once_for_an_object():
    fused = fuse([detections((0, 0, 10, 10, 0.8, 0), (0, 0, 10, 9, 0.7, 0)), detections((0, 0, 10, 10, 0.4, 0))])
    torch.testing.assert_close(fused["scores"], torch.tensor([0.6]))


def test_equal_views_change_nothing():
    view = suppress(random_detections(masks=4))
    torch.testing.assert_close(fuse([view, view, view]), view)


def test_one_view_is_returned_as_it_is():
    view = random_detections()
    assert fuse([view]) is view


@pytest.mark.parametrize("masks", [0, 4])
def test_views_without_detections(masks):
    empty, view = random_detections(0, masks=masks), suppress(random_detections(masks=masks))
    assert len(fuse([empty, empty])["labels"]) == 0
    torch.testing.assert_close(fuse([view, empty])["scores"], view["scores"] / 2)


def ramp(boxes, size=28):
    """Masks whose values are a linear function of the place in the image."""
    steps = (torch.arange(size) + 0.5) / size
    x = boxes[:, None, 0] + steps * (boxes[:, 2] - boxes[:, 0])[:, None]
    y = boxes[:, None, 1] + steps * (boxes[:, 3] - boxes[:, 1])[:, None]
    return (0.2 + 0.004 * x[:, None, :] + 0.003 * y[:, :, None])[:, None]


def test_masks_keep_their_place_in_the_image():
    boxes = torch.tensor([[10.0, 20, 90, 80], [0, 0, 40, 20]])
    targets = torch.tensor([[20.0, 30, 60, 70], [10, 5, 30, 15]])  # inside, so that nothing is cut off
    torch.testing.assert_close(resample_masks(ramp(boxes), boxes, targets), ramp(targets))


def test_masks_are_zero_outside_their_box():
    boxes, targets = torch.tensor([[0.0, 0, 10, 10]]), torch.tensor([[0.0, 0, 20, 10]])
    resampled = resample_masks(torch.ones(1, 1, 8, 8), boxes, targets)[0, 0]
    assert resampled[:, :3].min() == 1
    assert resampled[:, 5:].max() == 0


def test_masks_of_views_are_averaged_by_score():
    box = (0, 0, 10, 10)
    views = [detections((*box, 0.6, 0)), detections((*box, 0.2, 0))]
    views[0]["masks"], views[1]["masks"] = torch.ones(1, 1, 4, 4), torch.zeros(1, 1, 4, 4)
    torch.testing.assert_close(fuse(views)["masks"], torch.full((1, 1, 4, 4), 0.75))


def test_masks_of_two_resolutions_are_joined():
    parts = [random_detections(2, masks=7), random_detections(3, masks=28), random_detections(0, masks=14)]
    joined = join(parts)
    assert joined["masks"].shape == (5, 1, 28, 28)
    torch.testing.assert_close(joined["masks"][2:], parts[1]["masks"])
