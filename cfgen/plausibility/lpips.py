"""LPIPS, the perceptual distance, and the feature vectors whose squared distance it is."""

from __future__ import annotations

import hashlib
import re
import warnings
from importlib.metadata import files
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

_ST_ALEX = "alex_shift_tolerant.pth"
_ST_ALEX_SHA256 = "b356b382f96010f77d085ee8343ecd9fd322d0a56e8de2b2d0549fafcad8b9ee"

# torchvision's ImageNet weights; the eight digits before ".pth" begin the file's sha256.
_HUB_URL = "https://download.pytorch.org/models/"
_HUB_FILES = {
    "alex": "alexnet-owt-7be5be79.pth",
    "vgg": "vgg16-397923af.pth",
    "squeeze": "squeezenet1_1-b8a52dc0.pth",
}
# 28 is MNIST's side; AlexNet's second pool needs 31.
_SMALLEST_SIDE = {"st-alex": 28, "alex": 31, "vgg": 28, "squeeze": 28}


class LPIPS(nn.Module):
    """Learned perceptual distance: weighted squared differences of unit-normalised deep features.

    ``st-alex`` is the shift-tolerant AlexNet, whose weights come with the wheel of
    ``stlpips-pytorch`` and need no network. The others are the original LPIPS, and need
    torchvision's ImageNet weights in the cache of torch hub. The module is frozen and stays in eval
    mode; it is differentiable in both arguments.

    Args:
        trunk: ``"st-alex"``, ``"alex"``, ``"vgg"`` or ``"squeeze"``.
        download: fetch torchvision's weights when they are not in the cache.

    Attributes:
        trunk: name of the trunk.
        hash: sha256 of the weights file, hex; for the original LPIPS of the trunk's file , a "+"
            by that of its linear layers.

    Raises:
        ValueError: unknown trunk, or a weights file with another sha256 than expected.
        FileNotFoundError: the weights are neither in the cache nor allowed to be downloaded.

    Reference:
        Zhang, Isola, Efros, Shechtman, Wang (2018). The Unreasonable Effectiveness of Deep Features
        as a Perceptual Metric. arXiv:1801.03924.
        Ghildyal, Liu (2022). Shift-tolerant Perceptual Similarity Metric. arXiv:2207.13686.
    """

    net: Any

    def __init__(self, trunk: str = "st-alex", *, download: bool = False) -> None:
        """Load the weights."""
        super().__init__()
        if trunk not in _SMALLEST_SIDE:
            raise ValueError(f"expected a trunk of {', '.join(_SMALLEST_SIDE)}, got {trunk!r}")
        self.trunk = trunk
        self.net, self.hash = (
            _shift_tolerant() if trunk == "st-alex" else _original(trunk, download)
        )
        self.train(False).requires_grad_(False)

    def train(self, mode: bool = True) -> LPIPS:
        """Stay in eval mode: the linear layers carry dropout, which would make distances random."""
        return super().train(False)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """Return the distance of each pair of rows.

        Args:
            a: images (B, C, H, W) in [0, 1], C 1 (grey, repeated to three) or 3.
            b: images of the same shape.

        Returns:
            Distances (B,), 0 for equal images.

        Raises:
            ValueError: wrong or different shapes, too small a side, or values outside [0, 1].
        """
        if a.shape != b.shape:
            self._expect_images(a)
            raise ValueError(
                f"expected two batches of one shape, got {tuple(a.shape)} and {tuple(b.shape)}"
            )
        self._expect_images(a, b)
        if a.shape[0] == 0:
            return a.new_zeros(0)
        a, b = (x.expand(-1, 3, -1, -1) * 2 - 1 for x in (a, b))
        return self.net(a, b).flatten()

    def features(self, x: Tensor) -> list[Tensor]:
        """Return vectors phi, one a layer, with LPIPS(a, b) = sum ||phi(a) - phi(b)||^2.

        Args:
            x: images (B, C, H, W) in [0, 1], C 1 or 3.

        Returns:
            For each layer the maps of unit channels times the roots of the linear weights / (H W),
            flattened: (B, D_k), D_k the layer's channels times its pixels.

        Raises:
            ValueError: wrong shape, too small a side, or values outside [0, 1].
        """
        from lpips import normalize_tensor

        self._expect_images(x)
        maps = self.net.net(self.net.scaling_layer(x.expand(-1, 3, -1, -1) * 2 - 1))
        linear = (layer.model[-1].weight for layer in self.net.lins)
        return [
            (normalize_tensor(m) * (w / m[0, 0].numel()).sqrt()).flatten(1)
            for m, w in zip(maps, linear, strict=True)
        ]

    def _expect_images(self, *batches: Tensor) -> None:
        shape = batches[0].shape
        if len(shape) != 4 or shape[1] not in (1, 3):
            raise ValueError(
                f"expected images of shape (B, 1, H, W) or (B, 3, H, W), got {tuple(shape)}"
            )
        smallest = _SMALLEST_SIDE[self.trunk]
        if min(shape[-2:]) < smallest:
            raise ValueError(
                f"expected sides of at least {smallest} px, got {shape[-2]} x {shape[-1]}"
            )
        if shape[0] == 0:
            return
        # One pass and one transfer for all; a NaN fails the comparison too.
        limits = torch.stack([t for x in batches for t in torch.aminmax(x.detach())]).tolist()
        for low, high in zip(limits[::2], limits[1::2], strict=True):
            if not (low >= -1e-4 and high <= 1 + 1e-4):
                raise ValueError(f"expected values in [0, 1], got [{low:.4g}, {high:.4g}]")


