"""TF-GAN: networks and losses, no I/O. Our reading of Dong et al. 2025 (arXiv 2511.18654).

The paper's second stage is a generative refiner with a dual-head discriminator and class-wise
perceptual guidance; how they are built is not in its abstract. Here: the generator adds a residual
under a soft support around the tumour; one discriminator trunk tells real from refined patch by
patch and names the tumour class of every voxel; the features of a frozen segmentation encoder,
pooled per class, are pulled towards those of real tumours. The tissue around a tumour is a class of
its own here: it is compressed and infiltrated, and gives a synthetic tumour away where it is not.
All images are tissue-relative (`contrast.py`), so that no scanner shows.

Shapes: images (B, M, I, J, K) float32, labels (B, I, J, K) int64 in 0..3. `reach` is how many
voxels the tissue around a tumour goes (`judge.reach`).
"""

import math
from collections.abc import Sequence

import numpy as np
import torch
from monai.networks.blocks import Convolution
from monai.networks.nets import SegResNet
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional
from torch.nn.utils.parametrizations import spectral_norm

from tumorfab.networks import backbone, fast
from tumorfab.volume import Labels

CLASSES = 4  # background, NCR, ED, ET
PLACES = 4  # NCR, ED, ET, the tissue around
# Tissue-relative intensities at which histograms are compared.
LEVELS = (-3.0, -2.5, -2.0, -1.5, -1.0, -0.5, 0.0, 0.5, 1.0, 1.5, 2.0, 2.5, 3.0)


def one_hot(labels: torch.Tensor) -> torch.Tensor:
    """(B, I, J, K) integer labels to (B, 4, I, J, K) float."""
    return functional.one_hot(labels, CLASSES).movedim(-1, 1).float()


def inside(labels: torch.Tensor) -> torch.Tensor:
    """The tumour: (B, 1, I, J, K), 0 or 1."""
    return (labels > 0).float()[:, None]


def brain(images: torch.Tensor) -> torch.Tensor:
    """Where images are not exactly 0 in every modality: (B, 1, I, J, K) bool."""
    return (images != 0).any(1, keepdim=True)


def near(labels: torch.Tensor, reach: int) -> torch.Tensor:
    """The tumour and what is around it, brain or not: (B, 1, I, J, K), 0 or 1."""
    found = inside(labels)
    for axis in range(3):  # one axis after another: the work grows with the reach, not its cube
        size, padding = [1, 1, 1], [0, 0, 0]
        size[axis], padding[axis] = 2 * reach + 1, reach
        found = functional.max_pool3d(found, size, stride=1, padding=padding)
    return found


def support(images: torch.Tensor, labels: torch.Tensor, reach: int) -> torch.Tensor:
    """Where the refiner may act: (B, 1, I, J, K) in 0..1, 1 in the tumour, falling at `reach` from
    it to exactly 0 one voxel further, and 0 outside the brain."""
    # A mean rather than a Gaussian: its reach is finite, so the outside stays exact.
    return functional.avg_pool3d(near(labels, reach), 3, 1, 1) * brain(images)


def places(images: torch.Tensor, labels: torch.Tensor, reach: int) -> torch.Tensor:
    """What is compared with its like: NCR, ED, ET and the brain around them, (B, 4, I, J, K)."""
    around = near(labels, reach) * brain(images) * (1 - inside(labels))
    return torch.cat([one_hot(labels)[:, 1:], around], 1)


