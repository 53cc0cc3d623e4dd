"""Patches, refiner networks and losses: known answers and invariants."""

import numpy as np
import pytest
import torch

from tumorfab import networks, patches, refiner
from tumorfab.networks import backbone
from tumorfab.patches import Case


@pytest.fixture
def ball():
    """Images (2, 2, 32, 32, 32) of a brain in a corner, and labels of nested balls."""
    index = torch.stack(torch.meshgrid(*[torch.arange(32.0)] * 3, indexing="ij"))
    reach = (index - 14).norm(dim=0)
    labels = torch.zeros(2, 32, 32, 32, dtype=torch.long)
    for value, radius in ((2, 8), (3, 5), (1, 3)):
        labels[:, reach < radius] = value
    torch.manual_seed(0)
    images = torch.randn(2, 2, 32, 32, 32) * (reach < 13)
    return images, labels


def case(shape=(20, 24, 18)):
    rng = np.random.default_rng(0)
    labels = np.zeros(shape, np.uint8)
    labels[5:9, 5:9, 5:9] = 2
    labels[6, 6, 6] = 3
    return Case("a", rng.normal(size=(2, *shape)).astype(np.float16), labels)


def test_patch_is_cut_from_the_case_and_padded_with_zeros():
    whole = case()
    images, labels = patches.patch(whole, 64, np.random.default_rng(1), tumour=False)
    assert images.shape == (2, 64, 64, 64)
    assert labels.sum() == whole.labels.sum()  # the whole case fits in
    assert np.count_nonzero(images[0]) == np.count_nonzero(whole.images[0])


def test_tumour_patches_see_small_classes_often():
    whole = case()
    rng = np.random.default_rng(2)
    seen = [3 in patches.patch(whole, 8, rng, tumour=True)[1] for _ in range(60)]
    assert np.mean(seen) > 0.4  # one voxel of 8640


def test_cropped_keeps_the_box():
    image = np.arange(1000, dtype=np.float32).reshape(10, 10, 10)
    where = np.s_[2:5, 3:9, 4:6]
    cut = Case.cropped("x", [image], np.zeros((10, 10, 10), np.uint8), where)
    np.testing.assert_array_equal(cut.images[0], image[2:5, 3:9, 4:6].astype(np.float16))


def test_augment_keeps_background_labels_and_is_repeatable(ball):
    images, labels = ball
    one = patches.augment(images, labels, np.random.default_rng(5), intensity=0.3)
    two = patches.augment(images, labels, np.random.default_rng(5), intensity=0.3)
    assert torch.equal(one[0], two[0])
    assert torch.equal(one[1], two[1])
    assert set(one[1].unique().tolist()) <= {0, 1, 2, 3}
    outside = (one[0] == 0).all(1)
    assert outside.any()
    assert not one[1][outside].any()  # no tumour where there is no brain
    assert not torch.equal(one[0], images)


def test_augment_moves_image_and_label_together(ball):
    _, labels = ball
    images = labels[:, None].float().repeat(1, 2, 1, 1, 1)
    moved, moved_labels = patches.augment(images, labels, np.random.default_rng(3))
    core = moved_labels == 1
    assert core.any()
    assert (moved[:, 0][core] - 1).abs().mean() < 0.4


@pytest.mark.parametrize("reach", [1, 2, 4])
def test_support_is_one_inside_and_exactly_zero_away(ball, reach):
    images, labels = ball
    images = images + (images != 0) * 5  # no accidental zero inside the brain
    weight = refiner.support(images, labels, reach)
    brain = (images != 0).any(1, keepdim=True)
    assert torch.allclose(weight[(labels > 0)[:, None] & brain], torch.tensor(1.0))
    tumour = (labels > 0).float()[:, None]
    near = torch.nn.functional.max_pool3d(tumour, 2 * reach + 3, 1, reach + 1)
    assert (weight[near == 0] == 0).all()
    assert (weight[(near > 0) & brain] > 0).all()
    assert ((weight > 0) & (weight < 0.99)).any()
    assert (weight[~brain] == 0).all()


