import json

import pytest
import torch

from cfgen.classifiers.evidence import EvidenceNet
from cfgen.classifiers.files import load_classifier, save_classifier

ARGUMENTS = {"in_chans": 1, "channels": [8, 16, 24, 24], "stem_width": 8, "width": 16}


@pytest.fixture
def net() -> EvidenceNet:
    torch.manual_seed(0)
    return EvidenceNet("resnet10t", **ARGUMENTS).eval().requires_grad_(False)


def test_the_logit_is_the_log_of_the_mean_exponential(net):
    x = torch.rand(3, 1, 64, 64)
    e = net.evidence(x)
    assert e.shape == (3, 1, 8, 8)
    net.scale.fill_(2.0)
    net.bias.fill_(0.5)
    naive = torch.stack([2 * row.exp().mean().log() + 0.5 for row in e])
    torch.testing.assert_close(net(x)[:, 0], naive)


def test_more_evidence_anywhere_never_lowers_the_logit(net):
    e = torch.randn(1, 1, 8, 8, requires_grad=True)
    (gradient,) = torch.autograd.grad(net.pool(e).sum(), e)
    assert (gradient > 0).all()
    assert float(gradient.sum()) == pytest.approx(1)


def test_a_finding_cannot_be_made_up_for_elsewhere(net):
    e = torch.full((1, 1, 8, 8), -5.0)
    e[..., 2, 2] = 8.0
    calm = e.clone()
    calm[..., 5:, 5:] = -50.0  # as much evidence against it as one likes
    assert float(net.pool(e) - net.pool(calm)) < 1e-3


def test_a_folder_gives_the_same_classifier(net, tmp_path):
    from safetensors.torch import save_model

    save_model(net, str(tmp_path / "model.safetensors"))
    config = {
        "architecture": "evidence:resnet10t",
        "arguments": ARGUMENTS,
        "classes": ["healthy", "tumour"],
        "mean": 0.1,
        "std": 0.2,
        "channels": 1,
        "head": "sigmoid",
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    f = load_classifier(tmp_path)
    x = torch.rand(2, 1, 64, 64)
    torch.testing.assert_close(f(x)[:, 1], net((x - 0.1) / 0.2)[:, 0])
    assert f(x)[:, 0].tolist() == [0, 0]
    save_classifier(f, tmp_path / "copy")
    assert torch.equal(load_classifier(tmp_path / "copy")(x), f(x))
