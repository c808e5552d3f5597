"""The works of a network: features, a training step of it, a detector's training step, and detections.

Each gives its contenders, the reference first; see works.py.
"""

import contextlib
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn
from torchvision.ops.feature_pyramid_network import FeaturePyramidNetwork, LastLevelMaxPool

from ..weights.torchvision_detectors import TORCHVISION_FORMS
from ..engine.trainer import make_optimizer
from ..registry import build_backbone, build_detector, build_neck
from .peers import (BACKBONE_PEERS, DETECTOR_PEERS, Absent, detector_state, network_and_dilation, source,
                    torchvision_detector)  # fmt: skip
from .settings import FORMATS, Built, Settings

Contenders = dict[str, Callable[[], Built]]
CLASSES = 80
OBJECTS = 8  # an image of the detector works has so many


@contextlib.contextmanager
def started(backbone: str, freeze: int) -> Iterator[dict]:
    """The config of a backbone that starts from the reference's weights, as a user's does from a file.

    Where torchvision has no such network there is no reference: random weights and live norms, nothing fixed.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "weights.pth"
        try:
            torch.save(source(network_and_dilation(backbone)[0]).state_dict(), path)
        except Absent:
            yield dict(type=backbone)
        else:
            yield dict(type=backbone, weights=str(path), norm="frozen", freeze=freeze)


class WithNeck(nn.Module):
    def __init__(self, backbone: nn.Module, neck: nn.Module, names: tuple[str, ...]):
        super().__init__()
        self.backbone, self.neck, self.names = backbone, neck, names

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        return dict(zip(self.names, self.neck(self.backbone(images)).values()))


def own_network(settings: Settings, freeze: int, fused: bool = False) -> nn.Module:
    torch.manual_seed(0)
    with started(settings.backbone, freeze) as cfg:
        network = build_backbone(cfg)
    network = network.fuse_for_inference() if fused else network
    return network if settings.neck is None else with_neck(network, own_neck(settings))


def own_neck(settings: Settings) -> nn.Module:
    torch.manual_seed(1)
    with torch.device("meta"):
        specs = build_backbone(settings.backbone).feature_specs
    return build_neck(settings.neck, specs)


def with_neck(network: nn.Module, neck: nn.Module) -> nn.Module:
    return WithNeck(network, neck.to(memory_format=torch.channels_last), tuple(spec.name for spec in neck.feature_specs))


def peer_network(settings: Settings, peer: str, freeze: int) -> nn.Module:
    network = BACKBONE_PEERS[peer](settings.backbone, freeze > 0)
    if settings.neck:  # torchvision's, with the weights of ours
        neck = own_neck(settings)
        theirs = FeaturePyramidNetwork([block[0].in_channels for block in neck.inner_blocks], 256, LastLevelMaxPool())
        theirs.load_state_dict(neck.state_dict())
        network = WithNeck(network, theirs, tuple(spec.name for spec in neck.feature_specs))
    return network.to(memory_format=FORMATS[settings.memory_format])


def networks(settings: Settings, freeze: int, forms: dict[str, dict]) -> dict[str, Callable[[], nn.Module]]:
    """Builders of the peers, the reference first, and of our own forms, compiled ones last."""
    peers = BACKBONE_PEERS if settings.peers and settings.neck in (None, "fpn") else ()
    made = {peer: partial(peer_network, settings, peer, freeze) for peer in peers}
    made |= {name: partial(own_network, settings, freeze, **options) for name, options in forms.items()}
    if settings.compile:
        last = list(forms)[-1]
        for name in [*(["torchvision"] if peers else []), last]:
            made[f"{name}, compiled"] = lambda build=made[name]: torch.compile(build())
    return made


def features(settings: Settings) -> Contenders:
    images = settings.images().to(memory_format=FORMATS[settings.memory_format])

    def build(make: Callable[[], nn.Module]) -> Built:
        network = make().to(settings.device).eval()

        def run() -> dict[str, Tensor]:
            with torch.inference_mode(), settings.autocast():
                return network(images)

        return run, dict

    forms = {"detbackbones": {}, "detbackbones, fuse_for_inference": {"fused": True}}
    return {name: partial(build, make) for name, make in networks(settings, 0, forms).items()}


def training(network: nn.Module, settings: Settings, losses: Callable[[], dict[str, Tensor]], ours: bool) -> Built:
    """Forward, backward and SGD at learning rate 0, so that weights and therefore losses stay equal.

    Ours steps as engine/train.py makes its optimizer, theirs as torchvision's references do.
    """
    trained = [p for p in network.parameters() if p.requires_grad]
    sgd = dict(lr=0.0, momentum=0.9, weight_decay=1e-4)
    optimizer = make_optimizer({"type": "SGD", **sgd}, network, 1.0) if ours else torch.optim.SGD(trained, **sgd)

    def run() -> dict[str, Tensor]:
        with settings.autocast():
            found = losses()
        sum(found.values()).backward()
        optimizer.step()
        found = {name: loss.detach() for name, loss in found.items()}
        found["gradient norm"] = nn.utils.get_total_norm([p.grad for p in trained if p.grad is not None])
        optimizer.zero_grad()
        return found

    return run, dict


def step(settings: Settings) -> Contenders:
    images = settings.images().to(memory_format=FORMATS[settings.memory_format])

    def build(make: Callable[[], nn.Module], ours: bool) -> Built:
        network = make().to(settings.device).train()
        return training(network, settings, lambda: {k: f.float().square().mean() for k, f in network(images).items()}, ours)

    return {name: partial(build, make, "detbackbones" in name) for name, make in networks(settings, 2, {"detbackbones": {}}).items()}


def has_peer(settings: Settings) -> bool:
    return settings.detector in DETECTOR_PEERS and settings.neck in (None, "fpn")


def their_detector(settings: Settings) -> nn.Module:
    detector = torchvision_detector(settings.detector, settings.backbone, min(settings.size), max(settings.size), CLASSES + 1)
    return detector.to(device=settings.device, memory_format=FORMATS[settings.memory_format])


def own_detector(settings: Settings, **backbone) -> nn.Module:
    """With the weights of torchvision's where it has such a detector."""
    torch.manual_seed(1)
    form = dict(type=settings.detector, neck=settings.neck or "fpn")
    if has_peer(settings):
        form = dict(TORCHVISION_FORMS[f"{settings.detector.replace('_', '')}_resnet50_fpn"])
    with started(settings.backbone, 2) as cfg:
        detector = build_detector(form | {"backbone": cfg | backbone, "num_classes": CLASSES})
    if has_peer(settings):
        theirs = torchvision_detector(settings.detector, settings.backbone, 800, 1333, CLASSES + 1)
        detector.load_state_dict(detector_state(theirs))
    return detector.to(settings.device)


