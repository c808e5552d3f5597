import copy

import pytest
import torch
from detector_forms import KINDS_AND_FORMS, narrow_detector

from detbackbones import InputError
from detbackbones.engine.numerics import check_precision, enable_determinism


@pytest.fixture
def deterministic():
    enable_determinism()
    yield
    torch.use_deterministic_algorithms(False)


def test_fp16_needs_a_gpu():
    with pytest.raises(InputError, match="precision=fp16 needs a CUDA device, this run is on cpu; use precision=bf16"):
        check_precision("fp16", torch.device("cpu"))
    for precision in ("no", "bf16"):
        check_precision(precision, torch.device("cpu"))


@pytest.mark.parametrize("supported", [True, False])
def test_bf16_needs_a_gpu_that_has_it(monkeypatch, supported):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: supported or including_emulation)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Tesla T4")
    if supported:
        check_precision("bf16", torch.device("cuda"))
    else:
        with pytest.raises(InputError, match="got Tesla T4; use precision=fp16"):
            check_precision("bf16", torch.device("cuda"))
    check_precision("fp16", torch.device("cuda"))


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    "kind, form",
    [("mask_rcnn", form) for kind, form in KINDS_AND_FORMS if kind == "mask_rcnn"]
    + [pair for pair in KINDS_AND_FORMS if pair[0] == "retinanet"],
)
def test_a_step_of_every_form_is_repeatable(kind, form, deterministic):
    torch.manual_seed(0)
    model = narrow_detector(kind, form).train()
    target = {"boxes": torch.tensor([[8.0, 8, 40, 48]]), "labels": torch.tensor([1])}
    if kind == "mask_rcnn":
        target["masks"] = torch.ones(1, 64, 64, dtype=torch.bool)
    image = torch.rand(3, 64, 64)
    gradients = []
    for _ in range(2):
        twin = copy.deepcopy(model)
        torch.manual_seed(1)
        sum(twin.losses([image], [target]).values()).backward()
        gradients.append([p.grad for p in twin.parameters() if p.grad is not None])
    assert gradients[0]
    assert all(map(torch.equal, *gradients))