class _ShiftTolerantTrunk(nn.Sequential):
    """AlexNet's convolutions, each stride replaced by a blur; returns the maps after each ReLU."""

    def __init__(self) -> None:
        super().__init__(
            *(nn.Conv2d(3, 64, 11, padding=2), _blur(64), nn.ReLU()),
            *(nn.MaxPool2d(3, 1), _blur(64), nn.Conv2d(64, 192, 5, padding=2), nn.ReLU()),
            *(nn.MaxPool2d(3, 1), _blur(192), nn.Conv2d(192, 384, 3, padding=1), nn.ReLU()),
            *(nn.Conv2d(384, 256, 3, padding=1), nn.ReLU()),
            *(nn.Conv2d(256, 256, 3, padding=1), nn.ReLU()),
        )

    def forward(self, x: Tensor) -> list[Tensor]:
        maps = []
        for layer in self:
            x = layer(x)
            if isinstance(layer, nn.ReLU):
                maps.append(x)
        return maps


def _blur(channels: int) -> nn.Conv2d:
    """Halve a map after the fixed blur [1, 2, 1] x [1, 2, 1] / 16, which the weights file holds."""
    shape = {"kernel_size": 3, "stride": 2, "padding": 2, "padding_mode": "reflect"}
    return nn.Conv2d(channels, channels, groups=channels, bias=False, **shape)


def _skeleton(net: str) -> nn.Module:
    """Build lpips' module without memory, so that no random weight can be left in it."""
    import lpips

    with warnings.catch_warnings(), torch.device("meta"):
        # lpips passes `pretrained=False` to torchvision, which has renamed it.
        warnings.filterwarnings("ignore", "The parameter 'pretrained' is deprecated", UserWarning)
        warnings.filterwarnings("ignore", "Arguments other than a weight enum", UserWarning)
        return lpips.LPIPS(net=net, pnet_rand=True, pretrained=False, verbose=False)


def _fill(net: nn.Module, state: dict[str, Tensor]) -> nn.Module:
    # lpips registers each linear layer twice, as lin0 and as lins.0.
    twins = {f"lins.{key[3:]}": value for key, value in state.items() if key.startswith("lin")}
    net.load_state_dict(state | twins, strict=True, assign=True)
    return net


def _read(path: Path) -> tuple[dict[str, Tensor], str]:
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return torch.load(path, weights_only=True, map_location="cpu"), digest


def _shift_tolerant() -> tuple[nn.Module, str]:
    found = [file for file in files("stlpips-pytorch") or () if file.name == _ST_ALEX]
    if not found:
        raise FileNotFoundError(f"expected {_ST_ALEX} in the wheel of stlpips-pytorch, got none")
    state, digest = _read(Path(str(found[0].locate())))
    if digest != _ST_ALEX_SHA256:
        raise ValueError(f"expected {_ST_ALEX} with sha256 {_ST_ALEX_SHA256}, got {digest}")
    net = _skeleton("alex")
    with torch.device("meta"):
        net.net = _ShiftTolerantTrunk()
    names = {key: re.sub(r"slice\d\.", "", key).replace(".filt", ".weight") for key in state}
    return _fill(net, {names[key]: value for key, value in state.items()}), digest


def _original(trunk: str, download: bool) -> tuple[nn.Module, str]:
    import lpips

    name = _HUB_FILES[trunk]
    path = Path(torch.hub.get_dir()) / "checkpoints" / name
    if not path.is_file():
        if not download:
            raise FileNotFoundError(
                f"expected {name} in {path.parent}, got none "
                "(download=True fetches it, LPIPS('st-alex') works offline)"
            )
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(_HUB_URL + name, str(path), progress=False)
    features, digest = _read(path)
    prefix = path.stem.rsplit("-", 1)[1]
    if not digest.startswith(prefix):
        raise ValueError(f"expected {name} with a sha256 that begins {prefix}, got {digest}")
    linear, linear_digest = _read(Path(lpips.__file__).parent / "weights/v0.1" / f"{trunk}.pth")
    net = _skeleton(trunk)
    constants = lpips.ScalingLayer().state_dict(prefix="scaling_layer.")
    state = {
        key: features[re.sub(r"^net\.slice\d\.", "features.", key)]
        for key in net.state_dict()
        if key.startswith("net.")
    }
    return _fill(net, constants | state | linear), f"{digest}+{linear_digest}"
