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
    made = {"linear": nn.Linear(96, 40), "no bias": nn.Linear(96, 40, bias=False), "conv1d": Conv1D(40, 96)}[
        request.param
    ]
    return made.requires_grad_(False)


@pytest.fixture
def seen(monkeypatch):
    """The weights of all products."""
    weights, plain = [], kernels.product
    monkeypatch.setattr(kernels, "product", lambda x, w, b: (weights.append(w), plain(x, w, b))[1])
    return weights


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
    assert torch.equal(
        layer(torch.randn(2, 96)), (torch.zeros(40) if layer.bias is None else layer.bias).expand(2, 40)
    )


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
    assert all(
        "forward" in m.__dict__ for m in tiny("gpt2").bridge.modules() if type(m) in (nn.Linear, Conv1D)
    )


def test_a_slice_of_a_fused_weight_is_copied_first_and_no_other(seen):
    fused, x = torch.randn(48, 144), torch.randn(2, 48)
    for weight, copied in ((fused.t()[:48], True), (fused.t(), False), (fused.t().contiguous(), False)):
        layer = nn.Linear(48, len(weight), bias=False)
        layer.weight = nn.Parameter(weight, requires_grad=False)
        kernels.install(layer)
        assert torch.allclose(layer(x), x @ weight.t(), atol=1e-5)
        assert (seen[-1].data_ptr() != weight.data_ptr()) is copied
        assert seen[-1].is_contiguous() or seen[-1].t().is_contiguous()


def test_no_layer_of_any_family_takes_the_slow_kernel(tiny, seen, examples):
    for family in ("gpt2", "neox", "llama", "opt"):
        lm = tiny(family)
        forward.clean(lm, tokens.forest(lm, examples).blocks[0])
    assert len(seen) > 50 and all(w.is_contiguous() or w.t().is_contiguous() for w in seen)