class Generator(nn.Module):
    """Coarse image and label to refined image; starts as the identity."""

    def __init__(self, modalities: int, channels: int, reach: int) -> None:
        super().__init__()
        self.reach = reach
        self.network = backbone(modalities + CLASSES, modalities, channels)
        last = self.network.conv_final[2].conv
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)

    def forward(self, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Refined images; equal to `images` wherever `support` is 0."""
        with fast(images.device):
            residual = self.network(torch.cat([images, one_hot(labels)], 1))
        return images + support(images, labels, self.reach) * residual.float()


class Discriminator(nn.Module):
    """One trunk, two heads: real/fake per patch of 4 voxels, tumour class per voxel.

    It sees images only, never the label: a discriminator given the label could call a refined
    tumour fake for its shape, which the generator cannot change.
    """

    def __init__(self, modalities: int, channels: int) -> None:
        super().__init__()

        def block(inputs: int, outputs: int, strides: int) -> nn.Module:
            unit = Convolution(
                3,
                inputs,
                outputs,
                strides=strides,
                norm=None,
                act=("leakyrelu", {"negative_slope": 0.2}),
            )
            unit.conv = spectral_norm(unit.get_submodule("conv"))  # Miyato et al. 2018
            return unit

        self.fine = block(modalities, channels, 1)
        self.middle = block(channels, 2 * channels, 2)
        self.deep = nn.Sequential(
            block(2 * channels, 4 * channels, 2), block(4 * channels, 4 * channels, 1)
        )
        self.real = spectral_norm(nn.Conv3d(4 * channels, 1, 3, padding=1))
        self.classes = nn.Sequential(
            block(7 * channels, channels, 1), nn.Conv3d(channels, CLASSES, 1)
        )

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Real/fake logits (B, 1, I/4, J/4, K/4) and class logits (B, 4, I, J, K)."""
        with fast(images.device):
            fine = self.fine(images)
            middle = self.middle(fine)
            deep = self.deep(middle)
            levels = [fine] + [
                functional.interpolate(x, size=fine.shape[2:], mode="trilinear")
                for x in (middle, deep)
            ]
            real, classes = self.real(deep), self.classes(torch.cat(levels, 1))
        return real.float(), classes.float()


def encoder(modalities: int, channels: int) -> SegResNet:
    """The segmentation network whose features guide the generator."""
    return backbone(modalities, CLASSES, channels)


def features(encoder: SegResNet, images: torch.Tensor) -> list[torch.Tensor]:
    """What patches are compared by: the images' own `bands` and `levels`, and the encoder's
    features from fine to coarse, (B, C 2^l, I/2^l, J/2^l, K/2^l) float32."""
    with fast(images.device):
        deep = [level.float() for level in encoder.encode(images)[1]]
    return [bands(images), levels(images), *deep]


def widths(modalities: int, channels: int) -> list[int]:
    """Channels of each of the `features`."""
    return [2 * modalities, len(LEVELS) * modalities, *(channels * 2**i for i in range(3))]


def bands(images: torch.Tensor) -> torch.Tensor:
    """Detail finer than 3 voxels, and from 3 to 7: (B, 2 M, I, J, K). Its spread is the grain."""
    fine, broad = (functional.avg_pool3d(images, n, 1, n // 2) for n in (3, 7))
    return torch.cat([images - fine, fine - broad], 1)


def levels(images: torch.Tensor) -> torch.Tensor:
    """Softly, which of some intensities a voxel exceeds: (B, 13 M, I, J, K). Their means over a
    class are its cumulative histogram."""
    centres = images.new_tensor(LEVELS)[:, None, None, None]
    return torch.sigmoid((images[:, :, None] - centres) / (LEVELS[1] - LEVELS[0])).flatten(1, 2)


@torch.no_grad()
def change(
    generator: Generator, images: NDArray[np.float32], labels: Labels
) -> NDArray[np.float32]:
    """What the generator adds to a whole tumour: `images` (M, I, J, K), `labels` (I, J, K), of any
    size."""
    size = images.shape[1:]
    padded = [(0, -n % 4) for n in size]  # three levels halve twice
    device = next(generator.parameters()).device
    x = torch.from_numpy(np.pad(images, [(0, 0), *padded]))[None].to(device)
    y = torch.from_numpy(np.pad(labels, padded).astype(np.int64))[None].to(device)
    added = (generator(x, y) - x)[0].cpu().numpy()
    return np.asarray(added[(slice(None), *(slice(0, n) for n in size))], np.float32)


def hinge(
    real: torch.Tensor | None, fake: torch.Tensor | None, weight: torch.Tensor
) -> torch.Tensor:
    """Hinge loss of the discriminator (Lim & Ye 2017) on one side, averaged under `weight`.

    `weight` (B, 1, I, J, K) is the support: away from the tumour real and refined differ by scanner
    alone, which the generator cannot and must not learn to change.
    """
    logits = real if real is not None else fake
    assert logits is not None
    loss = functional.relu(1 - logits) if real is not None else functional.relu(1 + logits)
    return weighted_mean(loss, weight)


def pooled(value: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """`value` (B, C, I, J, K) averaged down to the spatial size of `like`."""
    i, j, k = like.shape[2:]
    return functional.adaptive_avg_pool3d(value, (i, j, k))


def weighted_mean(value: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Mean of `value` (B, C, ...) under `weight` (B, 1, I, J, K), pooled to the value's size."""
    weight = pooled(weight, value)
    return (value * weight).sum() / (weight.sum() * value.shape[1]).clamp_min(1e-6)


def class_loss(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Cross entropy of the class head, each class of the batch weighing the same."""
    counts = one_hot(labels).sum((0, 2, 3, 4))
    weights = torch.where(counts > 0, labels.numel() / (CLASSES * counts.clamp_min(1)), 0.0)
    return functional.cross_entropy(logits, labels, weight=weights)


class ClassStatistics(nn.Module):
    """Running statistics of real tumours' features, per level and class, and the pull towards them.

    Per patch and class (`places`) the features are pooled to their mean and standard deviation
    over the voxels. Real patches update the mean and the spread of these; refined ones are drawn to
    the whole distribution, not to its middle: `distance` is the energy distance (Szekely and Rizzo
    2013) to a normal distribution with that mean and spread. So a feature that varies among real
    tumours binds loosely, and refined tumours may not all become the average one.

    The mean of a few `cases` is itself uncertain, and coarse tumours can lie nearer to that of all
    tumours. So coarse patches are watched, too, and a feature is drawn from their mean towards the
    real one as far as the difference exceeds what so few cases differ by: the estimate of James and
    Stein (1961) in its positive part.
    """

    seen: torch.Tensor
    seen_coarse: torch.Tensor

    def __init__(self, widths: Sequence[int], cases: int, momentum: float = 0.95) -> None:
        super().__init__()
        self.momentum, self.cases = momentum, cases
        for level, width in enumerate(widths):
            for name in ("mean", "square", "coarse"):
                self.register_buffer(f"{name}{level}", torch.zeros(PLACES, 2 * width))
        self.register_buffer("seen", torch.zeros(PLACES))
        self.register_buffer("seen_coarse", torch.zeros(PLACES))

    @staticmethod
    def per_class(
        features: torch.Tensor, places: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """(B, 4, 2 C) mean and sd of the features per patch and class, and (B, 4) which classes are
        there (at least 8 voxels at this level)."""
        # Slab by slab: one product over all voxels would keep a small part of a GPU busy.
        share = pooled(places, features).flatten(3).transpose(1, 2)
        values = features.flatten(3).permute(0, 2, 3, 1)
        total = share.sum((1, 3))
        mean, square = (
            (share @ v).sum(1) / total.clamp_min(1e-6)[..., None] for v in (values, values**2)
        )
        sd = (square - mean**2).clamp_min(1e-6).sqrt()
        return torch.cat([mean, sd], 2), total >= 8

    @torch.no_grad()
    def update(
        self, features: Sequence[torch.Tensor], places: torch.Tensor, coarse: bool = False
    ) -> None:
        """Take in one batch of real patches, or of coarse ones."""
        pooled_by_level = [self.per_class(feature, places) for feature in features]
        there = pooled_by_level[0][1]
        found, seen = there.any(0), self.seen_coarse if coarse else self.seen
        # The first batches weigh as a plain mean, so that the start is not pulled towards zero.
        rate = torch.maximum(1 / (seen + 1), torch.tensor(1 - self.momentum).to(seen))
        rate = (rate * found)[:, None]
        weight = there / there.sum(0).clamp_min(1)
        for level, (values, _) in enumerate(pooled_by_level):
            powers = {"coarse": values} if coarse else {"mean": values, "square": values**2}
            for name, power in powers.items():
                running = getattr(self, f"{name}{level}")
                running.lerp_((weight[..., None] * power).sum(0), rate)
        seen += found

    def goal(self, level: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and spread (4, 2 C) of the distribution that refined patches are drawn to."""
        mean, square, coarse = (getattr(self, f"{n}{level}") for n in ("mean", "square", "coarse"))
        spread = (square - mean**2).clamp_min(0).sqrt() + 0.1 * mean.abs() + 1e-2
        sure = (1 - spread**2 / self.cases / (mean - coarse).square().clamp_min(1e-12)).clamp_min(0)
        return coarse + sure * (mean - coarse), spread

    def distance(self, features: Sequence[torch.Tensor], places: torch.Tensor) -> torch.Tensor:
        """Class-wise distance of a batch to the real statistics: in the mean 0 where the batch is
        distributed as real tumours are, and more elsewhere."""
        total = features[0].new_zeros(())
        for level, feature in enumerate(features):
            values, there = self.per_class(feature, places)
            mean, spread = self.goal(level)
            there = there & (self.seen > 0) & (self.seen_coarse > 0)
            z = ((values - mean) / spread).clamp(-10, 10)
            # The mean distance to a normal variate less half of that between two, in closed form.
            normal = z * torch.erf(z / 2**0.5) + (2 / math.pi) ** 0.5 * torch.exp(-(z**2) / 2)
            normal = normal - math.pi**-0.5
            total = total + (normal.mean(2) * there).sum() / there.sum().clamp_min(1)
            apart = (z[:, None] - z[None]).abs().mean(3)
            other = ~torch.eye(len(z), dtype=torch.bool, device=z.device)[..., None]
            both = there[:, None] & there[None] & other
            total = total - 0.5 * (apart * both).sum() / both.sum().clamp_min(1)
        return total / len(features)


def content(refined: torch.Tensor, coarse: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Low-frequency fidelity: mean square difference of the 4-voxel averages under `weight`.

    The coarse tumour already has the right mean intensities; the refiner may change texture and
    transitions, not turn one tissue into another. Squared, not absolute: the slope of an absolute
    difference at 0 outweighs the other terms and pins the residual there.
    """
    return weighted_mean(functional.avg_pool3d(refined - coarse, 4) ** 2, weight)