def test_places_are_the_classes_and_the_brain_around_them(ball):
    images, labels = ball
    brain = (images != 0).any(1)
    found = refiner.places(images, labels, 2)
    assert found.shape == (2, 4, 32, 32, 32)
    for place, value in enumerate((1, 2, 3)):
        assert torch.equal(found[:, place] > 0, labels == value)
    around = found[:, 3] > 0
    near = torch.nn.functional.max_pool3d((labels > 0).float()[:, None], 5, 1, 2)[:, 0] > 0
    assert torch.equal(around, near & brain & (labels == 0))
    assert around.any()


def test_generator_starts_as_identity_and_never_leaves_its_support(ball):
    images, labels = ball
    generator = refiner.Generator(2, 8, 2)
    assert torch.equal(generator(images, labels), images)
    for parameter in generator.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    changed = generator(images, labels) != images
    outside = (refiner.support(images, labels, 2) == 0).expand_as(images)
    assert changed.any()
    assert not changed[outside].any()


def test_discriminator_shapes_and_gradients(ball):
    images, _ = ball
    verdict, classes = refiner.Discriminator(2, 8)(images.requires_grad_())
    assert verdict.shape == (2, 1, 8, 8, 8)
    assert classes.shape == (2, 4, 32, 32, 32)
    (verdict.sum() + classes.sum()).backward()
    assert images.grad.abs().sum() > 0


def test_hinge_and_weighted_mean_known_answers():
    weight = torch.zeros(1, 1, 4, 4, 4)
    weight[..., :2] = 1
    verdict = torch.zeros(1, 1, 4, 4, 4)
    verdict[..., :2], verdict[..., 2:] = 0.25, -99
    assert refiner.hinge(verdict, None, weight).item() == pytest.approx(0.75)
    assert refiner.hinge(None, verdict, weight).item() == pytest.approx(1.25)


def test_class_loss_weighs_classes_equally(ball):
    _, labels = ball
    perfect = refiner.one_hot(labels) * 50
    assert refiner.class_loss(perfect, labels).item() < 1e-3
    # Missing the smallest class costs as much as missing a large one.
    costs = []
    for value in (1, 2):
        wrong = perfect.clone()
        wrong[:, value], wrong[:, 0] = 0, torch.where(labels == value, 50.0, perfect[:, 0])
        costs.append(refiner.class_loss(wrong, labels).item())
    assert costs[0] == pytest.approx(costs[1], rel=0.05)


def test_statistics_are_zero_for_the_real_thing_and_grow_with_the_gap(ball):
    labels = ball[1][:1].expand(24, -1, -1, -1)[:, ::2, ::2, ::2]
    places = refiner.places(torch.ones(24, 1, 16, 16, 16), labels, 1)
    torch.manual_seed(1)

    def tumours(spread: float) -> torch.Tensor:
        """Patches whose classes differ from patch to patch by `spread`, and in grain."""
        own, grain = (spread * torch.randn(24, 8, 1, 1, 1) for _ in range(2))
        # Near 0: the tenth of the mean that widens the spread is a bias of its own.
        return (
            0.3 * labels[:, None]
            + own
            + (0.3 + 0.2 * grain) * torch.randn(24, 8, *labels.shape[1:])
        )

    statistics = refiner.ClassStatistics([8], cases=10**6)  # whose mean is certain
    for _ in range(20):
        statistics.update([tumours(0.5)], places)
        statistics.update([tumours(0.5) - 1], places, coarse=True)
    real = tumours(0.5)
    gaps = {
        "same": real,
        "shifted": real + 0.5 * (labels == 1)[:, None],
        "further": real + 2 * (labels == 1)[:, None],
        "all alike": tumours(0.0),
        "around": real + 2 * (places[:, 3:] > 0),
        "background": real + 5 * ((labels == 0)[:, None] & (places[:, 3:] == 0)),
    }
    found = {name: statistics.distance([x], places).item() for name, x in gaps.items()}
    assert found["same"] == pytest.approx(0, abs=0.05)
    assert found["same"] + 0.02 < found["shifted"] < found["further"]
    assert found["all alike"] > found["same"] + 0.1
    assert found["around"] > found["same"] + 0.1
    assert found["background"] == pytest.approx(found["same"], abs=1e-4)


