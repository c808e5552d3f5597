"""Random transforms of an image with its objects, from torchvision.transforms.v2 or of one's own.

A transform is any callable `(image, target) -> (image, target)`: a class that a config constructs, or a function, to
which the config's arguments are passed on. The image is a `tv_tensors.Image` (C x H x W uint8), the target has "boxes"
(`BoundingBoxes`, N x 4 xyxy), "labels" (N int64), "masks" (`Mask`, N x H x W uint8) if the model has masks, "image_id"
and "size". torch's global generator, `random` and `numpy.random` are seeded per image.
"""

import importlib
import inspect
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2

from ..errors import InputError, shorten
from ..registry import TRANSFORMS, check_arguments, lookup
from .sizes import MAX_PIXELS

Transform = Callable[[Tensor, dict[str, Any]], tuple[Tensor, dict[str, Any]]]

UNUSABLE = (  # transforms of v2 for batches, without support of boxes, or that return another kind of image or target
    *("MixUp", "CutMix", "FiveCrop", "TenCrop", "UniformTemporalSubsample", "ToPILImage", "ToPureTensor", "ToTensor"),
    *("PILToTensor", "ConvertImageDtype", "ConvertBoundingBoxFormat", "Lambda", "LinearTransformation", "Normalize"),
    *("AugMix", "AutoAugment", "RandAugment", "TrivialAugmentWide"),
    *("ToDtype", "ToImage", "ClampKeyPoints", "SanitizeKeyPoints", "SetClampingMode", "Transform"),
)
for _name, _member in vars(v2).items():
    if inspect.isclass(_member) and issubclass(_member, v2.Transform) and _name not in UNUSABLE:
        TRANSFORMS.register_module(name=_name, module=_member)


def find_transform(name: str) -> Callable[..., Any]:
    """Return the class or function registered as `name`, or that "module:name" stands for.

    Raises:
        InputError: the name is unknown.
    """
    module, colon, attribute = str(name).partition(":")
    if not colon:
        return lookup(TRANSFORMS, name)
    try:
        found: Any = importlib.import_module(module)
        for part in attribute.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError, ValueError) as error:
        raise InputError(f"transform {shorten(name)} cannot be imported: {shorten(error, 200)}") from None
    return found


def build_transforms(entries: Sequence[Any], key: str = "transforms") -> list[Transform]:
    """Return the transforms of a config.

    Args:
        entries: `dict(type=name, ...)` with arguments, of which "transforms" holds entries too, as in RandomApply; or
            callables, which are returned as they are.
        key: where the entries stand in the config.

    Raises:
        InputError: a name or argument is unknown, or the constructor refuses the arguments.
    """
    return [_build(entry, f"{key}[{number}]") for number, entry in enumerate(entries)]


def _build(entry: Any, key: str) -> Any:
    if callable(entry):
        return entry
    if not isinstance(entry, Mapping) or "type" not in entry:
        raise InputError(f"{key} must be a dict with a 'type', or callable, got {shorten(repr(entry))}")
    factory = find_transform(entry["type"])
    arguments = {name: value for name, value in entry.items() if name != "type"}
    check_arguments(factory, arguments, f"{key} ({shorten(entry['type'])})")
    if isinstance(arguments.get("transforms"), Sequence):
        arguments["transforms"] = build_transforms(arguments["transforms"], f"{key}.transforms")
    if not inspect.isclass(factory):
        return partial(factory, **arguments)
    try:
        return factory(**arguments)
    except Exception as error:  # a constructor of the user's own may raise anything
        raise InputError(f"{key} ({shorten(entry['type'])}) cannot be used: {shorten(error, 200)}") from None


def apply_transforms(
    transforms: Sequence[Transform], image: Tensor, given: Mapping[str, Any], seed: int
) -> tuple[Tensor, dict[str, Any]]:
    """Run transforms under a seed; return plain tensors, without objects of which less than a pixel is left.

    Args:
        transforms: run one after another.
        image: C x H x W.
        given: the target with "boxes" N x 4 xyxy, "labels" N, and perhaps "masks" N x H x W and anything else.
        seed: decides all random numbers, those of `random` and `numpy.random` included.

    Raises:
        InputError: a transform fails, or its result is not an image with its target, or too large.
    """
    shape = (image.shape[-2], image.shape[-1])
    boxes = tv_tensors.BoundingBoxes(given["boxes"], format="XYXY", canvas_size=shape)
    image, target = tv_tensors.Image(image), {**given, "boxes": boxes}
    if "masks" in target:
        target["masks"] = tv_tensors.Mask(target["masks"])
    with seeded(seed):
        for number, transform in enumerate(transforms):
            name = f"transforms[{number}] ({_name_of(transform)})"
            try:
                image, target = transform(image, target)
                _check_result(image, target)
            except Exception as error:  # a transform of the user's own may raise anything
                where = f"image {shorten(given['image_id'])}: " if "image_id" in given else ""
                reason = f"{type(error).__name__}: {shorten(error, 200)}"
                raise InputError(f"{name} failed at {where}{reason}") from None
    return image.as_subclass(Tensor), _plain_target(image, {**given, **target})


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed the global generators of torch (CPU), Python and numpy, and restore them at the end."""
    states = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would seed the GPUs too
        random.seed(seed)
        np.random.seed(seed % 2**32)
        try:
            yield
        finally:
            random.setstate(states[0])
            np.random.set_state(states[1])


def _name_of(transform: Any) -> str:
    function = transform.func if isinstance(transform, partial) else transform
    return shorten(getattr(function, "__name__", type(function).__name__))


def _check_result(image: Any, target: Any) -> None:
    """Raise ValueError unless these are an image of a usable size and its objects."""
    if not isinstance(image, Tensor) or image.ndim != 3 or not isinstance(target, Mapping):
        raise ValueError("it must return an image C x H x W and a target")
    height, width = image.shape[-2:]
    if not 0 < height * width <= MAX_PIXELS:
        raise ValueError(
            f"it made an image of {width} x {height} pixels, at most {MAX_PIXELS / 1e6:.0f} megapixels fit"
        )
    objects = {name: target[name] for name in ("boxes", "labels", "masks") if name != "masks" or name in target}
    kinds = {name: type(value).__name__ for name, value in objects.items() if not isinstance(value, Tensor)}
    if kinds:
        raise ValueError(f"it must return tensors, got {kinds}")
    counts = {name: len(value) for name, value in objects.items()}
    if len(set(counts.values())) > 1:
        raise ValueError(f"it returned different numbers of objects: {counts}")
    if "masks" in target and target["masks"].shape[-2:] != (height, width):
        raise ValueError(f"it returned masks of another size than the image, {tuple(target['masks'].shape)}")


def _plain_target(image: Tensor, target: Mapping[str, Any]) -> dict[str, Any]:
    """Return a target of plain tensors, with boxes clipped to the image, and without objects that vanished."""
    height, width = image.shape[-2:]
    boxes = target["boxes"].as_subclass(Tensor).float()
    boxes = boxes.minimum(boxes.new_tensor([width, height, width, height])).clamp(min=0)
    keep = ((boxes[:, 2:] - boxes[:, :2]) >= 1).all(1)
    objects = {name: target[name].as_subclass(Tensor) for name in ("labels", "masks") if name in target}
    if not keep.all():  # a copy of the masks takes time
        objects = {name: values[keep] for name, values in objects.items()}
    return {**target, "boxes": boxes[keep], **objects}
