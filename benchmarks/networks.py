"""Benchmarks of networks. A function builds one contender and returns (run, comparable), see measure.py."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Literal

import torch
from pydantic import BaseModel, PositiveInt
from torch import Tensor, nn

from ..layers.mask_ops import paste_masks
from ..registry import build_backbone, build_detector
from ..weights.torchvision_detectors import TORCHVISION_CONFIGS, convert_torchvision_detector
from .peers import BACKBONE_PEERS, freeze_stem_and_c2, reference_network, torchvision_detector

OURS, FUSED = "detbackbones", "detbackbones, fuse_for_inference"
NUM_CLASSES, NUM_OBJECTS = 80, 8  # objects per image
SGD = dict(lr=0.0, momentum=0.9, weight_decay=1e-4, fused=True)  # lr 0: weights and losses stay equal
RunAndOutput = tuple[Callable[[], Any], Callable[[Any], Any]]


class Settings(BaseModel):
    """Settings of a benchmark; tools/bench.py describes them."""

    backbone: str = "resnet50"
    detector: Literal["faster_rcnn", "mask_rcnn"] = "mask_rcnn"
    size: tuple[PositiveInt, PositiveInt] = (480, 640)
    batch: PositiveInt = 1
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    device: Literal["cpu", "cuda"] = "cpu"
    memory_format: Literal["contiguous_format", "channels_last"] = "contiguous_format"
    clock: Literal["wall", "cpu"] = "wall"
    memory: bool = True
    rounds: PositiveInt = 10
    data_root: str | None = None


def backbone_config(settings: Settings) -> dict:
    """Return our backbone for weights that are loaded by hand, with stem and C2 fixed."""
    return dict(type=settings.backbone, weights="reference", norm="frozen", freeze=2)


def make_network(name: str, settings: Settings) -> nn.Module:
    """Build a backbone with the weights of the reference; stem and C2 are fixed."""
    reference = reference_network(settings.backbone)
    if name in BACKBONE_PEERS:
        network = freeze_stem_and_c2(BACKBONE_PEERS[name](reference))
        return network.to(settings.device, memory_format=getattr(torch, settings.memory_format))
    network = build_backbone(backbone_config(settings), load_weights=False).to(settings.device)
    network.load_state_dict(reference.state_dict())
    return network.fuse_for_inference() if name == FUSED else network


def make_detector(name: str, settings: Settings) -> nn.Module:
    """Build a detector on an FPN with the weights of torchvision's; stem and C2 are fixed."""
    reference = torchvision_detector(settings.detector, settings.backbone, settings.size, NUM_CLASSES)
    if name == "torchvision":
        return reference.to(settings.device, memory_format=getattr(torch, settings.memory_format))
    cfg = TORCHVISION_CONFIGS[f"{settings.detector.replace('_', '')}_resnet50_fpn"]
    arguments = dict(backbone=backbone_config(settings), num_classes=NUM_CLASSES, load_weights=False)
    detector = build_detector(cfg, **arguments).to(settings.device)
    detector.load_state_dict(convert_torchvision_detector(reference.state_dict()))
    return detector.fuse_for_inference() if name == FUSED else detector


def random_images(settings: Settings) -> Tensor:
    torch.manual_seed(2)
    images = torch.rand(settings.batch, 3, *settings.size, device=settings.device)
    return images.to(memory_format=getattr(torch, settings.memory_format))


def random_target(settings: Settings, seed: int) -> dict[str, Tensor]:
    """Return boxes of 3 % to 38 % of the image's sides, whose masks are filled."""
    torch.manual_seed(seed)
    height, width = settings.size
    corner, size = torch.rand(NUM_OBJECTS, 2) * 0.6, torch.rand(NUM_OBJECTS, 2) * 0.35 + 0.03
    boxes = torch.cat([corner, corner + size], 1) * torch.tensor([width, height] * 2)
    masks = paste_masks(torch.ones(NUM_OBJECTS, 1, 28, 28), boxes, settings.size)
    target = dict(boxes=boxes, labels=torch.randint(NUM_CLASSES, (NUM_OBJECTS,)), masks=masks)
    return {key: value.to(settings.device) for key, value in target.items()}


def autocast(settings: Settings) -> torch.autocast:
    return torch.autocast(settings.device, getattr(torch, settings.dtype), enabled=settings.dtype != "float32")


def run_inference(model: nn.Module, inputs: Any, settings: Settings) -> Any:
    with torch.inference_mode(), autocast(settings):
        return model(inputs)


def training(model: nn.Module, losses: Callable[[nn.Module], dict[str, Tensor]], settings: Settings) -> RunAndOutput:
    """Forward, backward and an optimizer step; compared are the losses and the norm of the gradient."""
    optimizer = torch.optim.SGD([p for p in model.train().parameters() if p.requires_grad], **SGD)

    def run() -> dict[str, Tensor]:
        with autocast(settings):
            outputs = losses(model)
        sum(outputs.values()).backward()
        optimizer.step()
        norm = nn.utils.get_total_norm([p.grad for p in model.parameters() if p.grad is not None])
        optimizer.zero_grad()
        return {name: loss.detach() for name, loss in outputs.items()} | {"gradient norm": norm}

    return run, dict


def by_level(maps: Any) -> dict[str, Tensor]:
    """Return the maps of any library as {"c2": ..., "c3": ..., "c4": ..., "c5": ...}."""
    return dict(zip(("c2", "c3", "c4", "c5"), maps.values() if isinstance(maps, Mapping) else maps))


def features(name: str, settings: Settings) -> RunAndOutput:
    """Images to C2-C5."""
    return partial(run_inference, make_network(name, settings).eval(), random_images(settings), settings), by_level


def step(name: str, settings: Settings) -> RunAndOutput:
    """A training step of a backbone; the loss is the mean square of every map."""
    images = random_images(settings)

    def losses(model: nn.Module) -> dict[str, Tensor]:
        return {level: feature.float().square().mean() for level, feature in by_level(model(images)).items()}

    return training(make_network(name, settings), losses, settings)


def seed_sampling(*_) -> None:
    """Make all detectors sample the same anchors and proposals; torchvision draws an image size before."""
    torch.manual_seed(3)


def train(name: str, settings: Settings) -> RunAndOutput:
    """A training step of a detector."""
    images = list(random_images(settings))
    targets = [random_target(settings, seed) for seed in range(settings.batch)]
    if name == "torchvision":
        targets = [dict(t, labels=t["labels"] + 1, masks=t["masks"].to(torch.uint8)) for t in targets]
    detector = make_detector(name, settings)
    detector.rpn.register_forward_pre_hook(seed_sampling)
    return training(detector, lambda model: model(images, targets), settings)


def infer(name: str, settings: Settings) -> RunAndOutput:
    """Images to detections."""
    detector = make_detector(name, settings).eval()
    detector.roi_heads.score_thresh = 0.0  # random weights score low; keep all 100 detections
    return partial(run_inference, detector, list(random_images(settings)), settings), summary


def summary(outputs: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Return scores, mean box and mean mask: detections of nearly equal score may come in either order."""
    scores, boxes = (torch.cat([output[key] for output in outputs]) for key in ("scores", "boxes"))
    masks = torch.stack([(output.get("masks", output["boxes"]) >= 0.5).double().mean() for output in outputs])
    return {"scores": scores, "box": boxes.mean(0), "mask": masks}  # torchvision's masks are probabilities
