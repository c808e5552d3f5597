import torch
from torchvision.ops import batched_nms

from detbackbones.layers.nms import grouped_nms


def random_boxes(count: int) -> torch.Tensor:
    corner = torch.rand(count, 2) * 50
    return torch.cat([corner, corner + 5 + torch.rand(count, 2) * 30], dim=1)


def test_groups_are_those_of_torchvision():
    boxes, scores, labels = random_boxes(300), torch.rand(300), torch.randint(4, (300,))
    by_group = torch.where(labels == torch.arange(4)[:, None], scores, -1.0)
    kept = grouped_nms(boxes[None], by_group[None], 0.3, 0.25, 1000)
    assert (kept[:, 0] == 0).all()
    assert torch.equal(labels[kept[:, 2]], kept[:, 1])
    allowed = torch.where(scores > 0.25)[0]
    expected = allowed[batched_nms(boxes[allowed], scores[allowed], labels[allowed], 0.3)]
    assert set(kept[:, 2].tolist()) == set(expected.tolist())
    assert 0 < len(expected) < len(allowed)


def test_groups_come_in_order_best_first_and_limited():
    boxes, scores = random_boxes(80).view(2, 40, 4), torch.rand(2, 3, 40)
    all_kept, kept = (grouped_nms(boxes, scores, 0.5, 0.0, limit) for limit in (40, 2))
    assert kept[:, :2].tolist() == [[b, g] for b in range(2) for g in range(3) for _ in range(2)]
    for b in range(2):
        for g in range(3):
            ranked = all_kept[(all_kept[:, 0] == b) & (all_kept[:, 1] == g), 2]
            assert scores[b, g, ranked].diff().le(0).all()
            assert torch.equal(kept[(kept[:, 0] == b) & (kept[:, 1] == g), 2], ranked[:2])


def test_nothing_above_the_threshold():
    assert grouped_nms(random_boxes(5)[None], torch.rand(1, 2, 5), 0.5, 1.0, 3).shape == (0, 3)
