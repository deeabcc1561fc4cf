"""Distances between images, against slow twins."""

import math
import re

import pytest
import torch

from cfgen import metrics


def images(seed, channels, side=13, batch=3):
    g = torch.Generator().manual_seed(seed)
    return torch.rand(batch, channels, side, side, generator=g, dtype=torch.float64)


def mean_of(function, x, y):
    """The mean over the pixels of each image, one by one."""
    means = []
    for a, b in zip(x, y, strict=True):
        values = [
            function(float(p), float(q)) for p, q in zip(a.flatten(), b.flatten(), strict=True)
        ]
        means.append(sum(values) / len(values))
    return torch.tensor(means, dtype=torch.float64)


def ssim_twin(a, b, side=11, sigma=1.5):
    """Mean SSIM of two grey images, window by window; beyond the border stands the mirror image."""
    weights = [math.exp(-((i - side // 2) ** 2) / (2 * sigma**2)) for i in range(side)]
    total = sum(weights) ** 2
    height, width = a.shape

    def mirror(i, n):
        i = abs(i)
        return i if i < n else 2 * (n - 1) - i

    values = []
    for i in range(height):
        for j in range(width):
            window = []
            for di in range(side):
                for dj in range(side):
                    y, x = mirror(i + di - side // 2, height), mirror(j + dj - side // 2, width)
                    window.append(
                        (weights[di] * weights[dj] / total, float(a[y, x]), float(b[y, x]))
                    )
            mean_a = sum(w * p for w, p, _ in window)
            mean_b = sum(w * q for w, _, q in window)
            var_a = sum(w * (p - mean_a) ** 2 for w, p, _ in window)
            var_b = sum(w * (q - mean_b) ** 2 for w, _, q in window)
            cov = sum(w * (p - mean_a) * (q - mean_b) for w, p, q in window)
            c1, c2 = 0.01**2, 0.03**2
            values.append(
                (2 * mean_a * mean_b + c1)
                * (2 * cov + c2)
                / ((mean_a**2 + mean_b**2 + c1) * (var_a + var_b + c2))
            )
    return sum(values) / len(values)


@pytest.mark.parametrize("channels", [1, 3])
def test_l1_and_psnr_are_those_of_a_slow_twin(channels):
    x, y = images(0, channels), images(1, channels)
    torch.testing.assert_close(metrics.l1(x, y), mean_of(lambda p, q: abs(p - q), x, y))
    error = mean_of(lambda p, q: (p - q) ** 2, x, y)
    expected = torch.tensor([10 * math.log10(1 / e) for e in error], dtype=torch.float64)
    torch.testing.assert_close(metrics.psnr(x, y), expected)


def test_ssim_is_that_of_a_slow_twin():
    x = images(0, 2, batch=2)
    y = (x + 0.2 * images(1, 2, batch=2)).clamp(0, 1)
    expected = [
        [ssim_twin(a, b) for a, b in zip(p, q, strict=True)] for p, q in zip(x, y, strict=True)
    ]
    torch.testing.assert_close(
        metrics.ssim(x, y), torch.tensor(expected, dtype=torch.float64).mean(1)
    )


def test_equal_images():
    x = images(0, 1)
    assert metrics.l1(x, x).tolist() == [0, 0, 0]
    assert metrics.psnr(x, x).tolist() == [math.inf] * 3
    for y in (x, x.float(), x.half(), 0 * x, 0 * x.float(), x.round(), 1e-3 * x.float()):
        assert metrics.ssim(y, y).tolist() == [1, 1, 1]
        assert (metrics.ssim(y, y + 0.1 * (1 - y)) < 1).all()


@pytest.mark.parametrize("metric", [metrics.l1, metrics.psnr, metrics.ssim])
def test_a_batch_is_its_images_one_by_one_and_the_order_of_the_two_does_not_count(metric):
    x, y = images(0, 1), images(1, 1)
    single = torch.cat([metric(x[i : i + 1], y[i : i + 1]) for i in range(len(x))])
    assert metric(x, y).shape == (3,)
    torch.testing.assert_close(metric(x, y), single)
    torch.testing.assert_close(metric(x, y), metric(y, x))


def test_spread_is_the_mean_angle_between_changes():
    e = torch.eye(3, dtype=torch.float64)
    a, b, c = e[0].expand(2, 3), torch.stack([e[1], -e[0]]), torch.stack([e[0] + e[1], e[0]])
    spread = metrics.spread([a, 5 * b, c])
    expected = [(90 + 45 + 45) / 3, (180 + 0 + 180) / 3]
    torch.testing.assert_close(spread, torch.tensor(expected, dtype=torch.float64))
    tiny = metrics.spread([a, a + 1e-9 * e[1]])
    torch.testing.assert_close(tiny, torch.full((2,), math.degrees(1e-9)).double())
    assert metrics.spread([a, 0 * a]).isnan().all()
    with pytest.raises(ValueError, match="^expected two changes or more, got 1$"):
        metrics.spread([a])


each_metric = pytest.mark.parametrize("metric", [metrics.l1, metrics.psnr, metrics.ssim])


@each_metric
def test_half_precision_is_measured_in_single(metric):
    x, y = images(0, 1).half(), images(1, 1).half()
    assert torch.equal(metric(x, y), metric(x.float(), y.float()))
    assert metric(x, y).dtype == torch.float32


@each_metric
def test_no_images_have_no_distance(metric):
    none = torch.zeros(0, 1, 8, 8)
    assert metric(none, none).shape == (0,)


@each_metric
@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        (
            torch.zeros(2, 1, 8, 8),
            torch.zeros(1, 1, 8, 8),
            "expected images of the same shape (B, C, H, W), got (2, 1, 8, 8) and (1, 1, 8, 8)",
        ),
        (
            torch.zeros(8, 8),
            torch.zeros(8, 8),
            "expected images of the same shape (B, C, H, W), got (8, 8) and (8, 8)",
        ),
        (
            torch.zeros(1, 1, 8, 8, dtype=torch.uint8),
            torch.zeros(1, 1, 8, 8),
            "expected images of floating point in [0, 1], got uint8 and float32",
        ),
    ],
)
def test_what_is_no_pair_of_images(metric, x, y, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        metric(x, y)


def test_an_image_smaller_than_half_a_window():
    assert metrics.ssim(*[torch.zeros(1, 1, 6, 6)] * 2).tolist() == [1]
    with pytest.raises(ValueError, match="^expected sides of at least 6 px, got 5 x 9$"):
        metrics.ssim(*[torch.zeros(1, 1, 5, 9)] * 2)
