import pytest
import torch
import torch.nn.functional as F

from convscope.core.batches import Batch
from convscope.core.network import Network
from convscope.core.streams import Gradient, Images, Input, Probes, RandomLabels, sampled


def batch_of(n, start=0):
    return Batch.of(torch.zeros(n, 1, 1, 1), None, torch.arange(start, start + n))


def test_random_labels_belong_to_the_image():
    output = torch.randn(40, 5, generator=torch.Generator().manual_seed(0))
    (whole,) = RandomLabels(3).vectors(output, batch_of(40))
    pieces = [next(RandomLabels(3).vectors(output[i : i + 1], batch_of(1, i))) for i in range(40)]
    assert torch.allclose(whole, torch.cat(pieces), rtol=1e-6)
    backwards = torch.arange(39, -1, -1)
    (turned,) = RandomLabels(3).vectors(output[backwards], batch_of(40)[backwards])
    assert torch.allclose(turned, whole[backwards], rtol=1e-6)


def test_random_labels_give_the_gradient_of_the_cross_entropy():
    output = torch.randn(6, 4, dtype=torch.float64, requires_grad=True)
    (vector,) = RandomLabels(0).vectors(output, batch_of(6))
    labels = (output.detach().softmax(1) - vector).argmax(1)
    (gradient,) = torch.autograd.grad(F.cross_entropy(output, labels, reduction="sum"), output)
    assert torch.allclose(vector, gradient, rtol=1e-12)
    assert not vector.requires_grad


def test_random_labels_are_uniform_and_differ_with_the_seed():
    output = torch.zeros(7000, 7)
    labels = [(output.softmax(1) - next(RandomLabels(s).vectors(output, batch_of(7000)))).argmax(1) for s in (0, 1)]
    for drawn in labels:
        counts = torch.bincount(drawn, minlength=7)
        assert int((counts - 1000).abs().max()) < 150  # five standard deviations: 1 in 250,000
    assert float((labels[0] == labels[1]).double().mean()) == pytest.approx(1 / 7, abs=0.03)


def test_signs_of_probes_belong_to_the_image():
    index = torch.randperm(5000, generator=torch.Generator().manual_seed(0))[:60] - 500
    every = Batch.of(torch.zeros(60, 1, 1, 1), None, index)
    whole = torch.stack(list(Probes(3, seed=1).vectors(torch.zeros(60, 5), every)))
    assert whole.shape == (3, 60, 5)
    assert set(whole.unique().tolist()) == {-1.0, 1.0}
    for i in range(60):
        alone = torch.stack(list(Probes(3, seed=1).vectors(torch.zeros(1, 5), every[torch.tensor([i])])))
        assert torch.equal(alone[:, 0], whole[:, i])


def products(images, outputs, seed, draws=1):
    """Outer products of the signs of each image, added over its draws, [n, o, o]."""
    vectors = Probes(draws, seed).vectors(torch.zeros(images, outputs, dtype=torch.float64), batch_of(images))
    return sum(v[:, :, None] * v[:, None] for v in vectors)


@pytest.mark.parametrize("folds", [4, 10])
def test_signs_of_images_that_share_their_folds_are_balanced_and_those_of_folds_are_independent(folds):
    # Were the signs of all images independent, products of two outputs would have, summed over the images of a fold, as
    # large a mean square as there are images.
    n, o = 640, 10
    outer = torch.stack([products(n, o, seed) for seed in range(60)])  # [seeds, n, o, o]
    of = batch_of(n).fold % folds
    off = ~torch.eye(o, dtype=torch.bool)
    within = torch.stack([outer[:, of == k].sum(1) for k in range(folds)])[..., off]  # [folds, seeds, pairs]
    apart = float(within.square().sum(0).mean())
    assert apart < 0.12 * n
    assert float(within.sum(0).square().mean()) == pytest.approx(apart, rel=0.15)  # a standard error is 3 %


def test_as_many_draws_as_there_are_rows_leave_no_error():
    assert torch.equal(products(7, 5, 0, draws=8), 8 * torch.eye(5).double().expand(7, 5, 5))


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 1.0, 3.0])
def test_a_share_of_the_images_is_drawn_image_by_image(share):
    n = 10_000
    chosen = sampled(batch_of(n), share)
    pieces = torch.cat([sampled(batch_of(100, start), share) for start in range(0, n, 100)])
    assert torch.equal(chosen, pieces)
    p = min(share, 1.0)
    assert abs(int(chosen.sum()) - p * n) <= 5 * (n * p * (1 - p)) ** 0.5  # five standard deviations


def test_a_larger_share_holds_the_smaller_one():
    small, large = (sampled(batch_of(1000), share) for share in (0.2, 0.4))
    assert not bool((small & ~large).any())


def test_images_are_made_gray_and_resized():
    x = torch.rand(2, 3, 8, 6)
    assert torch.allclose(Images(gray=True)(x), x.mean(1, keepdim=True))
    assert Images((4, 4))(x).shape == (2, 3, 4, 4)
    assert Images((8, 6))(x) is x
    assert float(Images((2, 3))(torch.ones(1, 1, 8, 6)).min()) == pytest.approx(1.0)


def test_equal_streams_are_one():
    network = Network("net", torch.nn.Identity())
    same = Network("net", network.module)
    assert Input(network, "a") == Input(network, "a")
    assert Input(network, "a") != Input(same, "a")  # a network is itself alone: prepare cannot be compared
    assert Gradient(network, "a", RandomLabels(0)) == Gradient(network, "a", RandomLabels(0))
    assert len({Gradient(network, "a", RandomLabels(s)) for s in (0, 0, 1)}) == 2
