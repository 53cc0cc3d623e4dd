"""The one network shape that every stage builds on, and the precision it runs in."""

from typing import TypeVar

import torch
from monai.networks.nets import SegResNet
from torch import nn
from torch.nn import functional

Network = TypeVar("Network", bound=nn.Module)


def backbone(inputs: int, outputs: int, channels: int, levels: int = 3) -> SegResNet:
    """A small residual encoder-decoder at full resolution (Myronenko 2018, without the VAE).

    `channels` (a multiple of 4) doubles at each of `levels`; input sizes are multiples of
    2^(levels - 1). Upsampling is by interpolation: transposed convolutions leave a checkerboard,
    and a checkerboard that only synthetic lesions carry is a label in itself.
    """
    return SegResNet(
        init_filters=channels,
        in_channels=inputs,
        out_channels=outputs,
        norm=("GROUP", {"num_groups": 4}),
        blocks_down=(1,) * levels,
        blocks_up=(1,) * (levels - 1),
        upsample_mode="nontrainable",
    )


def settled(network: Network, device: torch.device) -> Network:
    """The network on `device`, its weights in the layout that is fastest there; what they are
    applied to follows. Channels last on a CPU: a training step of TF-GAN takes 0.23 s instead of
    0.57 s on two threads; not on a GPU, where it takes 0.15 s instead of 0.12 s on an H100."""
    return network.to(device).to(memory_format=layout(device))  # type: ignore[call-overload]


def layout(device: torch.device) -> torch.memory_format:
    """Order of the axes in memory."""
    return torch.channels_last_3d if device.type == "cpu" else torch.contiguous_format


class Folded(nn.Module):
    """`backbone` on half the resolution: blocks of 2 x 2 x 2 voxels are folded into channels before
    it and unfolded after it (Shi et al., CVPR 2016), so that no voxel is lost.

    With twice the channels a step takes a quarter of the time of the backbone at full resolution,
    and finds as much (docs/benchmarks.md). Input sizes are arbitrary.
    """

    def __init__(self, inputs: int, outputs: int, channels: int, levels: int) -> None:
        super().__init__()
        self.network = backbone(8 * inputs, 8 * outputs, channels, levels)
        self.multiple = 2**levels

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """(B, inputs, I, J, K) to (B, outputs, I, J, K) float32."""
        size = images.shape[2:]
        after = [part for n in reversed(size) for part in (0, -n % self.multiple)]
        padded = functional.pad(images, after)
        with fast(images.device):
            found = unfold(self.network(fold(padded)))
        return found[..., : size[0], : size[1], : size[2]].float()


def fold(x: torch.Tensor) -> torch.Tensor:
    """(B, C, 2 I, 2 J, 2 K) to (B, 8 C, I, J, K)."""
    b, c, i, j, k = x.shape
    blocks = x.reshape(b, c, i // 2, 2, j // 2, 2, k // 2, 2).permute(0, 1, 3, 5, 7, 2, 4, 6)
    folded = blocks.reshape(b, 8 * c, i // 2, j // 2, k // 2)
    return folded.contiguous(memory_format=layout(x.device))


def unfold(x: torch.Tensor) -> torch.Tensor:
    """The inverse of `fold`."""
    b, c, i, j, k = x.shape
    blocks = x.reshape(b, c // 8, 2, 2, 2, i, j, k).permute(0, 1, 5, 2, 6, 3, 7, 4)
    return blocks.reshape(b, c // 8, 2 * i, 2 * j, 2 * k)


def fast(device: torch.device) -> torch.autocast:
    """Networks inside run in bfloat16 on a GPU; on a CPU in float32, so that bytes repeat."""
    return torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda")
