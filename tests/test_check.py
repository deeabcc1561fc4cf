"""What is wrong with f is found before a run, and what is right is let through."""

import warnings
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn

from cfgen import Classifier, Flip, Problem
from cfgen.classifiers import (
    Committee,
    EvidenceNet,
    check_classifier,
    load_classifier,
)
from cfgen.classifiers.check import check_mode
from cfgen.classifiers.files import from_export, from_torchscript
from cfgen.generators import Identity, Pair

CLASSES = ("healthy", "tumour")
CALL = (
    "^expected a classifier that says the same of the same images, got other logits in a second "
    r"call \(dropout\? save it in eval mode\)$"
)
MATES = (
    "^expected a classifier that sees each image by itself, got other logits beside other images "
    r"\(batch statistics\? save it in eval mode, with running statistics\)$"
)


def images(n: int = 4, seed: int = 1, channels: int = 1) -> Tensor:
    return torch.rand(n, channels, 16, 16, generator=torch.Generator().manual_seed(seed))


def network(*more: nn.Module, layer: nn.Module | None = None, outputs: int = 2) -> nn.Module:
    """A small network in train mode, as modules are made."""
    torch.manual_seed(0)
    head = (nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(32, outputs))
    return nn.Sequential(nn.Conv2d(1, 8, 3), layer or nn.Identity(), nn.ReLU(), *head, *more)


def exported(model: nn.Module, folder: Path, **settings) -> Classifier:
    file, batch = folder / "model.pt2", {0: torch.export.Dim("batch")}
    torch.export.save(torch.export.export(model, (images(2),), dynamic_shapes=(batch,)), file)
    return from_export(file, CLASSES, **settings)


def traced(model: nn.Module, folder: Path, **settings) -> Classifier:
    file = folder / "model.pt"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch.jit, and of its tracer
        program: Any = torch.jit.trace(model, images(2), check_trace=False)
        program.save(str(file))
    return from_torchscript(file, CLASSES, **settings)


each_file = pytest.mark.parametrize("to_file", [exported, traced])
each_size = pytest.mark.parametrize("n", [1, 3])


@each_file
@each_size
@pytest.mark.parametrize("share", [0.1, 0.5])
def test_a_file_with_dropout_is_refused(to_file, n, share, tmp_path):
    f = to_file(network(layer=nn.Dropout(share)), tmp_path)
    with pytest.raises(ValueError, match=CALL):
        check_classifier(f, images(n))


@each_file
@each_size
def test_a_file_with_statistics_of_the_batch_is_refused(to_file, n, tmp_path):
    f = to_file(network(layer=nn.BatchNorm2d(8)), tmp_path)
    with pytest.raises(ValueError, match=MATES):
        check_classifier(f, images(n))


@each_size
def test_a_batch_norm_without_running_statistics_is_refused(n):
    model = network(layer=nn.BatchNorm2d(8, track_running_stats=False))
    with pytest.raises(ValueError, match=MATES):
        check_classifier(Classifier(model, CLASSES), images(n))


def test_a_neighbour_that_counts_is_found_where_all_images_are_the_same():
    model = network(layer=nn.BatchNorm2d(8, track_running_stats=False)).eval()
    with pytest.raises(ValueError, match=MATES):
        check_classifier(model, images(1).expand(4, -1, -1, -1))


