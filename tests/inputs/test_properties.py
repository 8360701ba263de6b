import math

import numpy as np
import pytest
from PIL import Image

from convscope.inputs.images import open_images
from convscope.inputs.properties import file_properties, properties_of


@pytest.mark.parametrize("quality", [10, 49, 50, 75, 90, 100])
def test_quality_is_that_which_the_file_was_written_with(tmp_path, quality):
    pixels = np.random.default_rng(0).integers(0, 255, (20, 30, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.jpg", quality=quality)
    found = properties_of([tmp_path / "a.jpg"])
    assert found["quality"] == [quality]
    assert (found["width"], found["height"]) == ([30.0], [20.0])
    assert found["bytes"] == [(tmp_path / "a.jpg").stat().st_size]


def test_formats_and_modes_are_numbered_and_unreadable_files_are_nan(tmp_path):
    pixels = np.zeros((4, 4, 3), np.uint8)
    for name in ("a.jpg", "b.png", "c.bmp"):
        Image.fromarray(pixels).save(tmp_path / name)
    Image.fromarray(pixels[..., 0]).save(tmp_path / "d.png")
    (tmp_path / "e.png").write_bytes(b"nothing")
    found = properties_of(sorted(tmp_path.iterdir()))
    assert found["format"][:4] == [1.0, 2.0, 0.0, 2.0]
    assert found["mode"][:4] == [1.0, 1.0, 1.0, 0.0]
    assert found["quality"][1:4] == [0.0, 0.0, 0.0]
    assert all(math.isnan(values[4]) for values in found.values())


def test_a_folder_tells_its_files_and_an_array_none(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        for k in range(3):
            Image.fromarray(np.full((5, 5 + k, 3), 9, np.uint8)).save(tmp_path / name / f"{k}.png")
    source = open_images(str(tmp_path), size=5)
    found = file_properties(source)
    assert found["width"] == [5.0, 6.0, 7.0] * 2
    np.savez(tmp_path / "array.npz", images=np.zeros((4, 5, 5, 3), np.uint8), labels=np.arange(4))
    assert file_properties(open_images(str(tmp_path / "array.npz"))) is None
