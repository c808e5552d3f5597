import pytest
import torch
from torchvision.transforms.functional import normalize

from detbackbones import build_backbone
from detbackbones.backbones.preprocess import IMAGENET_MEAN, IMAGENET_STD, Preprocess


def random_image(channels: int = 3) -> torch.Tensor:
    return torch.randint(0, 256, (2, channels, 8, 9), dtype=torch.uint8)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_uint8_and_float_images_are_normalised_as_torchvision_does(layout):
    image = random_image().contiguous(memory_format=layout)
    expected = normalize(image / 255, IMAGENET_MEAN, IMAGENET_STD)
    torch.testing.assert_close(Preprocess()(image), expected)
    torch.testing.assert_close(Preprocess()(image / 255), expected)


def test_other_types_are_an_error():
    with pytest.raises(TypeError, match="int64"):
        Preprocess()(random_image().long())


@pytest.mark.parametrize("channels", [1, 4])
def test_another_number_of_channels_is_an_error(channels):
    with pytest.raises(ValueError, match=rf"must have 3 channel\(s\), got {channels}"):
        Preprocess()(random_image(channels))


@pytest.mark.parametrize("channels", [1, 2, 4, 6])
def test_other_numbers_of_channels(channels):
    preprocess = Preprocess.for_channels(channels)
    assert preprocess.channels == channels
    assert preprocess(random_image(channels)).shape == (2, channels, 8, 9)


def test_one_channel_gets_the_mean_of_rgb():
    preprocess = Preprocess.for_channels(1)
    assert preprocess.mean.item() == pytest.approx(sum(IMAGENET_MEAN) / 3)


def test_statistics_are_not_in_the_state_dict():
    assert not any("preprocess" in key for key in build_backbone("resnet18", out_features=("c1",)).state_dict())
