"""The documentation's tables are what the stored results say."""

from pathlib import Path

import pytest

from convscope.papers import record, table
from convscope.papers.registry import Row, experiments

ROOT = Path(__file__).parents[2]
STORED = "docs/results/cpu.json"
RESNETS = ("ResNet-20", "ResNet-56")


@pytest.fixture(scope="module")
def stored():
    return record.read(ROOT / STORED)


def test_pages_are_made_from_them(stored, tmp_path):
    table.write_pages(stored, STORED, tmp_path / "reproduction.md")
    made = {path.relative_to(tmp_path) for path in tmp_path.rglob("*.md")}
    assert made == {path.relative_to(ROOT / "docs") for path in (ROOT / "docs").glob("reproduction/*.md")} | {
        Path("reproduction.md")
    }
    for path in made:
        again = f"run convscope papers {STORED} -o docs/reproduction.md"
        assert (tmp_path / path).read_text() == (ROOT / "docs" / path).read_text(), again


def test_the_readme_shows_their_summary(stored):
    assert table.summary(stored) in (ROOT / "README.md").read_text()


def test_no_experiment_is_missing(stored):
    assert set(stored) == set(experiments())
    assert {found["scale"] for found in stored.values()} == {"cpu"}
    assert {found["status"] for found in stored.values()} <= {record.DONE, record.MISSING}


def test_what_does_not_agree_has_its_reason(stored):
    rows = [Row.from_json(row) for found in stored.values() for row in found.get("rows", [])]
    assert [row.quantity for row in rows if row.shortfall == "no reason found"] == []


def test_the_page_on_trained_networks_says_what_is_stored(stored):
    text = " ".join((ROOT / "docs/what-trained-networks-keep.md").read_text().split())
    ours = {
        row.quantity.partition(" (")[0]: row.ours
        for name in ("pretrained", "compression")
        for row in map(Row.from_json, stored[f"wen2024/{name}"]["rows"])
    }
    directions = "dimensions for 99 % of the variance, narrowest convolution"
    small, deep = (ours[f"{name}, CIFAR-10: {directions}"] for name in RESNETS)
    over = ours[f"ResNet-20, CIFAR-10: {directions}, over those of the input"]
    assert f"the images themselves fill about {small.value / over.value:.0f}" in text
    assert f"has {small.value:,.0f} of 4,096 (untrained about {round(small.chance[0], -2):,.0f})" in text
    assert f"its last convolution has {deep.value:.0f} directions" in text
    align = [number.value for quantity, number in ours.items() if "alignment of singular values" in quantity]
    assert f"the medians are {min(align):.2f} to {max(align):.2f}" in text
    kept = [100 * ours[f"{name}, CIFAR-10: stored numbers after compression, share"].value for name in RESNETS]
    assert "ResNet-20 keeps {:.0f} % of its stored numbers and ResNet-56 {:.0f} %".format(*kept) in text
    lost = [100 * ours[f"{name}, CIFAR-10: accuracy lost"].value for name in RESNETS]
    assert "lose, {:.3g} and {:.3g} points".format(*lost) in text
