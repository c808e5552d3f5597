import numpy as np
import pytest
import torch
from accelerate.utils import send_to_device
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.data import DataLoader
from torchvision.models.detection.roi_heads import project_masks_on_boxes

from detbackbones.layers.mask_crops import MaskCrops, project_masks

SIZE = (41, 53)


def random_masks(count=12, seed=0):
    """Rectangles of noise: inside, touching every border, covering the image, of one pixel, and empty."""
    random = np.random.default_rng(seed)
    masks = np.zeros((count, *SIZE), bool)
    for mask in masks[: count - 3]:
        y1, y2 = np.sort(random.integers(0, SIZE[0] + 1, 2))
        x1, x2 = np.sort(random.integers(0, SIZE[1] + 1, 2))
        mask[y1:y2, x1:x2] = random.random((y2 - y1, x2 - x1)) < 0.7
    masks[count - 3] = True
    masks[count - 2, 17, 20] = True
    return masks


def random_boxes(count, seed=0):
    corners = np.random.default_rng(seed).random((count, 2, 2)) * (SIZE[1], SIZE[0])
    corners[::5] = [[0, 0], [SIZE[1], SIZE[0]]]
    corners[1::5] += [[-6, 9]]  # some of them leave the image
    return torch.from_numpy(np.sort(corners, axis=1).reshape(-1, 4)).float()


def test_dense_undoes_pack():
    masks = random_masks()
    assert (MaskCrops.pack(masks, SIZE).dense().numpy() == masks).all()


def test_one_crop_is_the_mask_inside_its_box():
    masks = random_masks()
    crops = MaskCrops.pack(masks, SIZE)
    for index, (left, top, right, bottom) in enumerate(crops.boxes.tolist()):
        assert (crops.crop(index).numpy() == masks[index, top:bottom, left:right]).all()


def test_no_masks():
    crops = MaskCrops.pack([], SIZE)
    assert len(crops) == 0
    assert crops.dense().shape == (0, *SIZE)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("is_dense", [True, False])
def test_targets_equal_those_of_torchvision(seed, is_dense):
    masks = random_masks(seed=seed)
    boxes = random_boxes(60, seed)
    indices = torch.randint(len(masks), (60,))
    dense = torch.from_numpy(masks)
    expected = project_masks_on_boxes(dense, boxes, indices, 28)
    given = dense if is_dense else MaskCrops.pack(masks, SIZE)
    assert torch.equal(project_masks(given, boxes, indices, 28), expected)


def test_loading_processes_and_accelerate_pass_them_on():
    masks = random_masks()
    loader = DataLoader([{"masks": MaskCrops.pack(masks, SIZE)}], num_workers=1, collate_fn=list)
    (item,) = next(iter(loader))
    assert (send_to_device(item, torch.device("cpu"), non_blocking=True)["masks"].dense().numpy() == masks).all()
    assert send_to_device(item, torch.device("meta"))["masks"].bits.is_meta


def test_no_boxes_give_no_targets():
    crops = MaskCrops.pack(random_masks(), SIZE)
    assert project_masks(crops, torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64), 28).shape == (0, 28, 28)


class LargestTensor(TorchDispatchMode):
    """Records the bytes of the largest tensor that an operator returns."""

    num_bytes = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if isinstance(result, torch.Tensor):
            self.num_bytes = max(self.num_bytes, result.numel() * result.element_size())
        return result


def test_500_masks_stay_small():
    size = (800, 1333)
    crops = MaskCrops.pack((np.ones(size, bool) for _ in range(500)), size)
    assert crops.bits.numel() == 500 * 800 * 1333 / 8 < 70e6
    boxes = torch.rand(20, 4) * 300 + torch.tensor([0, 0, 400, 400])
    with LargestTensor() as largest:
        project_masks(crops, boxes, torch.arange(20) * 25, 28)
    assert largest.num_bytes <= 4 * 800 * 1333  # one mask in float32
