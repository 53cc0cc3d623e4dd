"""HD-BET and SynthStrip with stand-in weights: files as theirs, networks whose answer is known.

Both stand-ins answer "brighter than a threshold", moved along one axis of their input: so a test
sees whether the network was shown the head upright, however the scan is stored.
"""

import hashlib
import json
import shutil
import sys
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from HD_BET import checkpoint_download
from heads import dice, error_mm, head
from nipreps.synthstrip import cli, model
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from numpy.typing import NDArray
from test_preprocess import arguments

from tumorfab import brain_networks, preprocess, volume
from tumorfab.stage import InputError
from tumorfab.volume import Volume

MM = 4.0
DATASET = {
    "channel_names": {"0": "MRI"},
    "labels": {"background": 0, "brain": 1},
    "numTraining": 1,
    "file_ending": ".nii.gz",
}
RESAMPLING = {
    f"resampling_fn_{what}": "resample_data_or_seg_to_shape"
    for what in ("data", "seg", "probabilities")
} | {
    f"resampling_fn_{what}_kwargs": {"is_seg": what == "seg", "order": 1, "order_z": 0}
    for what in ("data", "seg", "probabilities")
}
PLANS = {
    "dataset_name": "Dataset001_StandIn",
    "plans_name": "nnUNetPlans",
    "image_reader_writer": "SimpleITKIO",
    "transpose_forward": [0, 1, 2],
    "transpose_backward": [0, 1, 2],
    "label_manager": "LabelManager",
    "foreground_intensity_properties_per_channel": {"0": {}},
    "configurations": {
        "3d_fullres": {
            "data_identifier": "nnUNetPlans_3d_fullres",
            "preprocessor_name": "DefaultPreprocessor",
            "batch_size": 2,
            "patch_size": [32, 32, 32],
            "spacing": [MM, MM, MM],
            "normalization_schemes": ["ZScoreNormalization"],
            "use_mask_for_norm": [False],
            **RESAMPLING,
            "architecture": {
                "network_class_name": "dynamic_network_architectures.architectures.unet."
                "PlainConvUNet",
                "arch_kwargs": {
                    "n_stages": 2,
                    "features_per_stage": [2, 2],
                    "conv_op": "torch.nn.modules.conv.Conv3d",
                    "kernel_sizes": [[3, 3, 3], [3, 3, 3]],
                    "strides": [[1, 1, 1], [2, 2, 2]],
                    "n_conv_per_stage": [1, 1],
                    "n_conv_per_stage_decoder": [1],
                    "conv_bias": True,
                    "norm_op": None,
                    "nonlin": "torch.nn.LeakyReLU",
                },
                "_kw_requires_import": ["conv_op", "norm_op", "nonlin"],
            },
        }
    },
}


def hd_bet(folder: Path, threshold: float = 1.0, lower: int = 1) -> Path:
    """A model folder as HD-BET's: brain is what is `threshold` standard deviations above the mean,
    `lower` voxels (0 or 1) further down than it lies."""
    plans = PlansManager(PLANS)
    network = nnUNetTrainer.build_network_architecture(
        plans, plans.get_configuration("3d_fullres"), 1, 2, enable_deep_supervision=True
    )
    for parameter in network.parameters():
        torch.nn.init.zeros_(parameter)
    with torch.no_grad():
        # Axes of the network's input: to the top, to the front, to the right.
        network.encoder.stages[0][0].convs[0].conv.weight[0, 0, 1 + lower, 1, 1] = 1
        network.decoder.stages[0].convs[0].conv.weight[0, 2, 1, 1, 1] = 1
        network.decoder.seg_layers[0].weight[1, 0] = 10
        network.decoder.seg_layers[0].bias[1] = -10 * threshold
    (folder / "fold_all").mkdir(parents=True)
    (folder / "dataset.json").write_text(json.dumps(DATASET))
    (folder / "plans.json").write_text(json.dumps(PLANS))
    checkpoint = {
        "network_weights": network.state_dict(),
        "init_args": {"configuration": "3d_fullres"},
        "trainer_name": "nnUNetTrainer",
        "inference_allowed_mirroring_axes": (0, 1, 2),
    }
    torch.save(checkpoint, folder / "fold_all" / "checkpoint_final.pth")
    return folder


def synthstrip(path: Path, network: torch.nn.Module) -> Path:
    """A file as FreeSurfer's for `network`: the surface is at half brightness, 4 mm further up."""
    for parameter in network.parameters():
        torch.nn.init.zeros_(parameter)
    skip = network.remaining[0].conv.in_channels - network.encoder[0][1].conv.out_channels
    passed = [(network.encoder[0][0], 0), (network.encoder[0][1], 0)]
    passed += [(network.remaining[0], skip), (network.remaining[1], 0)]
    with torch.no_grad():
        for block, channel in passed:  # axes of its input: to the left, down, to the front, in mm
            block.conv.weight[0, channel, 1, 2, 1] = 1
        network.remaining[2].conv.weight[0, 0, 1, 1, 1] = -20
        network.remaining[2].conv.bias[0] = 10 + brain_networks.BORDER_MM
    torch.save({"model_state_dict": network.state_dict(), "optimizer_state_dict": {}}, path)
    return path