def compiled_detector(settings: Settings) -> nn.Module:
    """Backbone and neck compiled, as engine/train.py does."""
    detector = own_detector(settings)
    for part in (detector.backbone, detector.neck):
        part.compile()
    return detector


def detectors(settings: Settings, build: Callable[[Callable[[], nn.Module], int], Built]) -> Contenders:
    """`build` takes what makes the detector and the label of its first class."""
    theirs = {"torchvision": partial(build, partial(their_detector, settings), 1)} if settings.peers and has_peer(settings) else {}
    ours = {"detbackbones": partial(build, partial(own_detector, settings), 0)}
    if settings.compile:
        ours["detbackbones, compiled"] = partial(build, partial(compiled_detector, settings), 0)
    return theirs | ours


def train(settings: Settings) -> Contenders:
    images = list(settings.images())
    height, width = settings.size
    targets = []
    for image in range(settings.batch):
        torch.manual_seed(image)
        low, size = torch.rand(OBJECTS, 2) * 0.6, torch.rand(OBJECTS, 2) * 0.35 + 0.03
        boxes = torch.cat([low, low + size], 1) * torch.tensor([width, height] * 2)
        masks = torch.zeros(OBJECTS, height, width, dtype=torch.bool)
        for mask, (x1, y1, x2, y2) in zip(masks, boxes.int().tolist()):
            mask[y1:y2, x1:x2] = True
        labels = torch.randint(CLASSES, (OBJECTS,))
        targets.append({k: v.to(settings.device) for k, v in (("boxes", boxes), ("labels", labels), ("masks", masks))})

    def build(make: Callable[[], nn.Module], first_label: int) -> Built:
        detector = make().train()
        given = [dict(t, labels=t["labels"] + first_label, masks=t["masks"].to(torch.uint8) if first_label else t["masks"])
                 for t in targets]  # fmt: skip

        def losses() -> dict[str, Tensor]:
            torch.manual_seed(3)  # the same anchors and proposals are sampled
            return detector(images, given)

        return training(detector, settings, losses, ours=not first_label)

    return detectors(settings, build)


def infer(settings: Settings) -> Contenders:
    images = list(settings.images())

    def build(make: Callable[[], nn.Module], first_label: int) -> Built:
        detector = make().eval()
        getattr(detector, "roi_heads", detector).score_thresh = 0.0  # random weights are sure of nothing: 100 detections

        def run() -> list[dict[str, Tensor]]:
            with torch.inference_mode(), settings.autocast():
                return detector(images)

        def view(found: list[dict[str, Tensor]]) -> list[dict[str, Tensor]]:
            # scores, and the mean box and mask: nearly equal scores may come in either order
            seen = [{"scores": f["scores"], "box": f["boxes"].mean(0)} for f in found]
            for one, f in zip(seen, found):
                if "masks" in f:
                    one["area"] = (f["masks"] if f["masks"].dim() == 3 else f["masks"][:, 0] >= 0.5).sum((1, 2)).double().mean()
            return seen

        return run, view

    fused = partial(build, lambda: own_detector(settings).fuse_for_inference(), 0)
    return detectors(settings, build) | {"detbackbones, fuse_for_inference": fused}
