"""What happens to images before they enter a network."""

import pytest
import torch

from convscope.core.errors import ConvscopeError
from convscope.inputs.preprocessing import Preprocessing

X = torch.rand(5, 3, 12, 10, dtype=torch.float64)


@pytest.mark.parametrize(("channels", "c"), [(3, 3), (1, 1), (3, 1), (1, 3), (None, 4)])
@pytest.mark.parametrize("size", [None, (6, 6), (20, 16)])
def test_image_by_image_in_their_own_precision(channels, c, size):
    x = torch.rand(5, c, 12, 10, dtype=torch.float64)
    prepare = Preprocessing(channels, size).measured(x)
    whole = prepare(x)
    assert whole.dtype == torch.float64
    assert whole.shape == (5, channels or c, *(size or (12, 10)))
    for i in range(5):
        assert torch.allclose(whole[i : i + 1], prepare(x[i : i + 1]), rtol=0, atol=1e-14)
    assert prepare(x.float()).dtype == torch.float32
    assert torch.allclose(prepare(x.float()).double(), whole, atol=1e-5)


def test_measured_normalisation_whitens_each_channel():
    prepare = Preprocessing(3).measured(X)
    y = prepare(X)
    assert torch.allclose(y.mean((0, 2, 3)), torch.zeros(3, dtype=torch.float64), atol=1e-12)
    assert torch.allclose(y.std((0, 2, 3), correction=0), torch.ones(3, dtype=torch.float64), atol=1e-12)
    assert "measured on the first 5 images" in prepare.notes(X)[-1]


def test_given_values_are_kept():
    given = Preprocessing(3, None, (0.5,), (0.25, 0.5, 1.0), "as given")
    assert given.measured(X) is given
    expected = (X - 0.5) / torch.tensor([0.25, 0.5, 1.0])[:, None, None]
    assert torch.allclose(given(X), expected)
    half = Preprocessing(3, None, (0.1, 0.2, 0.3), None, "as given").measured(X)
    assert half.mean == (0.1, 0.2, 0.3)
    assert half.origin.startswith("as given; the rest measured")


def test_constant_channels_are_not_divided_by_zero():
    x = X.clone()
    x[:, 1] = 0.3
    prepare = Preprocessing(3).measured(x)
    assert prepare.std[1] == pytest.approx(1.0)
    assert torch.isfinite(prepare(x)).all()
    assert "without contrast" in prepare.origin


def test_gray_and_colour():
    gray = Preprocessing(3, None, (0.0,), (1.0,))(X[:, :1])
    assert torch.equal(gray, X[:, :1].expand(-1, 3, -1, -1))
    brightness = Preprocessing(1, None, (0.0,), (1.0,))(X)
    assert torch.allclose(brightness[:, 0], 0.299 * X[:, 0] + 0.587 * X[:, 1] + 0.114 * X[:, 2])
    assert any("brightness" in note for note in Preprocessing(1).notes(X))
    with pytest.raises(ConvscopeError, match="4 channels, but the network takes 3"):
        Preprocessing(3).measured(torch.rand(1, 4, 3, 3))


@pytest.mark.parametrize(
    ("mean", "std"),
    [
        ((0.5, 0.5), (1.0,)),
        ((0.5,), (0.0,)),
        ((0.5,), (-1.0,)),
        ((float("nan"),), (1.0,)),
        ((0.5,), (float("inf"),)),
        ((), (1.0,)),
    ],
)
def test_impossible_values(mean, std):
    with pytest.raises(ConvscopeError):
        Preprocessing(3, None, mean, std)


def test_unknown_values_are_not_guessed():
    with pytest.raises(ValueError, match="call measured"):
        Preprocessing(3)(X)
