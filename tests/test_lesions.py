"""Made slices on drawn heads, where what lies behind a lesion is known."""

import torch

from cfgen.training.lesions import BRAIN, Slices, grow, harmonic, made, replace


def grid(side: int = 128):
    y, x = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    return y.float(), x.float()


def disc(row: float, column: float, radius: float) -> torch.Tensor:
    y, x = grid()
    return (((y - row) ** 2 + (x - column) ** 2).sqrt() < radius).float()[None, None]


def heads(n: int) -> torch.Tensor:
    """Symmetric heads (n, 1, H, W) with two ventricles, each a little brighter."""
    head = 0.4 * disc(64, 64, 50) - 0.2 * disc(60, 50, 9) - 0.2 * disc(60, 78, 9)
    return torch.cat([head * (0.8 + 0.05 * i) for i in range(n)])


def test_harmonic_fills_a_ramp_exactly_and_leaves_the_rest():
    _, x = grid()
    ramp = (x / 128)[None, None]
    mask = disc(64, 64, 15)
    filled = harmonic(ramp * (1 - mask), mask, rounds=400)
    assert torch.equal(filled * (1 - mask), ramp * (1 - mask))
    torch.testing.assert_close(filled, ramp, atol=0.01, rtol=0)


def test_a_lesion_is_replaced_by_the_other_half():
    """A lesion hides one ventricle; it comes back from the other side, and nothing else moves."""
    truth = heads(2)
    mask = disc(62, 80, 14).expand(2, -1, -1, -1)
    ill = torch.where(mask > 0, torch.full_like(truth, 0.9), truth)
    without = replace(ill, mask, mask)
    assert torch.equal(without * (1 - grow(mask)), ill * (1 - grow(mask)))
    assert (without - truth).abs().max() < 0.25  # the edge of the ventricle moves by a pixel
    assert (without - truth)[mask > 0].abs().mean() < 0.03


def test_made_slices_hold_what_their_labels_say():
    x = heads(8)
    mask = torch.cat(
        [disc(80, 40 + 6 * i, 8) if i % 2 else torch.zeros_like(x[:1]) for i in range(8)]
    )
    ill = (x + 0.4 * mask).clamp(0, 1)
    real = Slices((ill * 255).round().byte(), (mask * 255).byte(), mask.flatten(1).any(1).long())
    before = [t.clone() for t in real]
    slices = made(real, seed=0)
    assert all(torch.equal(a, b) for a, b in zip(real, before, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(slices, made(real, seed=0), strict=True))
    assert set(slices.labels.tolist()) == {0, 1}
    assert torch.equal(slices.labels, slices.masks.flatten(1).any(1).long())
    y, m = slices.images.float() / 255, slices.masks > 0
    brain = y > BRAIN
    for image, lesion, tissue in zip(y, m, brain, strict=True):
        around = image[tissue & ~lesion].median()
        if lesion.any():
            assert image[lesion].mean() > around + 0.2
        else:
            assert (image > around + 0.2).float().mean() < 0.002
    # Lesions were put into slices that had none, and taken out of those that had one.
    assert len(slices.labels) > len(real.labels)