def test_what_few_cases_cannot_tell_is_left_as_it_is_in_coarse_tumours(ball):
    labels = ball[1][:1].expand(8, -1, -1, -1)
    places = refiner.places(torch.ones(8, 1, 32, 32, 32), labels, 1)
    # Two features of no texture: the real mean is 0, from patch to patch it differs by 1.
    own = torch.tensor([1.0, -1.0] * 4)[:, None, None, None, None]
    coarse = torch.tensor([0.4, 3.0])[:, None, None, None]

    def goal(cases: int) -> list[float]:
        statistics = refiner.ClassStatistics([2], cases)
        statistics.update([own.expand(8, 2, 32, 32, 32)], places)
        statistics.update([coarse.expand(8, 2, 32, 32, 32)], places, coarse=True)
        mean, spread = statistics.goal(0)
        assert spread[0, :2].tolist() == pytest.approx([1.01, 1.01])
        return mean[0, :2].tolist()

    # The mean of 4 cases is uncertain by 1.01 / 2: a difference of 0.4 says nothing, one of 3
    # nearly all that it seems to.
    assert goal(4) == pytest.approx([0.4, 3 - 3 * (1 - 1.01**2 / 4 / 9)], rel=1e-4)
    assert goal(10**6) == pytest.approx([0, 0], abs=1e-3)


def test_bands_and_levels_are_grain_and_histogram():
    torch.manual_seed(0)
    smooth = torch.linspace(-1, 1, 24).expand(1, 1, 24, 24, 24)
    rough = smooth + 0.5 * torch.randn_like(smooth)
    inside = (..., slice(4, -4), slice(4, -4), slice(4, -4))
    fine, broad = refiner.bands(rough)[inside].std((0, 2, 3, 4))
    assert fine == pytest.approx(0.5 * (26 / 27) ** 0.5, rel=0.05)  # a mean of 27 less noise
    assert broad < 0.2
    assert refiner.bands(smooth)[inside].abs().max() < 1e-4
    shares = refiner.levels(smooth.expand(1, 2, -1, -1, -1)).mean((0, 2, 3, 4))
    assert shares.shape == (2 * len(refiner.LEVELS),)
    assert shares[:13].tolist() == sorted(shares[:13].tolist(), reverse=True)
    assert shares[6] == pytest.approx(0.5, abs=1e-3)


def test_folding_keeps_every_voxel_and_any_size():
    x = torch.arange(2 * 3 * 4 * 6 * 8.0).reshape(2, 3, 4, 6, 8)
    folded = networks.fold(x)
    assert folded.shape == (2, 24, 2, 3, 4)
    assert torch.equal(networks.unfold(folded), x)
    # A block of voxels is one voxel's channels.
    assert set(folded[0, :8, 0, 0, 0].tolist()) == set(x[0, 0, :2, :2, :2].flatten().tolist())
    network = networks.Folded(2, 3, 8, 2).eval()
    whole = torch.randn(1, 2, 12, 9, 5)
    assert network(whole).shape == (1, 3, 12, 9, 5)


def test_content_ignores_texture_and_sees_shifts(ball):
    images, labels = ball
    weight = refiner.inside(labels)
    checker = torch.ones(32, 32, 32)
    checker[::2] *= -1
    texture = refiner.content(images + checker, images, weight).item()
    shift = refiner.content(images + 2, images, weight).item()
    assert texture == pytest.approx(0, abs=1e-5)
    assert shift == pytest.approx(4, abs=1e-4)


def test_backbone_keeps_the_size():
    assert backbone(3, 2, 8, 4)(torch.zeros(1, 3, 16, 24, 8)).shape == (1, 2, 16, 24, 8)
