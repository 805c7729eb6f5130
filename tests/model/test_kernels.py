"""Linear layers through oneDNN compute what torch's own compute."""

import pytest
import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from biasscope.engine.model import forward, kernels, tokens

pytestmark = pytest.mark.skipif(not kernels.available(), reason="this torch has no oneDNN")


@pytest.fixture(params=["linear", "no bias", "conv1d"])
def layer(request):
    torch.manual_seed(0)
    made = {"linear": nn.Linear(96, 40), "no bias": nn.Linear(96, 40, bias=False), "conv1d": Conv1D(40, 96)}[request.param]
    return made.requires_grad_(False)


def test_products_and_gradients_equal_double_precision(layer):
    x = torch.randn(3, 7, 96, requires_grad=True)
    exact = layer.double()(x.double())
    exact_grad = torch.autograd.grad(exact.pow(2).sum(), x)[0]
    kernels.install(layer.float())
    assert torch.is_grad_enabled()
    out = layer(x)
    assert "_Linear" in type(out.grad_fn).__name__
    assert torch.allclose(out, exact.float(), atol=2e-6)
    assert torch.allclose(torch.autograd.grad(out.pow(2).sum(), x)[0], exact_grad, rtol=1e-4, atol=1e-4)


def test_changed_weights_are_seen_at_the_next_call(layer):
    kernels.install(layer)
    layer.weight.zero_()
    assert torch.equal(layer(torch.randn(2, 96)), (torch.zeros(40) if layer.bias is None else layer.bias).expand(2, 40))


def test_switching_onednn_off_gives_torch_its_own_way_back(layer):
    x = torch.randn(5, 96)
    own = layer(x)
    kernels.install(layer)
    with torch.backends.mkldnn.flags(enabled=False):
        assert torch.equal(layer(x), own)


def test_layers_that_train_or_are_not_float32_are_left_alone():
    layers = [nn.Linear(4, 4), nn.Linear(4, 4, dtype=torch.bfloat16).requires_grad_(False)]
    for layer in layers:
        kernels.install(layer)
        assert "forward" not in layer.__dict__


def test_every_linear_layer_of_a_booted_model_goes_through_it(tiny):
    assert all("forward" in m.__dict__ for m in tiny("gpt2").bridge.modules() if type(m) in (nn.Linear, Conv1D))


def test_a_slice_of_a_fused_weight_is_copied_first():
    fused = torch.randn(48, 144)
    part = fused.t()[:48]
    assert kernels._dense(part).is_contiguous() and torch.equal(kernels._dense(part), part)
    assert kernels._dense(fused) is fused and kernels._dense(fused.t()).stride() == (1, 144)


def test_no_layer_of_any_family_takes_the_slow_kernel(tiny, monkeypatch, examples):
    seen = []
    plain = kernels.product
    monkeypatch.setattr(kernels, "product", lambda x, w, b: (seen.append(w), plain(x, w, b))[1])
    for family in ("gpt2", "neox", "llama", "opt"):
        lm = tiny(family)
        forward.clean(lm, tokens.forest(lm, examples).blocks[0])
    assert len(seen) > 50 and all(w.is_contiguous() or w.t().is_contiguous() for w in seen)
