"""The documentation's tables are what the stored results say."""

from pathlib import Path

import pytest

from convscope.papers import record, table
from convscope.papers.registry import Row, experiments

ROOT = Path(__file__).parents[2]
STORED = "docs/results/cpu.json"


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
