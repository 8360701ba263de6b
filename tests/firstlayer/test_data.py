import json
import math

import pytest
import torch
from firstlayer_runs import images, source_of
from sources import ArraySource
from torch import nn

from convscope.analyse import analyse
from convscope.core.errors import ConvscopeError
from convscope.core.network import Network
from convscope.core.passes import Pass
from convscope.firstlayer.data import Data


def told_of(source, conv=None):
    conv = conv or nn.Conv2d(source.images.shape[1], 1, 3, padding=1)
    p = Pass(source, {"model": Network("patches of 3x3 pixels", conv)})
    (result,), _ = analyse(p, [Data()])
    for finding in result.findings():
        assert "nan" not in finding.text
        assert finding.text.endswith(".")
    assert {n.definition for n in result.numbers.values()} <= set(result.definitions())
    json.dumps(result.to_json(), allow_nan=False)
    return result


def test_every_number_is_there():
    result = told_of(source_of(images(), torch.arange(48) // 4 % 3))
    assert set(result.numbers) == {
        "leading_share", "dimension", "peak", "response_raw", "response_perfect", "label_first", "label_second",
        "label_index",
    }  # fmt: skip
    assert all(n.spread is not None for key, n in result.numbers.items() if key != "label_second")
    assert not result.skipped
    assert result.layers() == {}
    assert list(result.figures()) == [
        "predicted profiles", "spectrum", "principal patches", "labels", "labels, contrast", "pixels",
        "average patches",
    ]  # fmt: skip
    assert len(result.findings()) == 4


def test_numbers_are_those_of_the_covariance():
    x = images(40)
    result = told_of(ArraySource(x), nn.Conv2d(3, 1, 2))
    patches = nn.functional.unfold(x.double(), 2).transpose(1, 2).reshape(-1, 12)
    values = torch.linalg.eigvalsh(torch.cov(patches.T, correction=0))
    assert result.numbers["leading_share"].value == pytest.approx(float(values.max() / values.sum()), rel=1e-9)
    assert result.numbers["dimension"].value == pytest.approx(
        float(values.sum() ** 2 / values.square().sum()), rel=1e-9
    )
    assert result.curves["response_raw"][0] == pytest.approx(1.0)
    assert 0 < result.curves["response_raw"][1] < 1


def test_unlabelled_images():
    result = told_of(source_of(images()))
    assert [s.what for s in result.skipped] == ["dependence on the labels"]
    assert not any("label" in f.text for f in result.findings())


def test_labels_that_shift_the_images_are_told():
    labels = torch.arange(48) // 4 % 2
    shifted = images() + labels.view(-1, 1, 1, 1) * 2.0
    text = told_of(source_of(shifted, labels)).findings()[-1].text
    assert "tells its label" in text or "tell its label" in text
    assert "may depend on it" in text


def test_labels_without_information_are_told():
    labels = torch.randint(0, 2, (48,), generator=torch.Generator().manual_seed(4))
    text = told_of(ArraySource(images(), labels)).findings()[-1].text
    assert "not" in text
    assert "may depend" not in text


def test_patches_of_one_entry_have_no_spectrum_to_speak_of():
    result = told_of(source_of(images(40, 1)), nn.Conv2d(1, 1, 1))
    assert not any("directions" in f.text for f in result.findings())
    assert result.numbers["leading_share"].value == pytest.approx(1.0)


def test_the_strongest_direction_may_be_the_predicted_one():
    # White noise: no direction is stronger, so nothing can be equalised before the rest.
    x = torch.randn(200, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    x[:, :, :, ::2] *= 1e-3
    result = told_of(ArraySource(x), nn.Conv2d(1, 1, 2, stride=2))
    peak = int(result.numbers["peak"].value)
    text = next(f.text for f in result.findings() if "training age" in f.text)
    assert f"direction {peak} of 4" in text
    assert ("not to the strongest" in text) == (1 < peak < 4)


def test_constant_images_have_nothing_to_say():
    with pytest.raises(ConvscopeError, match="constant"):
        told_of(ArraySource(torch.ones(10, 1, 8, 8)), nn.Conv2d(1, 1, 3))


def test_when_only_one_image_varies_there_are_no_error_bars():
    x = torch.ones(20, 1, 8, 8)
    x[3] = images(1, 1, 8)[0]
    result = told_of(ArraySource(x), nn.Conv2d(1, 1, 3))
    assert result.numbers["leading_share"].spread is None
    assert math.isfinite(result.numbers["leading_share"].value)
