"""Patches for training: tumour-centred or anywhere, with geometric and intensity augmentation.

A `Case` holds (M, I, J, K) float16 images and (I, J, K) uint8 labels, cropped to what matters.
Every patch is a function of the generator it is given, so that a step can be repeated.
"""

import hashlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation
from torch.nn import functional

from tumorfab.volume import Image, Labels


@dataclass(frozen=True, eq=False)
class Case:
    """One training case: `images` (M, I, J, K) float16, `labels` (I, J, K) uint8."""

    name: str
    images: NDArray[np.float16]
    labels: Labels

    @classmethod
    def cropped(
        cls, name: str, images: list[Image], labels: Labels, where: tuple[slice, ...]
    ) -> "Case":
        """The part of the case that lies in the box `where`."""
        stacked = np.stack([image[where] for image in images]).astype(np.float16)
        return cls(name, stacked, np.ascontiguousarray(labels[where]))

    def mapped(self, folder: Path) -> "Case":
        """The case with its images mapped from a file in `folder`: many cases fit no memory, and
        the system keeps what is used."""
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{self.name}.npy"
        np.save(path, self.images)
        return Case(self.name, np.load(path, mmap_mode="r"), self.labels)

    @cached_property
    def places(self) -> list[NDArray[np.int64]]:
        """The voxels (N, 3) of each tumour class that the case has."""
        found = [np.argwhere(self.labels == c) for c in (1, 2, 3)]
        return [voxels for voxels in found if len(voxels)]

    def digest(self) -> str:
        """Hash of name and content: two runs on equal data are the same run."""
        content = hashlib.sha256(self.name.encode())
        content.update(self.images.tobytes())
        content.update(self.labels.tobytes())
        return content.hexdigest()


def patch(
    case: Case, edge: int, rng: np.random.Generator, tumour: bool
) -> tuple[NDArray[np.float32], Labels]:
    """A cube of `edge` voxels: (M, edge, edge, edge) and its labels, zero outside the case.

    With `tumour` it is centred near a random tumour voxel of a random class, so that small classes
    are seen as often as large ones; otherwise near a random voxel of the case.
    """
    if tumour and case.places:
        places = case.places[rng.integers(len(case.places))]
        centre = places[rng.integers(len(places))]
    else:
        centre = rng.integers(0, case.labels.shape)
    start = centre - edge // 2 + rng.integers(-edge // 6, edge // 6 + 1, 3)
    source = tuple(
        slice(max(0, s), max(0, min(n, s + edge)))
        for s, n in zip(start, case.labels.shape, strict=True)
    )
    target = tuple(slice(a.start - s, a.stop - s) for a, s in zip(source, start, strict=True))
    images = np.zeros((len(case.images), edge, edge, edge), np.float32)
    labels = np.zeros((edge, edge, edge), np.uint8)
    images[(slice(None), *target)] = case.images[(slice(None), *source)]
    labels[target] = case.labels[source]
    return images, labels


def augment(
    images: torch.Tensor, labels: torch.Tensor, rng: np.random.Generator, intensity: float = 0.0
) -> tuple[torch.Tensor, torch.Tensor]:
    """Mirror, turn (up to 20 degrees), scale (0.85 to 1.18) and vary the contrast of a batch.

    `images` (B, M, I, J, K) float, `labels` (B, I, J, K) integer. `intensity` is the standard
    deviation of the random shift and of the log of the random gain, both per modality; the
    background (exactly 0 in every modality) stays 0.
    """
    batch = len(images)
    turns = Rotation.from_euler("xyz", rng.uniform(-20, 20, (batch, 3)), degrees=True).as_matrix()
    scales = np.exp(rng.uniform(-0.16, 0.16, (batch, 1, 3))) * rng.choice([-1, 1], (batch, 1, 3))
    theta = np.concatenate([turns * scales, np.zeros((batch, 3, 1))], axis=2)
    grid = functional.affine_grid(
        torch.from_numpy(theta).to(images), list(images.shape), align_corners=False
    )
    brain = (images != 0).any(1, keepdim=True).to(images)
    moved = functional.grid_sample(
        torch.cat([images, brain], 1), grid, mode="bilinear", align_corners=False
    )
    images, brain = moved[:, :-1], moved[:, -1:] > 0.5
    labels = functional.grid_sample(
        labels[:, None].to(images), grid, mode="nearest", align_corners=False
    )[:, 0].long()
    if intensity > 0:
        shape = (batch, images.shape[1], 1, 1, 1)
        gain = torch.from_numpy(np.exp(rng.normal(0, intensity, shape))).to(images)
        shift = torch.from_numpy(rng.normal(0, intensity, shape)).to(images)
        images = images * gain + shift
    return images * brain, labels * brain[:, 0]
