import json
import re
from contextlib import nullcontext

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_model
from torch import Tensor, nn

from cfgen import Flip, Gradient, Problem, Status, explain, load_checkpoint
from cfgen.classifiers.adapter import Classifier
from cfgen.classifiers.committee import Committee, decision
from cfgen.classifiers.evidence import EvidenceNet
from cfgen.classifiers.files import from_evidence, load_classifier, save_classifier
from cfgen.engine.settings import Settings
from cfgen.engine.task import Task
from cfgen.generators import Identity
from cfgen.problem import in_blocks

CLASSES = ("healthy", "tumour")


class Says(nn.Module):
    """Log-odds that are a multiple of the image's only pixel."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        return self.factor * x[:, 0, 0, 0]


def sees(pixel: int, threshold: float) -> Classifier:
    """A member that looks at one pixel."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(2, 1))
    model[1].weight.data = 10 * torch.eye(2)[[pixel]]
    model[1].bias.data = torch.tensor([-10 * threshold])
    return Classifier(model, CLASSES, head="sigmoid")


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


@settings(deadline=None)
@given(
    st.lists(st.floats(-50, 50, width=32, allow_subnormal=False), min_size=2, max_size=4),
    st.floats(0.01, 1),
)
def test_the_mean_has_the_sign_of_the_log_odds(factors, share):
    committee = Committee([member(k) for k in factors], share)
    ones = torch.ones(1, 1, 1, 1)
    odds, mean = committee.with_mean(ones)[0]
    assert float(odds) == float(committee(ones))
    assert float(mean) == pytest.approx(sum(factors) / len(factors), abs=1e-5)
    assert mean.sign() == odds.sign()


def committee(*factors: float, temperature: float = 1.0) -> Classifier:
    several = Committee([member(k) for k in factors], 0.2)
    return Classifier(several, CLASSES, head="sigmoid", temperature=temperature)


def test_the_decision_of_a_committee_is_that_of_its_mean():
    f, x = committee(1, 2, 6, temperature=2), torch.linspace(0.1, 1, 5).view(5, 1, 1, 1)
    outputs, criterion = decision(f, Flip(torch.tensor([0, 1, 0, 1, 0])))
    logits = outputs(x)
    assert torch.equal(criterion.classes(logits), f(x))
    margin = 3 / 2 * x.flatten() * torch.tensor([-1, 1, -1, 1, -1])  # 3 is the mean of 1, 2, 6
    torch.testing.assert_close(criterion(logits), margin)
    assert torch.equal(criterion.rows(torch.tensor([1, 2]))(logits[1:3]), criterion(logits)[1:3])


@pytest.mark.parametrize(
    ("f", "flip"),
    [
        (member(2), Flip(torch.tensor([1]))),
        (committee(1, 2), Flip(torch.tensor([1]), confidence=0.9)),
        (committee(1, 2), Flip(torch.tensor([1]), kappa=1)),
    ],
    ids=["one model", "a confidence", "a lead"],
)
def test_without_a_committee_and_where_more_is_asked_the_flip_stays(f, flip):
    g, criterion = decision(f, flip)
    assert g is f and criterion is flip


def test_the_boundary_is_that_of_the_committee():
    """Where members disagree its own margin is a fifth as steep, and its flip is the same."""
    f = Classifier(Committee([sees(0, 0.6), sees(1, 0.4)], 0.2), CLASSES, head="sigmoid")
    x, target = torch.full((1, 1, 1, 2), 0.1), torch.tensor([1])
    own = explain(Problem(Identity(), f, Flip(target), x))
    by_mean = explain(Problem(Identity(), *decision(f, Flip(target)), x))
    assert own.status == by_mean.status == (Status.FLIPPED,)
    # Along (1, 1) from (0.1, 0.1) to the line on which the two numbers are 1 together.
    for cf in (own, by_mean):
        assert float(cf.lam) == pytest.approx(0.8 / 2**0.5, rel=0.02)
        assert torch.equal(cf.logits_after, f(cf.x_cf))
    assert by_mean.passes.forward < own.passes.forward


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


@pytest.fixture(scope="module")
def brain():
    return load_checkpoint("brain-flair")


@pytest.mark.parametrize(
    ("options", "decides"),
    [
        ({}, True),
        ({"confidence": 0.5}, True),
        ({"direction": "gradient"}, True),
        ({"confidence": 0.9}, False),
        ({"direction": "guided"}, False),
    ],
)
def test_a_run_for_the_smallest_flip_asks_for_the_decision_only(brain, options, decides):
    x = brain.generator.decode(brain.prior.sample(torch.tensor([0]), seed=3)).clamp(0, 1)
    problem = Task(brain, Settings(**options)).problem(x, [None], nullcontext)
    outputs = problem.logits(problem.x)
    assert outputs.shape == (1, 4 if decides else 2)
    own = in_blocks(brain.classifier, problem.x)
    assert torch.equal(problem.criterion.classes(outputs), own)
    if options == {"direction": "gradient"}:
        cf = explain(problem, Gradient())
        assert torch.equal(cf.logits_before, own)
        assert torch.equal(cf.logits_after, in_blocks(brain.classifier, cf.x_cf))
