"""Brain extraction by published networks, HD-BET and SynthStrip, with weights from outside.

The libraries are optional (`pip install -e '.[hd-bet]'`, `'.[synthstrip]'`) and are imported, torch
with them, only when one of them is used.
"""

import os
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import nibabel as nib
import numpy as np
import SimpleITK as sitk
from filelock import FileLock
from scipy import ndimage

from tumorfab import brain, gpu, volume
from tumorfab.register import Mask
from tumorfab.stage import InputError
from tumorfab.volume import Volume

if TYPE_CHECKING:
    import torch

NETWORKS = ("hd-bet", "synthstrip")

# What belongs to a trained nnU-Net; the last is the checkpoint itself.
HD_BET_FILES = ("dataset.json", "plans.json", "fold_all/checkpoint_final.pth")
# SynthStrip predicts the distance in mm to the surface, negative inside; its authors cut here.
BORDER_MM = 1.0


def find_weights(method: str, given: str) -> Path:
    """The checkpoint of `method`: of the file (SynthStrip) or folder (HD-BET) `given`, or of the
    usual place where that is empty. HD-BET is then downloaded if need be.

    Raises `InputError` where it is missing.
    """
    if method == "synthstrip":
        return _synthstrip_weights(given)
    folder = Path(given) if given else _downloaded()
    missing = [name for name in HD_BET_FILES if not (folder / name).is_file()]
    if missing:
        raise InputError(
            f"{folder}: has no {missing[0]}; set healthy.brain_weights to the unpacked folder of "
            "HD-BET 2, or leave it empty to have it downloaded"
        )
    return folder / HD_BET_FILES[-1]


def extract(head: Volume, method: str, weights: Path, threads: int) -> Mask:
    """The brain in a whole head, on the grid of `head`, in any orientation.

    `weights` is what `find_weights` returned. Runs on a GPU where one is free, else on `threads`
    threads of the CPU. Where no brain is found the mask is empty. Raises `InputError` when the
    library is missing or the weights cannot be loaded.
    """
    find = {"hd-bet": _hd_bet, "synthstrip": _synthstrip}[method]
    with gpu.device(threads) as device:
        found = find(head, weights, device)
    return ndimage.binary_fill_holes(brain.largest(found))


def _hd_bet(head: Volume, weights: Path, device: "torch.device") -> Mask:
    import torch

    # nnU-Net takes eight threads at times, unless it finds another number when it is imported.
    os.environ["nnUNet_def_n_proc"] = str(torch.get_num_threads())  # noqa: SIM112
    with _library("hd-bet"):
        from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
    # As HD-BET sets it up, whose own function for that takes all cores and no other folder.
    predictor = nnUNetPredictor(
        tile_step_size=0.5,
        use_gaussian=True,
        use_mirroring=False,
        perform_everything_on_device=device.type == "cuda",
        device=device,
        allow_tqdm=False,
    )
    with _readable(weights, "HD-BET"):
        predictor.initialize_from_trained_model_folder(str(weights.parents[1]), "all")
    image = volume.to_sitk(head)
    # The network knows heads whose axes run as the template's; all readers of nnU-Net then agree.
    upright = sitk.DICOMOrient(image, "RAS")
    found = predictor.predict_single_npy_array(
        sitk.GetArrayFromImage(upright)[None].astype(np.float32),
        {"spacing": upright.GetSpacing()[::-1]},
    )
    mask = sitk.GetImageFromArray(found.astype(np.uint8))
    mask.CopyInformation(upright)
    axes = sitk.DICOMOrientImageFilter.GetOrientationFromDirectionCosines(image.GetDirection())
    return volume.from_sitk(sitk.DICOMOrient(mask, axes)).data > 0


def _synthstrip(head: Volume, weights: Path, device: "torch.device") -> Mask:
    import torch

    with _library("synthstrip"):
        from nipreps.synthstrip import cli, model
    network = model.StripModel()
    with _readable(weights, "SynthStrip"):
        saved = torch.load(weights, map_location="cpu", weights_only=True)
        network.load_state_dict(saved["model_state_dict"])
    image = nib.Nifti1Image(head.data.astype(np.float32), head.affine)
    conformed = cli.conform(image)
    data = conformed.get_fdata(dtype=np.float32)
    data = data - data.min()
    data = np.clip(data / np.percentile(data, 99), 0, 1)
    with torch.inference_mode():
        batch = torch.from_numpy(data)[None, None].to(device)
        distance = network.to(device).eval()(batch)[0, 0].cpu().numpy()
    surface = nib.Nifti1Image(distance, conformed.affine)
    back = cli.resample_like(surface, image, output_dtype="float32", cval=100)
    return np.asarray(back.dataobj) < BORDER_MM


def _synthstrip_weights(given: str) -> Path:
    home = os.environ.get("FREESURFER_HOME")
    if not given and not home:
        raise InputError(
            "healthy.brain_weights is empty; set it to synthstrip.1.pt of FreeSurfer (its folder "
            "models), or FREESURFER_HOME to FreeSurfer's folder"
        )
    path = Path(given) if given else Path(str(home)) / "models" / "synthstrip.1.pt"
    if not path.is_file():
        raise InputError(
            f"{path}: no such file; set healthy.brain_weights to synthstrip.1.pt of FreeSurfer"
        )
    return path


def _downloaded() -> Path:
    """HD-BET's own folder, filled by HD-BET's own download where it is not yet."""
    with _library("hd-bet"):
        import requests
        from HD_BET import checkpoint_download
    folder = Path(checkpoint_download.folder_with_parameter_files)
    folder.parent.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(folder.parent / ".lock"):  # the jobs of several subjects start together
            checkpoint_download.maybe_download_parameters()
    except (requests.RequestException, zipfile.BadZipFile) as error:
        raise InputError(
            f"HD-BET's weights could not be downloaded ({type(error).__name__}); unpack "
            f"{checkpoint_download.ZENODO_DOWNLOAD_URL} and set healthy.brain_weights to its folder"
        ) from None
    return folder


@contextmanager
def _library(method: str) -> Iterator[None]:
    """Turn a failing import into one line."""
    try:
        yield
    except ImportError as error:
        raise InputError(
            f"healthy.brain: {method} is not installed ({volume.first_line(error)}); "
            f"pip install -e '.[{method}]' in the clone of tumorfab, or choose another brain"
        ) from None


@contextmanager
def _readable(weights: Path, name: str) -> Iterator[None]:
    """Turn whatever loading broken weights raises into one line."""
    try:
        yield
    except Exception as error:  # torch and nnU-Net raise many kinds
        raise InputError(
            f"{weights}: cannot be loaded as weights of {name} ({volume.first_line(error)}); "
            "delete it and fetch it again"
        ) from None
