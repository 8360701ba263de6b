"""Patch moments: every path against loops, in every geometry."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles.patches import moments as oracle
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from convscope.core import correlation
from convscope.core.accumulate import Folded
from convscope.core.batches import Batch
from convscope.core.errors import ConvscopeError
from convscope.core.geometry import ConvGeometry
from convscope.core.moments import PatchMomentsAccumulator, patch_moments

METHODS = ["unfold", "strips", "fft"]


def batch_of(images: Tensor, labels: Tensor | None = None, start: int = 0) -> Batch:
    return Batch.of(images, labels, torch.arange(start, start + len(images)))


def natural(n: int, size: int, seed: int = 0, channels: int = 3) -> Tensor:
    """Smooth random images whose spectrum falls like a photograph's, mean 0.45, float64 in about [0, 1]."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(n, channels, size, size, generator=generator, dtype=torch.float64)
    frequency = torch.hypot(torch.fft.fftfreq(size)[:, None], torch.fft.rfftfreq(size)[None]).double()
    images = torch.fft.irfft2(torch.fft.rfft2(noise) / (frequency + 0.5 / size), s=(size, size))
    mix = torch.randn(channels, channels, generator=generator, dtype=torch.float64) + 2
    images = torch.einsum("kc,nchw->nkhw", mix, images)
    return 0.45 + 0.25 * images / images.std()


def error(a: Tensor, b: Tensor | np.ndarray) -> float:
    b = torch.as_tensor(b)
    return float((a - b).norm() / b.norm().clamp(min=1e-300))


def accumulate(images, geometry, **options):
    accumulator = PatchMomentsAccumulator(geometry, **options)
    accumulator.update(images, batch_of(images))
    return accumulator


@st.composite
def settings_of_a_convolution(draw):
    groups, per_group = draw(st.sampled_from([(1, 1), (1, 2), (1, 3), (2, 1), (2, 2)]))
    kernel = draw(st.tuples(st.integers(1, 4), st.integers(1, 4)))
    stride = draw(st.one_of(st.just((1, 1)), st.tuples(st.integers(1, 5), st.integers(1, 5))))
    dilation = draw(st.one_of(st.just((1, 1)), st.tuples(st.integers(1, 3), st.integers(1, 3))))
    mode = draw(st.sampled_from(["zeros", "reflect", "replicate", "circular"]))
    padding = draw(st.tuples(*[st.integers(0, 3)] * 4))
    geometry = ConvGeometry(groups * per_group, kernel, stride, padding, dilation, groups, mode)
    least = [max(e - a - b, 4) for e, a, b in zip(geometry.extent, padding[::2], padding[1::2], strict=True)]
    height, width = (draw(st.integers(n, n + 6)) for n in least)
    return geometry, draw(st.integers(1, 3)), height, width, draw(st.sampled_from([0.0, 100.0]))


@settings(max_examples=60, deadline=None, derandomize=True)
@given(settings_of_a_convolution())
def test_every_path_agrees_with_loops_in_float64(setting):
    geometry, n, height, width, offset = setting
    generator = torch.Generator().manual_seed(n * height + width)
    x = torch.randn(n, geometry.channels, height, width, generator=generator, dtype=torch.float64) + offset
    rows, columns = geometry.output_size(height, width)
    lags = [(geometry.stride[0], 0), (-geometry.stride[0], 2 * geometry.stride[1]), (0, 0)]
    lags = [
        (dy, dx) for dy, dx in lags if abs(dy) < rows * geometry.stride[0] and abs(dx) < columns * geometry.stride[1]
    ]
    expected = oracle(list(x.numpy()), geometry, lags)
    for method in METHODS:
        ours = accumulate(x, geometry, lags=lags, method=method).compute()
        assert ours.n_patches == expected["n_patches"]
        scale = float(np.linalg.norm(expected["second_moment"]))
        names = ["mean", "covariance", "second_moment", "average_patch_second_moment", "average_patch_covariance"]
        for name in names:
            value = getattr(ours, name).reshape(expected[name].shape)
            # Centred moments of images far from zero are held to the size of what was summed.
            close = 1e-10 * (scale if "covariance" in name and offset else float(np.linalg.norm(expected[name])))
            assert float((value - torch.as_tensor(expected[name])).norm()) <= close + 1e-13, (method, name)
        for lag in lags:
            value = ours.lag_covariance(*lag).reshape(expected["covariance"].shape)
            assert float((value - torch.as_tensor(expected["lags"][lag])).norm()) <= 1e-10 * scale, (method, lag)


