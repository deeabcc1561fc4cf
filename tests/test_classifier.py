import json
import math
import re
import warnings

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cfgen.classifiers.adapter import Classifier
from cfgen.classifiers.files import (
    from_export,
    from_timm,
    from_torchscript,
    load_classifier,
    save_classifier,
)

CLASSES = ["healthy", "tumour"]
SETTINGS = {"mean": 0.25, "std": 0.5, "temperature": 2.0}
TIMM = {"layers": [1, 1, 1, 1], "channels": [4, 4, 8, 8], "stem_width": 4}


def network(outputs: int = 2, channels: int = 1) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(channels, 4, 3, padding=1),
        nn.BatchNorm2d(4),
        nn.Tanh(),
        nn.Dropout(0.5),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(16, outputs),
    ).eval()


def images(*shape: int) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(1))


def from_timm_file(folder, suffix, **settings):
    torch.manual_seed(0)
    arguments = {"in_chans": 1, "num_classes": 2, **TIMM}
    model = timm.create_model("resnet10t", pretrained=False, **arguments).eval()
    file = folder / f"weights{suffix}"
    if suffix == ".safetensors":
        from safetensors.torch import save_file

        save_file(model.state_dict(), file)
    else:
        torch.save(model.state_dict(), file)
    return model, from_timm("resnet10t", file, CLASSES, arguments=arguments, **settings)


