"""torch.compile in one graph and torch.export, one network of each kind."""

import pytest
import torch
from helpers import randomise, relative_error

from detbackbones import build_backbone
from detbackbones.layers.norm import convert_norm

KINDS = [dict(type="resnet18"), dict(type="resnet18_dilated"), dict(type="resnext50_32x4d"), dict(type="resnet18d_dc5"),
         dict(type="timm:resnet18")]  # fmt: skip


@pytest.fixture(params=KINDS, ids=lambda a: a["type"])
def backbone(request):
    return convert_norm(randomise(build_backbone(request.param)), "frozen").eval()


def test_compiles_to_one_graph_and_back(backbone):
    """fullgraph=True is an error at a break; AOTAutograd traces the backward pass too."""
    torch.compiler.reset()
    compiled = torch.compile(backbone, fullgraph=True, backend="aot_eager")
    images = torch.randn(1, 3, 64, 96)
    expected = backbone(images)
    features = compiled(images)
    for key, feature in features.items():
        assert relative_error(feature, expected[key]) <= 1e-5
    features["c5"].square().mean().backward()
    assert next(p for p in backbone.parameters()).grad.abs().sum() > 0


def test_changing_image_sizes_recompile_once():
    torch.compiler.reset()
    graphs = []

    def counting(graph, _):
        graphs.append(graph)
        return graph.forward

    backbone = convert_norm(build_backbone("resnet18d_dilated"), "frozen").eval()
    compiled = torch.compile(backbone, fullgraph=True, backend=counting)
    with torch.no_grad():  # near sizes: torch's own guard on very small convolutions (20,480 elements) stays on one side
        for height, width in ((64, 96), (60, 104), (65, 97), (63, 99), (66, 100)):
            compiled(torch.randn(1, 3, height, width))
    assert len(graphs) <= 2  # the second size makes both sides symbolic


def test_exports(backbone):
    program = torch.export.export(backbone, (torch.randn(1, 3, 64, 96),))
    images = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        features, expected = program.module()(images), backbone(images)
    assert list(features) == list(expected)
    for key, feature in features.items():
        assert relative_error(feature, expected[key]) <= 1e-5


@pytest.mark.slow
def test_the_default_compiler(backbone):
    torch.compiler.reset()
    images = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        expected, features = backbone(images), torch.compile(backbone, fullgraph=True)(images)
    for key, feature in features.items():
        assert relative_error(feature, expected[key]) <= 1e-4
