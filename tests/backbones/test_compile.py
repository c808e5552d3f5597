"""torch.compile in one graph and torch.export, for one network of each kind."""

import pytest
import torch
from helpers import largest_error, randomise

from detbackbones import build_backbone
from detbackbones.layers.norm import convert_norm

KINDS = [
    "resnet18",
    "timm:resnet18",
    pytest.param("resnet18d_dilated", marks=pytest.mark.slow),
    pytest.param("resnet18_dc5", marks=pytest.mark.slow),
    pytest.param("resnext50_32x4d", marks=pytest.mark.slow),
]


@pytest.fixture(scope="module", params=KINDS)
def backbone(request):
    torch.manual_seed(0)
    return convert_norm(randomise(build_backbone(request.param)), "frozen").eval()


def test_compiles_to_one_graph_forward_and_backward(backbone):
    """fullgraph=True makes a graph break an error; AOTAutograd traces the backward pass too."""
    torch.compiler.reset()
    compiled = torch.compile(backbone, fullgraph=True, backend="aot_eager")
    images = torch.randn(1, 3, 64, 96)
    features = compiled(images)
    assert largest_error(features, backbone(images)) <= 1e-5
    features["c5"].square().mean().backward()
    assert backbone.get_parameter(next(name for name, _ in backbone.named_parameters())).grad.abs().sum() > 0


def test_changing_image_sizes_compile_at_most_twice():
    torch.compiler.reset()
    graphs = []

    def counting_backend(graph, example_inputs):
        graphs.append(graph)
        return graph.forward

    backbone = convert_norm(build_backbone("resnet18d_dilated"), "frozen").eval()
    compiled = torch.compile(backbone, fullgraph=True, backend=counting_backend)
    with torch.no_grad():  # near sizes: torch guards on very small convolutions (20,480 elements)
        for height, width in ((64, 96), (60, 104), (65, 97), (63, 99), (66, 100)):
            compiled(torch.randn(1, 3, height, width))
    assert len(graphs) <= 2  # the second size makes both sides symbolic


def test_exports(backbone):
    images = torch.randn(1, 3, 64, 96)
    program = torch.export.export(backbone, (images,))
    with torch.no_grad():
        assert largest_error(program.module()(images), backbone(images)) <= 1e-5


@pytest.mark.slow
def test_the_default_compiler(backbone):
    torch.compiler.reset()
    images = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        features = torch.compile(backbone, fullgraph=True)(images)
        assert largest_error(features, backbone(images)) <= 1e-4
