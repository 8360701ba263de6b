from functools import partial

import pytest
import torch
from oracles.conv_kernel import patches

from convscope.rfm.architecture import Architecture
from convscope.rfm.maps import Filtered, Filters, Parts, identities
from convscope.rfm.plain import products


def images(n, c=2, h=7, w=6, seed=0):
    return torch.randn(n, c, h, w, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def filtered(x, filters, architecture):
    return Filtered(x, filters, architecture, identities(x)[0])


@pytest.mark.parametrize("metric", [False, True])
@pytest.mark.parametrize(("padding", "stride", "q"), [("valid", 1, 3), ("first", 2, 2), ("same", 1, 4), ("same", 2, 3)])
def test_products_of_maps_are_covariances_of_patches(padding, stride, q, metric):
    x, z = images(2), images(3, seed=1)
    root = torch.randn(5, 2 * q * q, dtype=torch.float64) if metric else None
    architecture = Architecture(1, q, padding, stride)
    left, right = (filtered(part, Filters.of(root), architecture).maps() for part in (x, z))
    k = products(left, right, architecture)
    arguments = q, padding, stride, None if root is None else root.numpy()
    for i in range(2):
        px = patches(x[i].numpy(), *arguments)
        for a, patch in px.items():
            assert float(left.norms[i][a]) == pytest.approx(patch @ patch)
        for j in range(3):
            pz = patches(z[j].numpy(), *arguments)
            for a in px:
                assert float(k[i, j][a]) == pytest.approx(px[a] @ pz[a])


def test_many_images_at_once_are_each_alone():
    x = images(600, 1, 3, 3)
    for filters in (Filters(), Filters.of(torch.eye(4)[:2])):
        together, alone = (filtered(part, filters, Architecture(1, 2)).maps() for part in (x, x[300:301]))
        torch.testing.assert_close(together[300:301].values, alone.values)
        torch.testing.assert_close(together[300:301].norms, alone.norms)


def test_filters_hold_the_metric_with_orthogonal_rows():
    root = torch.randn(9, 6, dtype=torch.float64)
    weight = Filters.of(root).weight
    torch.testing.assert_close(weight.mT @ weight, root.mT @ root)
    gram = weight @ weight.mT
    torch.testing.assert_close(gram, gram.diagonal().diag(), atol=1e-12, rtol=0)


def test_metric_of_low_rank_needs_few_filters_without_tolerance():
    root = torch.randn(9, 2, dtype=torch.float64) @ torch.randn(2, 9, dtype=torch.float64)
    assert len(Filters.of(root).weight) == 2


@pytest.mark.parametrize(("tolerance", "rank"), [(0.0, 3), (0.009, 3), (0.011, 2), (0.109, 2), (0.12, 1), (0.9, 1)])
def test_tolerance_is_the_share_of_the_trace_left_out(tolerance, rank):
    root = torch.tensor([0.89, 0.1, 0.01], dtype=torch.float64).sqrt().diag()
    filters = Filters.of(root, tolerance)
    assert len(filters.weight) == rank
    assert float(filters.weight.square().sum()) == pytest.approx([0.89, 0.99, 1.0][rank - 1])


@pytest.mark.parametrize("bad", [torch.zeros(2, 2), torch.full((2, 2), float("nan")), torch.ones(3)])
def test_roots_that_are_no_metric_are_refused(bad):
    with pytest.raises(ValueError, match="metric_root must be a matrix"):
        Filters.of(bad)


def test_identity_is_equality_of_all_pixels_within_and_across_sets():
    x = images(4)
    x[2] = x[0]
    z = torch.cat([x[3:], images(1, seed=9)])
    z[0, 0, 0, 0] = 0.0
    x[3, 0, 0, 0] = -0.0
    first, second = identities(x, z)
    assert first[0] == first[2] != first[1]
    assert second[0] == first[3]
    assert second[1] not in first
    nearly = x.clone()
    nearly[1, 0, 0, 0] += 1e-12
    assert identities(x, nearly)[1][1] != first[1]


@pytest.mark.parametrize("metric", [False, True])
@pytest.mark.parametrize("padding", ["valid", "first", "same"])
def test_bytes_of_maps_are_those_that_maps_hold(metric, padding):
    x, filters, architecture = images(5), Filters.of(torch.eye(18) if metric else None), Architecture(1, 3, padding)
    seen = filtered(x, filters, architecture)
    maps = seen.maps()
    assert 5 * seen.bytes_of_image == maps.values.nbytes + maps.norms.nbytes


@pytest.mark.parametrize("metric", [False, True])
def test_maps_of_features_are_those_of_images_that_equal_them(metric):
    x, filters, architecture = images(70), Filters.of(torch.eye(9) if metric else None), Architecture(1, 3)
    features = partial(torch.sum, dim=1, keepdim=True)
    seen = Filtered(x, filters, architecture, identities(x)[0], features)
    expected = filtered(features(x), filters, architecture)
    assert seen.bytes_of_image == expected.bytes_of_image
    torch.testing.assert_close(seen[65:].maps().values, expected.maps().values[65:])
    torch.testing.assert_close(seen[65:].maps().norms, expected.maps().norms[65:])


def test_parts_hold_every_image_once_and_no_more_than_memory_allows():
    seen = filtered(images(7), Filters(), Architecture(1, 3))
    for memory, sizes in ((1, [1] * 7), (3 * seen.bytes_of_image, [3, 3, 1]), (2**20, [7])):
        parts = Parts(seen, memory)
        found = [parts[part] for part in parts.slices]
        assert [len(maps) for maps in found] == sizes
        assert parts.bytes == sizes[0] * seen.bytes_of_image
        torch.testing.assert_close(torch.cat([maps.norms for maps in found]), seen.maps().norms)
        assert torch.equal(torch.cat([maps.identity for maps in found]), seen.identity)
