"""The baselines: their formulas on hand-made cases, their samples on the toy cohort."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import shapes
import torch
import toy
from scipy import stats

from tumorfab import samples, segment, stage
from tumorfab.baselines import carvemix, copypaste, pairs, pix2pix
from tumorfab.host import load_host
from tumorfab.stage import InputError, read_json
from tumorfab.volume import load, load_labels

SPACING = 2.0
ARMS = ("copypaste", "carvemix", "carvemix_published", "pix2pix")
TRAIN = ("A1", "A2", "A3")
PIX2PIX = {"steps": 12, "batch": 2, "patch": 16, "channels": 4, "learning_rate": 2e-3, "l1": 100.0}


def ball_case(radii: dict[int, float], value: float, middle=(20, 20, 20)) -> pairs.Case:
    """A case of constant intensity with nested balls (mm) (label: radius), the largest first."""
    grid = shapes.grid(SPACING, 41, 41, 41)
    labels = np.zeros(grid.shape, np.uint8)
    for label, radius in radii.items():
        labels[shapes.ellipsoid(grid.shape, middle, radius / SPACING)] = label
    image = np.full(grid.shape, value, np.float32)
    image[0, 0, 0] = 10.0  # a file with this peak holds what is pasted
    return pairs.Case({"T1w": image}, labels, np.ones(grid.shape, bool), grid)


def radius_mm(case: pairs.Case) -> np.ndarray:
    """Distance of every voxel from the middle, in mm."""
    return np.linalg.norm(np.indices(case.grid.shape) - 20, axis=0) * SPACING


DONOR = ball_case({2: 20, 3: 12, 1: 6}, 5.0)
HOST = ball_case({2: 8}, 1.0, (34, 34, 34))


# CarveMix: the paper's formulas


def test_the_signed_distance_of_a_ball_is_that_from_its_surface():
    found = carvemix.signed_distance(DONOR.labels, DONOR.grid.spacing)
    assert ((found < 0) == (DONOR.labels > 0)).all()
    # To the nearest voxel of the other side: up to one voxel more than to the sphere.
    np.testing.assert_allclose(found, radius_mm(DONOR) - 20, atol=2 * SPACING)
    assert carvemix.depth(DONOR.labels, DONOR.grid.spacing) == pytest.approx(-found.min())


def test_the_carved_distance_is_the_mixture_of_two_uniform_distributions():
    depth = carvemix.depth(DONOR.labels, DONOR.grid.spacing)
    drawn = [carvemix.sample(stage.rng(0, "test", i), HOST, DONOR).distance_mm for i in range(4000)]

    def expected(t: np.ndarray) -> np.ndarray:
        return 0.5 * np.clip((t + depth / 2) / (depth / 2), 0, 1) + 0.5 * np.clip(t / depth, 0, 1)

    # The paper: half of the draws from U(-depth/2, 0), half from U(0, depth).
    assert stats.kstest(drawn, expected).pvalue > 0.01
    assert min(drawn) >= -depth / 2
    assert max(drawn) <= depth


@pytest.mark.parametrize("distance", [-8.0, -3.0, 0.0, 5.0, 12.0])
def test_what_is_carved_is_a_ball_of_that_distance(distance):
    images, labels = carvemix.apply(HOST, DONOR, carvemix.Carve(distance))
    carved = images["T1w"] == 5
    np.testing.assert_array_equal(images["T1w"][~carved], HOST.images["T1w"][~carved])
    radius = 20 + distance
    sure = np.abs(radius_mm(DONOR) - radius) > 2 * SPACING
    np.testing.assert_array_equal(carved[sure], (radius_mm(DONOR) < radius)[sure])
    np.testing.assert_array_equal(labels[carved], DONOR.labels[carved])
    np.testing.assert_array_equal(labels[~carved], HOST.labels[~carved])


def test_a_carved_box_equals_the_formula_on_the_whole_volume():
    for published in (False, True):
        whole = carvemix.signed_distance(DONOR.labels, DONOR.grid.spacing, published)
        for distance in (-5.0, 0.0, 4.1, 15.9):
            images, _ = carvemix.apply(HOST, DONOR, carvemix.Carve(distance), published)
            np.testing.assert_array_equal(images["T1w"] == 5, whole <= distance)


def test_the_published_distance_differs_outside_the_lesion_alone():
    ours, theirs = (
        carvemix.signed_distance(DONOR.labels, DONOR.grid.spacing, p) for p in (False, True)
    )
    lesion = DONOR.labels > 0
    np.testing.assert_array_equal(ours[lesion], theirs[lesion])
    # Label 1 ends 14 mm below the lesion's surface.
    np.testing.assert_allclose((theirs - ours)[~lesion], 14, atol=2 * SPACING)
    for distance, same in ((-4.0, True), (0.0, True), (10.0, False)):
        one, two = (carvemix.apply(HOST, DONOR, carvemix.Carve(distance), p) for p in (False, True))
        assert np.array_equal(one[0]["T1w"], two[0]["T1w"]) == same


def test_the_published_distance_of_one_class_is_the_papers():
    one = ball_case({1: 15}, 5.0)
    ours, theirs = (
        carvemix.signed_distance(one.labels, one.grid.spacing, p) for p in (False, True)
    )
    np.testing.assert_array_equal(ours, theirs)


def test_without_label_1_the_published_variant_carves_no_surroundings():
    donor = ball_case({2: 16, 3: 8}, 5.0)
    images, _ = carvemix.apply(HOST, donor, carvemix.Carve(6.0), published=True)
    np.testing.assert_array_equal(images["T1w"] == 5, donor.labels > 0)


# Copy and paste


def paste(**changes) -> copypaste.Paste:
    plain = {
        "tumour": 0,
        "site": [14, 20, 20],
        "rotation_deg": [0.0] * 3,
        "scale": 1.0,
        "mirror": [False] * 3,
        "warp_mm": 0.0,
        "warp_seed": 0,
        "gamma": 1.0,
        "blur": 0.0,
    }
    return copypaste.Paste(**{**plain, **changes})  # fmt: skip


def test_an_unchanged_tumour_is_pasted_voxel_by_voxel():
    images, labels = copypaste.apply(HOST, DONOR, paste())
    moved = np.roll(DONOR.labels, -6, axis=0)
    np.testing.assert_array_equal(labels, np.where(moved > 0, moved, HOST.labels))
    np.testing.assert_array_equal(images["T1w"], np.where(moved > 0, 5, HOST.images["T1w"]))


def test_scale_changes_the_volume_and_a_turn_does_not():
    def volume(**changes) -> int:
        labels = copypaste.apply(HOST, DONOR, paste(site=[20, 20, 20], **changes))[1]
        return int(np.count_nonzero(labels) - np.count_nonzero(HOST.labels))

    plain = volume()
    assert volume(scale=0.85) == pytest.approx(0.85**3 * plain, rel=0.05)
    assert volume(rotation_deg=[30.0, 70.0, -20.0]) == pytest.approx(plain, rel=0.05)


def test_a_mirror_and_a_turn_move_what_they_should():
    donor = ball_case({2: 12}, 5.0)
    donor.labels[14:17, 20, 20] = 3  # towards lower I
    _, labels = copypaste.apply(HOST, donor, paste(site=[20, 20, 20], mirror=[True, False, False]))
    assert (labels[24:27, 20, 20] == 3).all()
    turned = paste(site=[20, 20, 20], rotation_deg=[0.0, 0.0, 90.0])
    assert (copypaste.apply(HOST, donor, turned)[1][20, 14:17, 20] == 3).all()


def test_contrast_keeps_mean_and_deviation_and_blur_smooths_the_tumour_alone():
    rng = np.random.default_rng(0)
    image = rng.normal(3, 1, (20, 20, 20)).astype(np.float32)
    tumour = shapes.ellipsoid(image.shape, (10, 10, 10), 7)
    bent = copypaste.changed(image, tumour, 1.4, 0.0)
    assert bent[tumour].mean() == pytest.approx(image[tumour].mean(), abs=1e-3)
    assert bent[tumour].std() == pytest.approx(image[tumour].std(), abs=1e-3)
    assert not np.allclose(bent[tumour], image[tumour], atol=0.01)
    order = np.argsort(image[tumour])
    assert (np.diff(bent[tumour][order]) >= 0).all()
    blurred = copypaste.changed(np.where(tumour, image, 1000), tumour, 1.0, 0.8)
    assert blurred[tumour].std() < 0.7 * image[tumour].std()
    assert blurred[tumour].max() < 10  # nothing of the surroundings came in
    assert (blurred[~tumour] == 1000).all()


def test_the_site_is_in_free_brain_and_each_change_comes_half_of_the_time():
    brain = shapes.ellipsoid(HOST.grid.shape, (20, 20, 20), 19)
    host = pairs.Case(HOST.images, HOST.labels, brain, HOST.grid)
    small = ball_case({2: 8, 3: 5, 1: 3}, 5.0)
    draws = [copypaste.sample(stage.rng(0, "paste", i), host, small) for i in range(200)]
    sites = np.array([d.site for d in draws])
    assert (brain & (HOST.labels == 0))[tuple(sites.T)].all()
    assert sites.std(0).min() > 4
    for used in (
        [d.gamma != 1 for d in draws], [d.blur > 0 for d in draws], [d.scale != 1 for d in draws],
        [d.warp_mm > 0 for d in draws], [d.mirror[0] for d in draws],
        [d.rotation_deg[1] != 0 for d in draws],
    ):  # fmt: skip
        assert 0.35 < np.mean(used) < 0.65
    pasted = [np.count_nonzero(copypaste.apply(host, small, d)[1] != HOST.labels) for d in draws]
    assert min(pasted) > 0


def test_tumours_come_largest_first_without_specks():
    labels = ball_case({2: 8}, 1.0).labels
    labels[ball_case({3: 5}, 1.0, (35, 35, 35)).labels > 0] = 3
    labels[2, 2, 2] = 1
    found = copypaste.tumours(labels, HOST.grid)
    assert [set(np.unique(t)) for t in found] == [{0, 2}, {0, 3}]
    speck = np.zeros_like(labels)
    speck[2, 2, 2] = 1
    assert len(copypaste.tumours(speck, HOST.grid)) == 1


# The samples of the toy cohort


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    folder = tmp_path_factory.mktemp("baselines")
    for subject, tumour in (("H1", None), ("A1", (12, 22, 18)), ("A2", (28, 22, 18)),
                            ("A3", (20, 12, 18)), ("A4", (20, 32, 14))):  # fmt: skip
        toy.write_subject(folder, subject, tumour)
    for arm in ARMS:
        make(folder, arm, folder / "set")
    return folder


def make(results: Path, arm: str, out: Path, host: str | None = None, cases=TRAIN, draws=2):
    """Run the stage of an arm: the first case hosts the pairs, H1 hosts Pix2Pix."""
    given = [part for case in cases for part in ("--case", case, "CC0")]
    given += ["--results", str(results), "--label", toy.LABEL, "--modality", *toy.MODALITIES,
              "--draws", str(draws), "--seed", "7", "--out"]  # fmt: skip
    if arm == "pix2pix":
        pix2pix.main(
            [*given, str(out), "--host", host or "H1", "CC BY", "--params", json.dumps(PIX2PIX)]
        )
        return
    host = host or cases[0]
    given += [str(out / f"sub-{host}" / "anat"), "--host", host]
    if arm == "copypaste":
        copypaste.main(given)
    else:
        carvemix.main([*given, *(["--published"] if arm == "carvemix_published" else [])])


def sidecars(results: Path, arm: str) -> list[Path]:
    return sorted(results.glob(f"set/sub-*/anat/*_desc-{samples.KINDS[arm]}[0-9]*.json"))


def files(folder: Path, arm: str) -> dict[str, bytes]:
    pattern = f"sub-*/anat/*_desc-{samples.KINDS[arm]}[0-9]*"
    return {p.name: p.read_bytes() for p in sorted(folder.glob(pattern))}


@pytest.mark.parametrize("arm", ARMS)
def test_samples_are_read_like_those_of_placement(results, arm):
    found = sidecars(results, arm)
    assert len(found) == 2
    for number, sidecar in enumerate(found):
        record = samples.read(sidecar, list(TRAIN))
        assert record["number"] == number
        assert record["method"] == arm
        assert record["donor"] in record["donors"]
        assert set(record["licence"]["donors"]) == set(record["donors"])
        if arm != "pix2pix":
            assert record["donors"] == sorted({record["host"], record["donor"]})
            assert record["host"] != record["donor"]
        host = results / f"sub-{record['host']}" / "anat" / f"sub-{record['host']}"
        labels = load_labels(samples.dseg(sidecar)).data
        assert labels.any()
        for modality in toy.MODALITIES:
            image = load(samples.image(sidecar, modality)).data
            own = load(f"{host}_space-{toy.LABEL}_desc-preproc_{modality}.nii.gz").data
            changed = image != own
            assert 0 < changed.sum() < 0.5 * own.size  # the rest is the host's, bit for bit
        segment.read_case(
            [samples.image(sidecar, m) for m in toy.MODALITIES], samples.dseg(sidecar)
        )


@pytest.mark.parametrize("arm", ARMS)
def test_equal_seeds_are_equal_bytes(results, tmp_path, arm):
    make(results, arm, tmp_path, draws=1)
    again, first = files(tmp_path, arm), files(results / "set", arm)
    assert len(again) == 4
    assert again == {name: first[name] for name in again}


@pytest.mark.parametrize("arm", ARMS[:2])
def test_the_sidecars_draw_makes_the_sample_again(results, arm):
    method, kind = {
        "copypaste": (copypaste, copypaste.Paste), "carvemix": (carvemix, carvemix.Carve)
    }[arm]  # fmt: skip
    sidecar = sidecars(results, arm)[1]
    record = read_json(sidecar)
    host, donor = (
        pairs.load_case(results, s, toy.LABEL, toy.MODALITIES)
        for s in (record["host"], record["donor"])
    )
    images, labels = method.apply(host, donor, kind(**record["draw"]))
    np.testing.assert_array_equal(load_labels(samples.dseg(sidecar)).data, labels)
    for modality, image in images.items():
        stored = load(samples.image(sidecar, modality)).data
        np.testing.assert_allclose(stored, image, atol=1e-3)


def test_both_carvemix_arms_draw_the_same_pairs_and_sizes(results):
    one, two = ([read_json(p) for p in sidecars(results, arm)] for arm in ARMS[1:3])
    assert [(r["donor"], r["draw"]) for r in one] == [(r["donor"], r["draw"]) for r in two]


@pytest.mark.parametrize("arm", ARMS)
def test_a_planted_leak_is_refused(results, tmp_path, arm):
    """A sample made with the test case A4, and one of another set of training cases."""
    make(results, arm, tmp_path, cases=("A1", "A4"), draws=1)
    (leak,) = (p for p in tmp_path.glob("sub-*/anat/*.json"))
    with pytest.raises(InputError, match="donor A4 is not a training case of this run"):
        segment.main(
            ["--results", str(results), "--train", "A1", "A2", "--test", "A4", "--label", toy.LABEL,
             "--modality", *toy.MODALITIES, "--seed", "1", "--samples", str(leak), "--params", "{}",
             "--out", str(tmp_path)]
        )  # fmt: skip


@pytest.mark.parametrize("arm", ARMS[:3])
def test_a_host_that_does_not_train_is_refused(results, tmp_path, arm):
    with pytest.raises(InputError, match="--host: A4 is no training case of this run"):
        make(results, arm, tmp_path, host="A4")
    with pytest.raises(InputError, match="has no other to mix with"):
        make(results, arm, tmp_path, cases=("A1",))


def test_a_case_without_a_tumour_is_refused(results, tmp_path):
    shutil.copytree(results / "sub-A2", tmp_path / "sub-A2")
    shutil.copytree(results / "sub-A1", tmp_path / "sub-A1")
    path = tmp_path / "sub-A2/anat" / f"sub-A2_space-{toy.LABEL}_dseg.nii.gz"
    empty = np.zeros(toy.GRID.shape, np.uint8)
    pairs.save(path, empty, toy.GRID.affine)
    with pytest.raises(InputError, match=r"A2.*dseg.nii.gz: holds no tumour; leave this case out"):
        make(tmp_path, "carvemix", tmp_path / "set", cases=("A1", "A2"))


# Pix2Pix


def test_where_there_is_tumour_the_map_says_nothing_of_the_tissue():
    labels = torch.randint(0, 4, (1, 8, 8, 8))
    found = pix2pix.condition(torch.rand(1, 3, 8, 8, 8) + 0.1, labels)
    tumour = labels[0] > 0
    assert (found[0, :3][:, tumour] == 0).all()
    assert (found[0, :3][:, ~tumour] > 0).all()
    np.testing.assert_array_equal(found[0, 3:].argmax(0)[tumour], labels[0][tumour] - 1)


def test_training_learns_to_paint_and_its_loss_is_the_papers(results, tmp_path):
    rows = (results / "set/pix2pix/training.csv").read_text().splitlines()
    assert rows[0] == "step,discriminator,adversarial,l1"
    assert len(rows) == 1 + PIX2PIX["steps"]
    last = [float(row.split(",")[3]) for row in rows[1:]]
    assert np.mean(last[-3:]) < 0.8 * last[0]
    assert not (results / "set/pix2pix/checkpoint.pt").exists()
    judge = pix2pix.discriminator(2, 4)
    x, y = torch.rand(1, 6, 16, 16, 16), torch.rand(1, 2, 16, 16, 16)
    verdict = torch.sigmoid(judge(torch.cat([x, y], 1))[-1])
    torch.testing.assert_close(pix2pix.losses(judge, x, y, True), -verdict.log().mean())
    torch.testing.assert_close(pix2pix.losses(judge, x, y, False), -(1 - verdict).log().mean())


def test_pix2pix_paints_inside_the_tumour_alone(results):
    host = load_host("H1", results / "sub-H1/anat", toy.LABEL, toy.MODALITIES)
    for sidecar in sidecars(results, "pix2pix"):
        labels = load_labels(samples.dseg(sidecar)).data
        assert (host.brain[labels > 0]).all()
        for modality, own in host.images.items():
            image = load(samples.image(sidecar, modality)).data
            np.testing.assert_array_equal(image[labels == 0], own[labels == 0])
            assert (image[labels > 0] != own[labels > 0]).mean() > 0.9


def test_a_patient_who_hosts_keeps_the_tumour(results, tmp_path):
    given = [part for case in TRAIN for part in ("--case", case, "CC0")]
    pix2pix.main(
        [*given, "--results", str(results), "--label", toy.LABEL, "--modality", *toy.MODALITIES,
         "--draws", "1", "--seed", "7", "--out", str(tmp_path), "--host", "A1", "CC0",
         "--patient", "kept", "--params", json.dumps(PIX2PIX | {"steps": 1})]
    )  # fmt: skip
    (sidecar,) = tmp_path.glob("sub-A1/anat/*.json")
    assert read_json(sidecar)["host_tumour"] == "kept"
    own = load_labels(results / "sub-A1/anat" / f"sub-A1_space-{toy.LABEL}_dseg.nii.gz").data
    made = load_labels(samples.dseg(sidecar)).data
    np.testing.assert_array_equal(made[own > 0], own[own > 0])
    assert (made > 0).sum() > (own > 0).sum()