def scan(axes: str, up: int = 0) -> tuple[Volume, NDArray[np.bool_]]:
    """A bright off-centre ellipsoid with a hole and a smaller one apart, stored along `axes`, and
    the mask that is right for it, moved by `up` voxels of 4 mm."""
    place = np.moveaxis(np.indices((36, 40, 32)), 0, -1)
    big = (((place - [15, 24, 16]) / [8, 10, 9]) ** 2).sum(-1) < 1
    hole = (((place - [15, 24, 16]) / 3) ** 2).sum(-1) < 1
    small = (((place - [28, 8, 10]) / 3) ** 2).sum(-1) < 1
    data = np.where(big & ~hole | small, 100, 20).astype(np.float32)
    affine = np.diag([MM, MM, MM, 1])
    affine[:3, 3] = [-60, -90, -50]
    codes = nib.orientations.axcodes2ornt
    turn = nib.orientations.ornt_transform(codes("RAS"), codes(axes))
    image, mask = (
        nib.Nifti1Image(array, affine).as_reoriented(turn)
        for array in (data, np.roll(big, up, axis=2).astype(np.uint8))
    )
    return Volume(np.asarray(image.dataobj), image.affine), np.asarray(mask.dataobj) > 0


def extracted(head: Volume, method: str, given: Path | str) -> NDArray[np.bool_]:
    weights = brain_networks.find_weights(method, str(given))
    return brain_networks.extract(head, method, weights, 1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return hd_bet(tmp_path_factory.mktemp("weights") / "hd-bet")


@pytest.mark.parametrize("axes", ["RAS", "LAS", "PSR", "ILP"])
def test_hd_bet_sees_the_head_upright_however_it_is_stored(folder, axes):
    given, expected = scan(axes, up=-1)
    assert np.array_equal(extracted(given, "hd-bet", folder), expected)


@pytest.mark.parametrize("axes", ["RAS", "PSR"])
def test_synthstrip_sees_the_head_upright_however_it_is_stored(tmp_path, monkeypatch, axes):
    narrow = partial(model.StripModel, nb_features=1, max_features=1)
    weights = synthstrip(tmp_path / "narrow.pt", narrow())
    monkeypatch.setattr(model, "StripModel", narrow)
    given, expected = scan(axes, up=1)
    found = extracted(given, "synthstrip", weights)
    assert dice(found, expected) > 0.98
    assert dice(found, scan(axes)[1]) < 0.95


def test_synthstrip_loads_a_file_of_the_true_size(tmp_path, monkeypatch):
    # Its smallest input takes half a minute, so it is given what it is on.
    monkeypatch.setattr(cli, "conform", lambda image: image)
    data = np.zeros((64, 64, 64), np.float32)
    data[20:40, 24:50, 30:44] = 1
    weights = synthstrip(tmp_path / "synthstrip.1.pt", model.StripModel())
    found = extracted(Volume(data, np.eye(4)), "synthstrip", weights)
    assert np.array_equal(found, np.roll(data > 0, -4, axis=1))


def test_a_head_goes_through_preprocessing(tmp_path):
    subject = head(MM, "T2w")  # where the scalp is darker than the brain
    cut = (100 - subject.scan.data.mean()) / subject.scan.data.std()
    weights = hd_bet(tmp_path / "weights", float(cut), lower=0)
    args = arguments(tmp_path, "healthy", "hd-bet", {"T2w": subject.scan}, min_correlation=0.5)
    preprocess.main([*args, "--weights", str(weights)])
    stem = str(tmp_path / "out" / "sub-X")
    mask = volume.load_labels(f"{stem}_desc-brain_mask.nii.gz")
    assert mask.grid.matches(subject.scan.grid)
    assert dice(mask.data > 0, subject.mask) > 0.95
    (transform,) = (tmp_path / "out").glob("*xfm.txt")
    assert error_mm(preprocess.sitk.ReadTransform(str(transform)), subject.truth) < 3
    evidence = json.loads(Path(f"{stem}_desc-preproc.json").read_text())
    checkpoint = weights / "fold_all" / "checkpoint_final.pth"
    assert evidence["brain"] == "hd-bet"
    digest = hashlib.sha256(checkpoint.read_bytes()).hexdigest()
    assert evidence["brain_weights_sha256"] == digest


def test_a_scan_in_which_nothing_is_found(tmp_path):
    weights = hd_bet(tmp_path / "weights", threshold=20.0)
    args = arguments(tmp_path, "healthy", "hd-bet", {"T1w": scan("RAS")[0]})
    with pytest.raises(InputError, match=r"^sub-X: .*T1w.nii.gz: hd-bet finds no brain in it"):
        preprocess.main([*args, "--weights", str(weights)])


# Libraries and weights that are not there, or broken: one line each


def refused(method: str, given: Path | str) -> str:
    with pytest.raises(InputError) as caught:
        extracted(scan("RAS")[0], method, given)
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize(
    ("method", "module"),
    [
        ("hd-bet", "nnunetv2.inference.predict_from_raw_data"),
        ("synthstrip", "nipreps.synthstrip"),
    ],
)
def test_a_missing_library_is_named(tmp_path, monkeypatch, folder, method, module):
    file = tmp_path / "synthstrip.1.pt"
    file.touch()
    monkeypatch.setitem(sys.modules, module, None)
    message = refused(method, folder if method == "hd-bet" else file)
    assert message.startswith(f"healthy.brain: {method} is not installed (")
    assert f"pip install -e '.[{method}]'" in message


def test_a_missing_library_is_named_before_its_weights_are_downloaded(monkeypatch):
    monkeypatch.setitem(sys.modules, "HD_BET", None)
    assert refused("hd-bet", "").startswith("healthy.brain: hd-bet is not installed (")


@pytest.mark.parametrize("name", brain_networks.HD_BET_FILES)
def test_a_folder_that_is_not_hd_bets_is_named(tmp_path, folder, name):
    copy = shutil.copytree(folder, tmp_path / "copy")
    (copy / name).unlink()
    message = refused("hd-bet", copy)
    assert message.startswith(f"{copy}: has no {name}; set healthy.brain_weights to")


def test_synthstrips_weights_are_found_in_freesurfer_or_asked_for(tmp_path, monkeypatch):
    monkeypatch.delenv("FREESURFER_HOME", raising=False)
    assert refused("synthstrip", "").startswith("healthy.brain_weights is empty; set it to")
    absent = tmp_path / "none.pt"
    assert refused("synthstrip", absent).startswith(f"{absent}: no such file; set healthy.brain")
    monkeypatch.setenv("FREESURFER_HOME", str(tmp_path))
    file = tmp_path / "models" / "synthstrip.1.pt"
    assert refused("synthstrip", "").startswith(f"{file}: no such file; set healthy.brain_weights")
    file.parent.mkdir()
    file.touch()
    assert brain_networks.find_weights("synthstrip", "") == file


@pytest.mark.parametrize("kept", [0, 1000])
def test_a_broken_file_is_named(tmp_path, folder, kept):
    copy = shutil.copytree(folder, tmp_path / "copy")
    checkpoint = copy / "fold_all" / "checkpoint_final.pth"
    checkpoint.write_bytes(checkpoint.read_bytes()[:kept])
    for method, given, file in (
        ("hd-bet", copy, checkpoint),
        ("synthstrip", checkpoint, checkpoint),
    ):
        assert refused(method, given).startswith(f"{file}: cannot be loaded as weights of ")


def test_weights_of_another_network_are_named(tmp_path, folder):
    checkpoint = folder / "fold_all" / "checkpoint_final.pth"
    assert "cannot be loaded as weights of SynthStrip" in refused("synthstrip", checkpoint)
    narrow = model.StripModel(nb_features=1, max_features=1)
    file = synthstrip(tmp_path / "narrow.pt", narrow)
    assert "cannot be loaded as weights of SynthStrip" in refused("synthstrip", file)


# The download, by HD-BET's own code, from a server of this test


@pytest.fixture
def served(tmp_path, monkeypatch):
    """A folder that is served in place of Zenodo; HD-BET's home is below `tmp_path`."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *args):
            asked.append(self.path)

    asked: list[str] = []
    (tmp_path / "www").mkdir()
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=tmp_path / "www"))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}/release.zip"
    monkeypatch.setattr(checkpoint_download, "ZENODO_DOWNLOAD_URL", url)
    home = str(tmp_path / "home" / "release")
    monkeypatch.setattr(checkpoint_download, "folder_with_parameter_files", home)
    yield tmp_path / "www", asked
    server.shutdown()
    server.server_close()


def test_hd_bets_weights_are_downloaded_once(served, tmp_path, folder):
    www, asked = served
    shutil.make_archive(str(www / "release"), "zip", folder)
    for _ in range(2):
        weights = brain_networks.find_weights("hd-bet", "")
    assert weights == tmp_path / "home" / "release" / "fold_all" / "checkpoint_final.pth"
    given, expected = scan("RAS", up=-1)
    assert np.array_equal(brain_networks.extract(given, "hd-bet", weights, 1), expected)
    assert asked == ["/release.zip"]


@pytest.mark.parametrize("content", [None, b"a page that asks to log in"])
def test_a_failed_download_says_what_to_do(served, content):
    www, _ = served
    if content:
        (www / "release.zip").write_bytes(content)
    message = refused("hd-bet", "")
    assert message.startswith("HD-BET's weights could not be downloaded (")
    assert "/release.zip and set healthy.brain_weights to its folder" in message
