"""The latent flow against a twin that is written out here."""

import re

import numpy as np
import pytest
import tiny
import torch

from cfgen.data.synthetic import synthetic_patients
from cfgen.generators import Pair
from cfgen.priors import LatentFlow

LABELS = torch.tensor([0, 1, 1])


@pytest.fixture(scope="module")
def prior():
    return tiny.tiny_prior()


def twin(prior, labels, seed, steps, guidance):
    """Euler's method from noise 1 to noise 0, one latent at a time."""
    noise = torch.randn(len(labels), 2, 16, 16, generator=torch.Generator().manual_seed(seed))
    latents = []
    for u, label in zip(noise, labels, strict=True):
        levels = [*np.linspace(1, 0.001, steps), 0.0]
        for now, then in zip(levels[:-1], levels[1:], strict=True):
            time = torch.tensor([1000 * now], dtype=torch.float32)
            v, free = (
                prior.unet(u[None], time, class_labels=torch.tensor([c])).sample[0]
                for c in (int(label), 2)
            )
            u = u + (then - now) * (free + guidance * (v - free))
        latents.append(torch.stack([0.2 + 1.0 * u[0], -0.1 + 1.5 * u[1]]))
    return torch.stack(latents).float()


@pytest.mark.parametrize("guidance", [1.0, 1.5, 3.0])
def test_sampling_is_eulers_method(prior, guidance):
    z = prior.sample(LABELS, seed=3, steps=7, guidance=guidance)
    torch.testing.assert_close(z, twin(prior, LABELS, 3, 7, guidance), rtol=1e-4, atol=1e-4)
    assert z.shape == (3, *prior.shape) == (3, 2, 16, 16)


def test_the_seed_and_the_labels_say_what_is_drawn(prior):
    z = prior.sample(LABELS, seed=3, steps=3)
    assert torch.equal(z, prior.sample(LABELS, seed=3, steps=3))
    assert not torch.allclose(z, prior.sample(LABELS, seed=4, steps=3), atol=0.1)
    other = prior.sample(1 - LABELS, seed=3, steps=3)
    assert ((z - other).flatten(1).norm(dim=1) > 1e-3).all()
    # The generator of the whole program is left alone.
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    prior.sample(LABELS, seed=3, steps=1)
    assert torch.equal(torch.rand(1), expected)


def test_guidance_goes_from_no_class_through_the_class(prior):
    u = torch.randn(3, 2, 16, 16, generator=torch.Generator().manual_seed(0))
    sigma = torch.tensor([0.1, 0.5, 1.0])
    plain = prior.unet(u, 1000 * sigma, class_labels=LABELS).sample
    free = prior.unet(u, 1000 * sigma, class_labels=torch.full_like(LABELS, 2)).sample
    assert torch.equal(prior.velocity(u, sigma, LABELS), plain)
    assert torch.equal(prior.velocity(u, sigma, LABELS, guidance=1.0), plain)
    torch.testing.assert_close(prior.velocity(u, sigma, LABELS, guidance=0.0), free)
    expected = plain + 2 * (plain - free)
    torch.testing.assert_close(prior.velocity(u, sigma, LABELS, guidance=3.0), expected)
    assert not torch.allclose(plain, free, atol=1e-4)


def test_what_is_saved_comes_back_in_float32_with_the_precision_of_float16(prior, tmp_path):
    before = {k: v.clone() for k, v in prior.state_dict().items()}
    prior.save(tmp_path)
    again = LatentFlow.load(tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "config.json",
        "diffusion_pytorch_model.safetensors",
        "prior.json",
        "scheduler_config.json",
    ]
    assert again.classes == prior.classes == ("dark", "bright")
    assert again.shape == prior.shape
    assert not any(p.requires_grad for p in again.parameters())
    assert not any(m.training for m in again.modules())
    for name, value in again.state_dict().items():
        assert value.dtype == torch.float32
        half = before[name] if name in ("mean", "std") else before[name].half().float()
        torch.testing.assert_close(value, half, rtol=0, atol=0)
        assert torch.equal(prior.state_dict()[name], before[name])  # saving changes nothing
    z, w = (p.sample(LABELS, seed=0, steps=4) for p in (prior, again))
    torch.testing.assert_close(z, w, rtol=0, atol=0.05)


def test_the_scale_is_that_of_the_latents(prior):
    assert prior.scale.shape == (1, 2, 1, 1)
    assert prior.scale.flatten().tolist() == [1.0, 1.5]


def test_one_class_embedding_is_for_no_class(prior):
    message = "expected a UNet with 4 class embeddings, got 3"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        LatentFlow(prior.unet, prior.scheduler, ("a", "b", "c"), prior.mean, prior.std)


def test_synthetic_patients_are_the_classes_by_turns(prior):
    pair = Pair(torch.nn.Identity(), torch.nn.Identity())
    items, drawn = synthetic_patients(prior, pair, 3, seed=5)
    stems = ["synthetic-00-dark", "synthetic-01-bright", "synthetic-02-dark"]
    assert [item.stem for item in items] == list(drawn) == stems
    assert [item.file for item in items] == [f"{stem}.png" for stem in stems]
    assert [item.label for item in items] == ["dark", "bright", "dark"]
    expected = prior.sample(torch.tensor([0, 1, 0]), seed=5).clamp(0, 1)
    assert torch.equal(torch.stack(list(drawn.values())), expected)
