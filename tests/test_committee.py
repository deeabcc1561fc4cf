import json
import re

import pytest
import torch
from safetensors.torch import save_model
from torch import Tensor, nn

from cfgen.classifier import Classifier
from cfgen.classifier_files import from_evidence, load_classifier, save_classifier
from cfgen.committee import Committee
from cfgen.evidence import EvidenceNet

CLASSES = ("healthy", "tumour")


class Says(nn.Module):
    """Log-odds that are a multiple of the image's only pixel."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        return self.factor * x[:, 0, 0, 0]


def member(factor: float, classes: tuple[str, ...] = CLASSES) -> Classifier:
    return Classifier(Says(factor), classes, head="sigmoid")


def odds(*factors: float, share: float) -> float:
    committee = Committee([member(k) for k in factors], share)
    return float(committee(torch.ones(1, 1, 1, 1)))


@pytest.mark.parametrize(
    ("factors", "weakest"),
    [((3, 1), 1), ((-3, -1), -1), ((3, -1), 0), ((2, 5, 4), 2), ((-2, -5, 4), 0)],
)
@pytest.mark.parametrize("share", [0.1, 0.5, 1.0])
def test_the_log_odds_are_those_of_the_most_hesitant_and_a_share_of_the_mean(
    factors, weakest, share
):
    mean = sum(factors) / len(factors)
    expected = (1 - share) * weakest + share * mean
    assert odds(*factors, share=share) == pytest.approx(expected)


def test_there_is_a_gradient_where_members_disagree():
    x = torch.ones(1, 1, 1, 1, requires_grad=True)
    (g,) = torch.autograd.grad(Committee([member(3), member(-1)], 0.2)(x).sum(), x)
    assert float(g) == pytest.approx(0.2)


@pytest.mark.parametrize(
    ("members", "share", "message"),
    [
        ([member(1)], 0.2, "expected two members or more, got 1"),
        ([member(1), member(1)], 0.0, "expected a share in (0, 1], got 0.0"),
        (
            [member(1), member(1, ("no", "yes"))],
            0.2,
            "expected members with the same two classes, got healthy, tumour and no, yes",
        ),
    ],
)
def test_members_that_do_not_fit(members, share, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        Committee(members, share)


@pytest.fixture
def folder(tmp_path):
    """A committee of two evidence classifiers on disk."""
    arguments = {"in_chans": 1, "channels": [8, 16, 24, 24], "stem_width": 8, "width": 16}
    for seed, name in enumerate(("one", "two")):
        torch.manual_seed(seed)
        weights = tmp_path / "weights.safetensors"
        save_model(EvidenceNet("resnet10t", **arguments), str(weights))
        own = from_evidence("resnet10t", weights, CLASSES, arguments=arguments, head="sigmoid")
        save_classifier(own, tmp_path / "c" / name)
    config = {
        "architecture": "committee:one,two",
        "arguments": {"share": 0.3},
        "classes": CLASSES,
        "channels": 1,
        "head": "sigmoid",
    }
    (tmp_path / "c" / "config.json").write_text(json.dumps(config))
    return tmp_path / "c"


def test_a_folder_of_members_is_read_and_written(folder, tmp_path):
    f = load_classifier(folder)
    x = torch.rand(3, 1, 64, 64)
    one, two = (load_classifier(folder / name)(x)[:, 1] for name in ("one", "two"))
    expected = Committee([load_classifier(folder / n) for n in ("one", "two")], 0.3)(x)
    torch.testing.assert_close(f(x)[:, 1], expected)
    assert not torch.equal(one, two)
    save_classifier(f, tmp_path / "copy")
    assert torch.equal(load_classifier(tmp_path / "copy")(x), f(x))


def test_classes_other_than_the_members(folder):
    config = json.loads((folder / "config.json").read_text()) | {"classes": ["no", "yes"]}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="^expected the classes of the members, healthy, tumour"):
        load_classifier(folder)