def test_what_is_random_without_a_layer_that_says_so_is_refused():
    class Deep(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return nn.functional.dropout(x, 0.3).flatten(1)[:, :2]

    with pytest.raises(ValueError, match=CALL):
        check_classifier(Deep().eval(), images())


@pytest.mark.parametrize("layer", [nn.Dropout(0.5), nn.Dropout2d(0.1), nn.BatchNorm2d(8)])
def test_a_module_in_train_mode_is_refused_before_it_is_called(layer):
    model = network(layer=layer)
    kept = [b.clone() for b in model.buffers()]
    message = f"^expected a classifier in eval mode, got a {type(layer).__name__} in train mode$"
    with pytest.raises(ValueError, match=message):
        check_classifier(model, images())
    flip = Flip(torch.zeros(4, dtype=torch.int64))
    with pytest.raises(ValueError, match=message):
        Problem(Identity(), model, flip, images())
    assert all(map(torch.equal, kept, model.buffers()))
    f = Classifier(model, CLASSES)  # puts it in eval mode
    assert check_classifier(f, images()) == []
    model.train()
    with pytest.raises(ValueError, match=message):
        check_classifier(f, images())


def test_a_pair_in_train_mode_is_refused():
    pair = Pair(nn.Sequential(nn.Dropout(0.5)), nn.Identity())
    flip = Flip(torch.zeros(4, dtype=torch.int64))
    Problem(pair, network().eval(), flip, images())
    with pytest.raises(
        ValueError, match="^expected a generator in eval mode, got a Dropout in train mode$"
    ):
        Problem(pair.train(), network().eval(), flip, images())


def test_a_layer_that_is_the_same_in_training_is_let_through():
    check_mode(network(layer=nn.Dropout(0.0)))
    assert check_classifier(network(layer=nn.GroupNorm(2, 8)), images()) == []


def ends(kind: str) -> list[str]:
    return [
        "expected logits, got what looks like probabilities (does the classifier end in a "
        f"{kind}? leave it out, or confidence and probabilities are wrong)"
    ]


@each_size
@pytest.mark.parametrize("temperature", [1.0, 2.5])
@pytest.mark.parametrize(
    ("end", "head", "outputs"),
    [
        (nn.Softmax(1), "softmax", 2),
        (nn.Sigmoid(), "softmax", 2),
        (nn.Sigmoid(), "sigmoid", 1),
        (nn.Sigmoid(), "multilabel", 2),
    ],
)
def test_probabilities_are_no_logits(end, head, outputs, temperature, n):
    settings = {"head": head, "temperature": temperature}
    f = Classifier(network(end, outputs=outputs), CLASSES, **settings)
    assert check_classifier(f, images(n)) == ends("softmax" if "Softmax" in str(end) else "sigmoid")
    f = Classifier(network(outputs=outputs), CLASSES, **settings)
    assert check_classifier(f, images(n)) == []


@each_file
def test_a_file_that_ends_in_a_softmax_is_told(to_file, tmp_path):
    assert check_classifier(to_file(network(nn.Softmax(1)).eval(), tmp_path), images()) == ends(
        "softmax"
    )


def test_a_sure_softmax_is_told():
    """Real images are all 0 and 1 to the last bit."""
    line = nn.Linear(1, 2)
    line.weight.data, line.bias.data = torch.tensor([[1e5], [0.0]]), torch.tensor([-5e4, 0.0])
    bright = nn.Sequential(nn.AvgPool2d(16), nn.Flatten(), line)
    sure = nn.Sequential(bright, nn.Softmax(1))
    with torch.no_grad():
        assert set(sure(images()).unique().tolist()) <= {0.0, 1.0}
    assert check_classifier(sure, images()) == ends("softmax")
    assert check_classifier(bright, images()) == []


def test_members_of_a_committee_are_looked_at():
    members = [Classifier(network(end), CLASSES) for end in (nn.Identity(), nn.Softmax(1))]
    f = Classifier(Committee(members), CLASSES, head="sigmoid")
    assert check_classifier(f, images()) == ends("softmax")


class Scaled(nn.Module):
    """Logits times a number, and beyond another."""

    def __init__(self, factor: float, shift: float = 0.0) -> None:
        super().__init__()
        self.factor, self.shift = factor, shift

    def forward(self, x: Tensor) -> Tensor:
        return self.factor * x + self.shift


class Gives(nn.Module):
    """The same logits for every image."""

    def __init__(self, *logits: float) -> None:
        super().__init__()
        self.logits = torch.tensor(logits)

    def forward(self, x: Tensor) -> Tensor:
        return self.logits.expand(len(x), -1) + 0 * x.mean((1, 2, 3))[:, None]


class Rounds(nn.Module):
    """Last bits that differ from call to call, as sums in no order do."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        logits = self.model(x)
        return logits * (1 + 1e-4 * torch.randn_like(logits))


ONE_MINUS = nn.Linear(1, 2)
nn.init.constant_(ONE_MINUS.bias, 0.5)
with torch.no_grad():
    ONE_MINUS.weight.copy_(torch.tensor([[0.01], [-0.01]]))


@each_size
@pytest.mark.parametrize(
    "model",
    [
        Gives(0.3, 0.7),
        Gives(1.0, 0.0),
        Gives(0.0, 0.0),
        Gives(-900.0, 1200.0),
        network(Scaled(0.01, 0.5)),
        network(Scaled(1e-3)),
        network(Scaled(1e4)),
        network(nn.LogSoftmax(1)),
        network(ONE_MINUS, outputs=1),
        Rounds(network()),
    ],
    ids=["constant", "one-hot", "zero", "sure", "near a half", "small", "large", "log", "sum 1"]
    + ["last bits"],
)
@pytest.mark.parametrize("scale", [1.0, 0.0], ids=["images", "black"])
def test_logits_that_are_right_are_let_through(model, n, scale):
    assert check_classifier(Classifier(model, CLASSES), scale * images(n)) == []


@pytest.mark.parametrize("head", ["sigmoid", "multilabel"])
def test_a_logit_in_zero_and_one_by_chance_is_let_through(head):
    outputs = 1 if head == "sigmoid" else 2
    model = network(Scaled(0.01, 0.5), outputs=outputs)
    f = Classifier(model, CLASSES, head=head)
    assert bool(((model(images()) > 0) & (model(images()) < 1)).all())
    assert check_classifier(f, images()) == []


def test_a_logit_that_contrast_does_not_move_is_let_through():
    """Behind a layer norm only another image leads out of [0, 1], down the gradient."""
    torch.manual_seed(0)
    line = nn.Linear(256, 1)
    line.weight.data *= 0.1 / line.weight.data.norm()
    line.bias.data.fill_(0.5)
    model = nn.Sequential(nn.Flatten(), nn.LayerNorm(256), line)
    for x in (images(), 1e4 * (2 * images() - 1)):
        assert bool(((model(x) > 0) & (model(x) < 1)).all())
    assert check_classifier(Classifier(model, CLASSES, head="sigmoid"), images()) == []
    end = Classifier(nn.Sequential(model, nn.Sigmoid()), CLASSES, head="sigmoid")
    assert check_classifier(end, images()) == ends("sigmoid")


def test_logits_that_are_not_finite_are_told():
    class Log(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.flatten(1)[:, :2].log()

    x = images(3)
    x[1] = 0
    assert check_classifier(Log(), x) == ["expected finite logits, got others for 1 of 3 images"]


SMALL = {"layers": [1, 1, 1, 1], "channels": [4, 4, 8, 8], "stem_width": 4}


@pytest.mark.parametrize(
    ("name", "options", "side"),
    [("resnet10t", SMALL, 32), ("vit_tiny_patch16_224", {"img_size": 32, "depth": 2}, 32)],
)
@pytest.mark.parametrize("head", ["softmax", "sigmoid"])
def test_networks_of_timm_are_let_through(name, options, side, head):
    """With random weights the logits of a transformer are small, and may all lie in [0, 1]."""
    for seed in range(3):
        torch.manual_seed(seed)
        outputs = 1 if head == "sigmoid" else 2
        model = timm.create_model(name, num_classes=outputs, **options)
        f = Classifier(model, CLASSES, channels=3, size=side, head=head)
        assert check_classifier(f, images()) == []


def test_a_committee_of_evidence_is_let_through(tmp_path):
    torch.manual_seed(0)
    nets = [EvidenceNet("resnet10t", in_chans=1, **SMALL) for _ in range(2)]
    f = Classifier(
        Committee([Classifier(net, CLASSES, head="sigmoid") for net in nets]),
        CLASSES,
        head="sigmoid",
    )
    assert check_classifier(f, torch.rand(3, 1, 32, 32)) == []


@pytest.mark.parametrize("part", ["classifier", "oracle"])
def test_what_comes_with_cfgen_is_let_through(part):
    folder = Path(__file__).parents[1] / "checkpoints" / "brain-flair" / part
    if not (folder / "config.json").is_file():
        pytest.skip("checkpoints/brain-flair is not there")
    x = torch.rand(2, 1, 128, 128, generator=torch.Generator().manual_seed(0))
    assert check_classifier(load_classifier(folder), x) == []


@pytest.mark.parametrize(
    ("f", "message"),
    [
        (lambda x: x.mean((1, 2, 3)), r"expected logits of shape \(8, K\), got \(8,\)"),
        (lambda x: {"logits": x}, r"expected logits of shape \(8, K\), got dict"),
        (
            network().eval(),
            r"expected a classifier of any number of images \(3, 16, 16\), got for 8: "
            r"Given groups=1, weight of size \[8, 1, 3, 3\], expected input\[8, 3, 16, 16\] to "
            "have 1 channels, but got 3 channels instead",
        ),
        (
            Classifier(network(), CLASSES, channels=1),
            r"expected images of shape \(B, C, H, W\) with C in \[1\], got \(8, 3, 16, 16\)",
        ),
    ],
)
def test_what_gives_no_logits_is_refused_in_one_line(f, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        check_classifier(f, images(channels=3))


def test_a_program_of_one_size_of_batch_is_refused(tmp_path):
    file = tmp_path / "model.pt2"
    torch.export.save(torch.export.export(network().eval(), (images(8),)), file)
    with pytest.raises(ValueError) as error:
        check_classifier(from_export(file, CLASSES), images())
    begins = "expected a classifier of any number of images (1, 16, 16), got for 1: "
    assert str(error.value).startswith(begins) and "\n" not in str(error.value)