def from_torchscript_file(folder, suffix, **settings):
    model = network()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`torch.jit")
        torch.jit.script(model).save(str(folder / f"model{suffix}"))
    return model, from_torchscript(folder / f"model{suffix}", CLASSES, **settings)


def from_export_file(folder, suffix, **settings):
    model = network()
    batch = {0: torch.export.Dim("batch")}
    program = torch.export.export(model, (images(2, 1, 32, 32),), dynamic_shapes=(batch,))
    torch.export.save(program, folder / f"model{suffix}")
    return model, from_export(folder / f"model{suffix}", CLASSES, **settings)


def from_module(folder, suffix, **settings):
    model = network()
    return model, Classifier(model, CLASSES, **settings)


KINDS = [
    ("module", from_module, ""),
    ("timm-safetensors", from_timm_file, ".safetensors"),
    ("timm-pt", from_timm_file, ".pt"),
    ("torchscript", from_torchscript_file, ".pt"),
    ("export", from_export_file, ".pt2"),
]


@pytest.fixture(params=KINDS, ids=lambda kind: kind[0])
def pair(request, tmp_path):
    _, make, suffix = request.param
    return make(tmp_path, suffix, **SETTINGS)


def test_is_the_model_behind_its_normalisation(pair):
    model, f = pair
    x = images(3, 1, 32, 32)
    with torch.no_grad():
        expected = model((x - 0.25) / 0.5) / 2
    torch.testing.assert_close(f(x), expected)
    torch.testing.assert_close(f.probabilities(x), expected.softmax(1))


def test_a_batch_is_its_rows_and_gives_the_same_again(pair):
    _, f = pair
    x = images(3, 1, 32, 32)
    kept = x.clone()
    out = f(x)
    assert torch.equal(out, f(x))
    assert torch.equal(x, kept)
    rows = torch.cat([f(x[i : i + 1]) for i in range(3)])
    torch.testing.assert_close(out, rows, rtol=1e-4, atol=1e-6)


def test_the_gradient_reaches_the_image(pair):
    model, f = pair
    x = images(2, 1, 32, 32).requires_grad_()
    (grad,) = torch.autograd.grad(f(x)[:, 1].sum(), x)
    (expected,) = torch.autograd.grad(model((x - 0.25) / 0.5)[:, 1].sum() / 2, x)
    assert grad.abs().sum() > 0
    torch.testing.assert_close(grad, expected, rtol=1e-4, atol=1e-6)


def test_is_frozen_and_stays_in_eval_mode(pair):
    _, f = pair
    x = images(2, 1, 32, 32)
    before = f(x)
    nn.Sequential(f).train()
    assert not f.training
    assert torch.equal(f(x), before)
    assert not any(p.requires_grad for p in f.parameters())
    assert not before.requires_grad


@pytest.mark.parametrize("kind", KINDS[1:], ids=lambda kind: kind[0])
def test_a_folder_gives_the_same_classifier_again(tmp_path, kind):
    _, make, suffix = kind
    _, f = make(tmp_path, suffix, **SETTINGS)
    x = images(2, 1, 32, 32)
    for _ in range(2):  # the second time into the folder it came from
        save_classifier(f, tmp_path / "saved")
        again = load_classifier(tmp_path / "saved")
        assert again.config == f.config
        assert torch.equal(again(x), f(x))
        f = again


def test_config_is_the_documented_one(tmp_path):
    _, f = from_timm_file(tmp_path, ".safetensors", **SETTINGS)
    save_classifier(f, tmp_path / "saved")
    assert json.loads((tmp_path / "saved" / "config.json").read_text()) == {
        "architecture": "timm:resnet10t",
        "arguments": {"in_chans": 1, "num_classes": 2, **TIMM},
        "classes": CLASSES,
        "mean": 0.25,
        "std": 0.5,
        "channels": 1,
        "size": None,
        "temperature": 2.0,
        "head": "softmax",
    }


def test_timm_gets_as_many_logits_and_channels_as_asked_for(tmp_path):
    model = timm.create_model("resnet10t", in_chans=3, num_classes=1, **TIMM)
    torch.save({"state_dict": model.state_dict()}, tmp_path / "w.pth")
    f = from_timm("resnet10t", tmp_path / "w.pth", CLASSES, arguments=TIMM, head="sigmoid")
    assert f.channels == 3
    assert f(images(2, 1, 32, 32)).shape == (2, 2)


def test_grey_is_repeated_and_normalised_by_channel():
    model = network(channels=3)
    mean, std = [0.25, 0.5, 0.75], [0.5, 1.0, 2.0]
    f = Classifier(model, CLASSES, mean=mean, std=std, channels=3)
    grey, colour = images(2, 1, 8, 8), images(2, 3, 8, 8)
    with torch.no_grad():
        for x in (grey.repeat(1, 3, 1, 1), colour):
            planes = [(x[:, c] - mean[c]) / std[c] for c in range(3)]
            torch.testing.assert_close(f(x), model(torch.stack(planes, 1)))
    torch.testing.assert_close(f(grey), f(grey.repeat(1, 3, 1, 1)))


@pytest.mark.parametrize(("size", "sides"), [(16, (16, 16)), ([8, 24], (8, 24))])
def test_images_are_resized(size, sides):
    seen = []

    class Spy(nn.Module):
        def forward(self, x):
            seen.append(x)
            return x.mean((2, 3)).repeat(1, 2)

    f = Classifier(Spy(), CLASSES, size=size)
    x = images(1, 1, 32, 32).requires_grad_()
    (grad,) = torch.autograd.grad(f(x)[0, 0], x)
    assert seen[0].shape[2:] == sides
    assert grad.ne(0).all()
    expected = F.interpolate(x, sides, mode="bilinear", antialias=True)
    torch.testing.assert_close(seen[0], expected)
    ramp = torch.linspace(0, 1, 33)[1:].expand(1, 1, 32, 32)
    f(ramp)
    assert (seen[1].diff(dim=3) > 0).all()


@pytest.mark.parametrize("flat", [False, True])
def test_one_logit_becomes_two(flat):
    model = nn.Sequential(network(1), nn.Flatten(0)) if flat else network(1)
    f = Classifier(model, CLASSES, head="sigmoid", temperature=2.0)
    x = images(3, 1, 8, 8)
    with torch.no_grad():
        logit = model(x).flatten() / 2
    assert torch.equal(f(x), torch.stack([torch.zeros(3), logit], 1))
    torch.testing.assert_close(f.probabilities(x)[:, 1], logit.sigmoid())


def test_findings_are_independent_and_have_a_two_class_view():
    names = ["oedema", "nodule", "effusion"]
    f = Classifier(network(3), names, head="multilabel", mean=0.25, temperature=2.0)
    x = images(3, 1, 8, 8)
    torch.testing.assert_close(f.probabilities(x), f(x).sigmoid())
    view = f.finding("nodule")
    assert view.classes == ("no nodule", "nodule")
    assert torch.equal(view(x), torch.stack([torch.zeros(3), f(x)[:, 1]], 1))
    torch.testing.assert_close(view.probabilities(x)[:, 1], f.probabilities(x)[:, 1])


def test_one_finding_is_enough():
    f = Classifier(network(1), ["nodule"], head="multilabel")
    assert f.finding("nodule")(images(2, 1, 8, 8)).shape == (2, 2)


def test_index():
    f = Classifier(network(), CLASSES)
    assert [f.index(name) for name in CLASSES] == [0, 1]


def refuses(error, message: str):
    return pytest.raises(error, match=f"^{re.escape(message)}$")


def test_unknown_class():
    with refuses(ValueError, "expected a class of healthy, tumour, got 'tumor'"):
        Classifier(network(), CLASSES).index("tumor")


def test_a_finding_needs_findings():
    with refuses(ValueError, "expected head multilabel to look at a finding, got softmax"):
        Classifier(network(), CLASSES).finding("tumour")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"head": "tanh"}, "expected a head of softmax, sigmoid, multilabel, got 'tanh'"),
        ({"classes": ["a"]}, "expected 2 or more distinct classes, got ['a']"),
        ({"classes": ["a", "a"]}, "expected 2 or more distinct classes, got ['a', 'a']"),
        (
            {"classes": [], "head": "multilabel"},
            "expected 1 or more distinct classes, got []",
        ),
        (
            {"classes": ["a", "b", "c"], "head": "sigmoid"},
            "expected two classes for head sigmoid, got ['a', 'b', 'c']",
        ),
        ({"temperature": 0.0}, "expected a temperature above 0, got 0.0"),
        ({"temperature": math.inf}, "expected a finite temperature, got inf"),
        ({"mean": [0.5, math.nan, 0.5]}, "expected a finite mean, got [0.5, nan, 0.5]"),
        ({"std": math.inf}, "expected a finite std, got inf"),
        ({"size": 0}, "expected a size of one or two numbers from 1 on, got 0"),
        ({"size": [8, 8, 8]}, "expected a size of one or two numbers from 1 on, got [8, 8, 8]"),
        ({"std": [1.0, 0.0, 1.0]}, "expected std above 0, got [1.0, 0.0, 1.0]"),
        ({"mean": [0.5, 0.5], "channels": 3}, "expected mean of 1 or 3 numbers, got [0.5, 0.5]"),
    ],
)
def test_settings_that_do_not_fit(settings, message):
    with refuses(ValueError, message):
        Classifier(network(), **{"classes": CLASSES, **settings})


@pytest.mark.parametrize(
    ("settings", "outputs", "message"),
    [
        (
            {},
            3,
            "expected logits of shape (2, 2) for head softmax and classes healthy, tumour, "
            "got (2, 3)",
        ),
        (
            {"head": "sigmoid"},
            2,
            "expected logits of shape (2, 1) for head sigmoid and classes healthy, tumour, "
            "got (2, 2)",
        ),
        (
            {"head": "multilabel"},
            1,
            "expected logits of shape (2, 2) for head multilabel and classes healthy, tumour, "
            "got (2, 1)",
        ),
    ],
)
def test_another_number_of_logits(settings, outputs, message):
    with refuses(ValueError, message):
        Classifier(network(outputs), CLASSES, **settings)(images(2, 1, 8, 8))


@pytest.mark.parametrize(
    ("channels", "shape", "message"),
    [
        (None, (1, 8, 8), "expected images of shape (B, C, H, W), got (1, 8, 8)"),
        (1, (2, 3, 8, 8), "expected images of shape (B, C, H, W) with C in [1], got (2, 3, 8, 8)"),
        (
            3,
            (2, 2, 8, 8),
            "expected images of shape (B, C, H, W) with C in [1, 3], got (2, 2, 8, 8)",
        ),
    ],
)
def test_another_shape(channels, shape, message):
    with refuses(ValueError, message):
        Classifier(network(), CLASSES, channels=channels)(images(*shape))


def test_files_that_are_missing_or_of_another_kind(tmp_path):
    with refuses(FileNotFoundError, f"expected config.json in {tmp_path}, got none"):
        load_classifier(tmp_path)
    (tmp_path / "config.json").write_text('{"architecture": "timm:resnet10t"}')
    message = f"expected architecture and classes in {tmp_path / 'config.json'}, got architecture"
    with refuses(ValueError, message):
        load_classifier(tmp_path)
    for architecture, file in (
        ("timm:resnet10t", "model.safetensors"),
        ("torchscript:net.pt", "net.pt"),
        ("export:net.pt2", "net.pt2"),
    ):
        config = {"architecture": architecture, "classes": CLASSES}
        (tmp_path / "config.json").write_text(json.dumps(config))
        with refuses(FileNotFoundError, f"expected {file} in {tmp_path}, got none"):
            load_classifier(tmp_path)
    with refuses(ValueError, "expected a file of .safetensors, .pt, .pth, got 'w.bin'"):
        from_timm("resnet10t", tmp_path / "w.bin", CLASSES)


def test_unknown_architectures_never_ask_the_network(tmp_path):
    config = {"architecture": "keras:resnet", "classes": CLASSES}
    (tmp_path / "config.json").write_text(json.dumps(config))
    message = (
        "expected an architecture of timm:NAME, evidence:NAME, committee:FOLDER,FOLDER, "
        "torchscript:FILE or export:FILE, got 'keras:resnet'"
    )
    with refuses(ValueError, message):
        load_classifier(tmp_path)
    with refuses(ValueError, "expected an architecture of timm, got 'hf-hub:timm/resnet10t'"):
        from_timm("hf-hub:timm/resnet10t", tmp_path / "w.pt", CLASSES)


def test_a_plain_module_cannot_be_saved(tmp_path):
    message = (
        "expected a classifier from timm, TorchScript or torch.export, got one around a Sequential"
    )
    with refuses(ValueError, message):
        save_classifier(Classifier(network(), CLASSES), tmp_path)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16])
def test_images_of_another_precision_are_seen_in_that_of_the_weights(pair, dtype):
    _, f = pair
    x = images(3, 1, 32, 32).to(dtype)
    assert torch.equal(f(x), f(x.float()))


def test_a_classifier_in_double_precision(tmp_path):
    model, f = from_module(tmp_path, "")
    x = images(3, 1, 32, 32)
    expected = model.double()(x.double())
    assert torch.equal(f.double()(x), expected)


def test_no_images_have_no_logits(pair):
    assert pair[1](torch.zeros(0, 1, 32, 32)).shape == (0, 2)


def test_levels_are_no_images():
    x = torch.zeros(1, 1, 8, 8, dtype=torch.uint8)
    with refuses(ValueError, "expected images of floating point in [0, 1], got uint8"):
        Classifier(network(), CLASSES)(x)


def test_classes_that_differ_by_case_are_two():
    f = Classifier(network(), ["a", "A"])
    assert (f.index("a"), f.index("A")) == (0, 1)
    with refuses(ValueError, "expected a class of healthy, tumour, got 'Tumour'"):
        Classifier(network(), CLASSES).index("Tumour")