@pytest.mark.slow
@settings(max_examples=300, deadline=None, derandomize=True)
@given(
    kernel=st.tuples(st.integers(1, 16), st.integers(1, 16)),
    stride=st.sampled_from([(1, 1), (1, 1), (2, 2), (4, 4), (3, 1)]),
    dilation=st.sampled_from([(1, 1), (1, 1), (2, 2), (1, 3)]),
    size=st.tuples(st.integers(46, 70), st.integers(46, 70)),
    n=st.integers(1, 5),
    padding=st.integers(0, 8),
    channels=st.sampled_from([1, 3, 4]),
)
def test_the_fast_paths_agree_with_unfold_for_larger_kernels(kernel, stride, dilation, size, n, padding, channels):
    geometry = ConvGeometry(channels, kernel, stride, (padding,) * 4, dilation)
    x = torch.randn(n, channels, *size, generator=torch.Generator().manual_seed(0), dtype=torch.float64) + 1
    slow = accumulate(x, geometry, method="unfold").compute()
    for method in METHODS[1:]:
        fast = accumulate(x, geometry, method=method).compute()
        for name in ("mean", "covariance", "second_moment", "average_patch_second_moment"):
            assert error(getattr(fast, name), getattr(slow, name)) < 1e-10, (method, name)
    exact = accumulate(x.float().double(), geometry, method="unfold").compute()
    for method in METHODS:
        # White noise has little but rounding off the diagonal, so its covariance is held to what was summed.
        single = accumulate(x.float(), geometry, method=method).compute()
        assert error(single.second_moment, exact.second_moment) < 1e-6, method
        assert (single.covariance - exact.covariance).norm() < 1e-6 * exact.second_moment.norm(), method


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("kernel", "stride", "size"), [(3, 1, 32), (5, 1, 32), (7, 2, 64), (7, 1, 96)])
def test_float32_holds_covariance_and_energy_profile(method, kernel, stride, size):
    geometry = ConvGeometry(3, (kernel, kernel), (stride, stride), (kernel // 2,) * 4)
    x = natural(24, size).float()
    bank = torch.randn(64, geometry.patch_dim, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    for images in (x, (x - 0.45) / 0.25, x[:, :, 4:, 4:] + 30):
        exact = accumulate(images.double(), geometry, method="unfold").compute()
        ours = accumulate(images, geometry, method=method).compute()
        assert ours.covariance.dtype == torch.float64
        assert (ours.mean - exact.mean).norm() < 1e-6 * exact.second_moment.trace().sqrt()
        for name in ("second_moment", "covariance", "average_patch_covariance"):
            assert error(getattr(ours, name), getattr(exact, name)) < 1e-6, name
        if images.mean() < 1:
            energies = [(bank @ m.eigenvectors).square().mean(0) for m in (ours, exact)]
            if geometry.patch_dim > 100:
                # Among so many eigenvalues some lie closer than float32 can tell apart, whatever the path.
                gap = -exact.eigenvalues.diff() > 1e-3 * exact.eigenvalues[0]
                apart = torch.cat([gap[:1], gap[1:] & gap[:-1], gap[-1:]])
                assert apart.sum() >= 5
                energies = [e[apart] for e in energies]
            assert error(energies[0].sqrt(), energies[1].sqrt()) < 1e-4


@pytest.mark.parametrize("method", METHODS)
def test_float32_holds_the_covariance_of_images_far_from_zero(method):
    x = (natural(12, 32) + 30).float()
    for groups in (1, 3):
        geometry = ConvGeometry(3, (3, 3), groups=groups)
        options = {"lags": [(2, -1)], "classes": 3}
        exact, ours = PatchMomentsAccumulator(geometry, **options), PatchMomentsAccumulator(geometry, **options)
        labels = torch.arange(12) % 3
        exact.method, ours.method = "unfold", method
        exact.update(x.double(), batch_of(x, labels))
        ours.update(x, batch_of(x, labels))
        a, b = ours.compute(), exact.compute()
        assert error(a.covariance, b.covariance) < 1e-6
        assert error(a.average_patch_covariance, b.average_patch_covariance) < 1e-6
        assert error(a.lag_covariance(2, -1), b.lag_covariance(2, -1)) < 1e-6
        assert error(a.class_means - a.mean, b.class_means - b.mean) < 1e-6


def test_any_batching_any_method_and_any_merging_give_the_same_sums():
    geometry = ConvGeometry(3, (3, 3), padding=(1, 1, 1, 1))
    x, labels = natural(23, 12), torch.arange(23) % 4
    options = {"lags": [(0, 2), (3, -1)], "classes": 4}
    whole = PatchMomentsAccumulator(geometry, **options)
    whole.update(x, batch_of(x, labels))
    parts = []
    for k, (start, stop) in enumerate([(0, 1), (1, 8), (8, 20), (20, 23)]):
        part = PatchMomentsAccumulator(geometry, method=["auto", *METHODS][k], **options)
        part.update(x[start:stop], batch_of(x[start:stop], labels[start:stop], start))
        parts.append(part)
    merged = PatchMomentsAccumulator(geometry, **options)
    for k in (2, 0, 3, 1):
        merged.merge(parts[k])
    reloaded = PatchMomentsAccumulator(geometry, **options)
    reloaded.load_state_dict(merged.state_dict())
    folded = Folded(lambda: PatchMomentsAccumulator(geometry, **options), 5)
    folded.update(x[:9], batch_of(x[:9], labels[:9]))
    folded.update(x[9:], batch_of(x[9:], labels[9:], 9))
    for other in (merged, reloaded, folded.parts):
        sums = other.sums if not isinstance(other, list) else None
        for name, value in whole.sums.items():
            total = sums[name] if sums else sum(part.sums[name] for part in other)
            assert error(total.double(), value.double()) < 1e-12, name
    assert folded.counts == [int(part.sums["images"]) for part in folded.parts]
    for k, part in enumerate(folded.parts):
        mine = x[batch_of(x).fold % 5 == k]
        assert (
            error(part.compute().covariance, accumulate(mine, geometry, method="unfold").compute().covariance) < 1e-10
        )


def test_images_of_different_sizes_and_their_average_patches():
    geometry = ConvGeometry(2, (2, 3), (1, 2), (1, 0, 0, 1))
    small, large = torch.randn(2, 2, 5, 6).double(), torch.randn(3, 2, 9, 4).double()
    ours = patch_moments([small, large], geometry, lags=[(1, 0), (0, 4), (0, 8)])
    expected = oracle([*small.numpy(), *large.numpy()], geometry, [(1, 0), (0, 4)])
    for name in ("mean", "covariance", "average_patch_covariance"):
        assert error(getattr(ours, name), expected[name][0]) < 1e-10
    for lag in ((1, 0), (0, 4)):
        assert error(ours.lag_covariance(*lag), expected["lags"][lag][0]) < 1e-10
    assert set(ours.lagged) == {(1, 0), (0, 4)}
    with pytest.raises(ConvscopeError, match="no image holds two patches 0 rows and 8 columns apart"):
        ours.lag_covariance(0, 8)


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("offset", [0.0, 50.0])
def test_class_means_are_mean_average_patches(groups, offset):
    geometry = ConvGeometry(2, (2, 2), groups=groups)
    x, labels = torch.randn(7, 2, 5, 5).double() + offset, torch.tensor([0, 2, 2, 0, 3, 0, 2])
    ours = patch_moments([(x[:3], labels[:3]), (x[3:], labels[3:])], geometry, classes=5)
    averages = torch.from_numpy(oracle(list(x.numpy()), geometry)["averages"]).transpose(0, 1)
    averages = averages[:, 0] if groups == 1 else averages
    assert ours.class_counts.tolist() == [3, 0, 3, 1, 0]
    for k in (0, 2, 3):
        assert error(ours.class_means[k], averages[labels == k].mean(0)) < 1e-12
    assert ours.class_means[[1, 4]].isnan().all()


def test_autocorrelation_by_the_trace_identity_is_that_of_the_responses():
    torch.manual_seed(0)
    conv = nn.Conv2d(3, 6, 3, bias=False).double()
    x = natural(5, 16)
    lags = [(0, 0), (0, 1), (2, 0), (4, -3)]
    moments = patch_moments(x, conv, lags=lags)
    w = conv.weight.detach().flatten(1)
    m = w.T @ w
    y = conv(x).detach() - (w @ moments.mean)[:, None, None]
    for dy, dx in lags:
        here = y[:, :, max(-dy, 0) : 14 - max(dy, 0), max(-dx, 0) : 14 - max(dx, 0)]
        there = y[:, :, max(dy, 0) : 14 + min(dy, 0), max(dx, 0) : 14 + min(dx, 0)]
        brute = (here * there).sum(1).mean()
        assert abs(float((m * moments.lag_covariance(dy, dx)).sum() / brute) - 1) < 1e-10
    torch.testing.assert_close(moments.lag_covariance(0, 0), moments.covariance)


def test_principal_components_are_sorted_and_signed():
    moments = patch_moments(natural(8, 16), nn.Conv2d(3, 1, 3))
    values, vectors = moments.eigenvalues, moments.eigenvectors
    assert (values.diff() <= 0).all()
    assert (values >= 0).all()
    torch.testing.assert_close(vectors @ values.diag() @ vectors.T, moments.covariance, rtol=1e-9, atol=1e-12)
    assert (vectors.gather(0, vectors.abs().argmax(0, keepdim=True)) > 0).all()
    gray = patch_moments(natural(8, 16)[:, :1].expand(-1, 3, -1, -1), nn.Conv2d(3, 1, 3))
    assert (gray.eigenvalues >= 0).all()
    assert (gray.eigenvalues[9:] < 1e-12 * gray.eigenvalues[0]).all()


@pytest.mark.parametrize(
    ("given_as", "arithmetic", "close"),
    [
        (torch.uint8, None, 1e-12),
        (torch.int64, None, 1e-12),
        (torch.float64, None, 1e-12),
        (torch.float32, torch.float64, 1e-12),
        (torch.float64, torch.float32, 1e-6),
        (torch.float16, None, 1e-6),
        (torch.bfloat16, None, 1e-6),
    ],
)
def test_arithmetic_follows_the_dtype(given_as, arithmetic, close):
    geometry = ConvGeometry(3, (3, 3))
    x = torch.randint(0, 128, (6, 3, 10, 10)).to(given_as)
    ours = accumulate(x, geometry, dtype=arithmetic).compute()
    exact = accumulate(x.double(), geometry, method="unfold").compute()
    assert error(ours.covariance, exact.covariance) < close
    assert ours.mean.dtype == ours.average_patch_covariance.dtype == torch.float64


def test_the_public_function_takes_tensors_loaders_and_batches():
    conv, x, labels = nn.Conv2d(3, 4, 3, padding="same"), natural(10, 8), torch.arange(10) % 2
    expected = accumulate(x, ConvGeometry.of(conv)).compute().covariance
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x, labels), batch_size=4)
    for images in (x, [x[:3], x[3:]], loader, [batch_of(x[:6]), batch_of(x[6:], start=6)], iter([(x,)])):
        assert error(patch_moments(images, conv).covariance, expected) < 1e-12
    assert patch_moments(x, conv).n_images == 10
    with pytest.raises(TypeError, match="str"):
        patch_moments(["image.png"], conv)
    with pytest.raises(TypeError, match="Linear"):
        patch_moments(x, nn.Linear(2, 2))


def test_what_cannot_be_analysed_is_said_in_one_line_and_nothing_is_added():
    geometry = ConvGeometry(3, (3, 3), padding=(1, 1, 1, 1))
    x = torch.randn(6, 3, 8, 8)
    bad = x.clone()
    bad[2, 1, 0, 0], bad[4, 0, 7, 7] = math.nan, math.inf
    reflect = ConvGeometry(3, (3, 3), padding=(4, 4, 4, 4), padding_mode="reflect")
    cases = [
        (geometry, bad, None, r"2 of 6 images hold NaN or infinite values \(first: image 2\)"),
        (geometry, x * 1e30, None, "too large"),
        (geometry, x[:, :2], None, r"takes images \[n, 3, h, w\], got \[6, 2, 8, 8\]"),
        (geometry, x[0], None, "takes images"),
        (ConvGeometry(3, (9, 9)), x, None, "8x8 pixels are smaller than the kernel, which spans 9x9"),
        (reflect, x[..., :3, :3], None, "3x3 pixels are too small for reflect padding"),
        (geometry, x, 3, "no labels"),
    ]
    for method in METHODS:
        for g, images, classes, message in cases:
            accumulator = PatchMomentsAccumulator(g, classes=classes, method=method)
            with pytest.raises(ConvscopeError, match=message) as caught:
                accumulator.update(images, batch_of(images))
            assert "\n" not in str(caught.value)
            assert not accumulator.sums
    accumulator = PatchMomentsAccumulator(geometry, classes=3)
    with pytest.raises(ConvscopeError, match=r"labels must lie in 0 ... 2, got 0 ... 5"):
        accumulator.update(x, batch_of(x, torch.arange(6)))
    with pytest.raises(ConvscopeError, match="at least one image"):
        accumulator.compute()
    accumulator.update(x[:0], batch_of(x[:0], torch.arange(0)))
    assert not accumulator.sums


def test_wrong_arguments_are_refused():
    geometry = ConvGeometry(3, (3, 3), stride=(2, 3))
    for wrong in ({"lags": [(1, 0)]}, {"lags": [(2, 2)]}, {"dtype": torch.float16}, {"method": "fast"}, {"classes": 0}):
        with pytest.raises(ValueError, match="must"):
            PatchMomentsAccumulator(geometry, **wrong)
    with pytest.raises(ValueError, match="not requested"):
        patch_moments(natural(2, 8), geometry, lags=[(2, 0)]).lag_covariance(0, 3)


class Largest(TorchDispatchMode):
    """Remembers the bytes of the largest storage that any operation made, that of the images left out."""

    def __init__(self, images: Tensor) -> None:
        super().__init__()
        self.bytes, self.images = 0, images.untyped_storage().data_ptr()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for t in tree_leaves(out):
            if isinstance(t, Tensor) and t.untyped_storage().data_ptr() != self.images:
                self.bytes = max(self.bytes, t.untyped_storage().nbytes())
        return out


@pytest.mark.parametrize("method", METHODS)
def test_no_tensor_outgrows_the_bound_on_memory(method, monkeypatch):
    monkeypatch.setattr(correlation, "CHUNK_BYTES", 2**20)
    geometry = ConvGeometry(3, (5, 5), padding=(2, 2, 2, 2))
    x = natural(24, 64)  # 57.6 MB as patches, 2.4 MB as images
    folded = Folded(lambda: PatchMomentsAccumulator(geometry, method=method), 4)
    with Largest(x) as seen:
        folded.update(x[:12], batch_of(x[:12]))
        folded.update(x[12:], batch_of(x[12:], start=12))
    assert seen.bytes <= 2**20
    assert error(folded.compute().covariance, accumulate(x, geometry).compute().covariance) < 1e-12


def test_one_large_image_is_unfolded_in_slabs(monkeypatch):
    monkeypatch.setattr(correlation, "CHUNK_BYTES", 2**18)
    geometry = ConvGeometry(1, (5, 5), (2, 2))
    x = natural(1, 128, channels=1)
    with Largest(x) as seen:
        ours = accumulate(x, geometry, method="unfold").compute()
    assert seen.bytes <= 2**18
    patches = F.unfold(x, 5, stride=2)[0]
    assert error(ours.covariance, torch.cov(patches, correction=0)) < 1e-10
