"""The notebooks are small, were executed as they stand, load nothing from outside, and run again."""

import re
import time
from pathlib import Path

import pytest

nbformat = pytest.importorskip("nbformat")

FOLDER = Path(__file__).parents[2] / "docs" / "notebooks"
NAMES = ("first-layer", "dynamics-and-shortcuts", "ansatz-and-convrfm", "bottleneck")
LARGEST = 10**6  # bytes
PATIENCE = 300  # seconds for the whole of one notebook
LOADED = re.compile(r"""(?:\b(?:src|href)\s*=|url\(|@import)\s*["']?\s*(?:https?:)?//""", re.IGNORECASE)
# A home, a temporary folder, an installed package, or a path of Windows.
OF_A_MACHINE = re.compile(
    r"(?:^|[\s\"'(=])(?:/(?:home|root|tmp|work|usr|opt|var|Users|private)/|[A-Z]:\\)|site-packages"
)


@pytest.fixture(params=NAMES)
def notebook(request):
    return nbformat.read(FOLDER / f"{request.param}.ipynb", as_version=4)


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def texts(output):
    """Returns all that an output says in words, pictures left out."""
    if output.output_type == "stream":
        return [output.text]
    if output.output_type == "error":
        return [*output.traceback, output.evalue]
    return [text for kind, text in output.data.items() if not kind.startswith("image/") or kind == "image/svg+xml"]


def spoken(notebook):
    return [text for cell in code_cells(notebook) for output in cell.outputs for text in texts(output)]


def test_there_are_exactly_these_notebooks_and_the_index_names_each():
    assert {path.stem for path in FOLDER.glob("*.ipynb")} == set(NAMES)
    index = (FOLDER / "index.md").read_text()
    assert re.findall(r"\]\(([\w-]+)\.ipynb\)", index) == list(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_is_small(name):
    assert (FOLDER / f"{name}.ipynb").stat().st_size < LARGEST


def test_it_is_valid_and_short(notebook):
    nbformat.validate(notebook)
    assert notebook.metadata.kernelspec.name == "python3"
    assert 8 <= len(code_cells(notebook)) <= 15


def test_every_cell_was_executed_in_order_without_error(notebook):
    cells = code_cells(notebook)
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    assert not any(output.output_type == "error" for cell in cells for output in cell.outputs)
    assert not any("Traceback (most recent call last)" in text for text in spoken(notebook))


def test_nothing_but_results_was_printed(notebook):
    """Neither warnings nor progress bars, both of which go to the standard error."""
    outputs = [output for cell in code_cells(notebook) for output in cell.outputs]
    assert not [output.text for output in outputs if output.get("name") == "stderr"]


def test_it_shows_pictures(notebook):
    outputs = [output for cell in code_cells(notebook) for output in cell.outputs if "data" in output]
    assert sum(any(kind.startswith("image/") for kind in output.data) for output in outputs) >= 4


def test_outputs_load_nothing_from_outside_and_name_no_path_of_a_machine(notebook):
    for text in spoken(notebook):
        assert not LOADED.search(text)
        assert not OF_A_MACHINE.search(text)
    assert not any(cell.attachments for cell in notebook.cells if "attachments" in cell)


def test_its_last_cell_checks_what_it_says(notebook):
    assert code_cells(notebook)[-1].source.count("assert ") >= 4


@pytest.mark.parametrize(
    "text", ["<img src='https://x.org/a.png'>", "<script src=//x.org/a.js>", "a { background: url(http://x.org/b) }"]
)
def test_what_loads_from_outside_is_seen(text):
    assert LOADED.search(text)


@pytest.mark.parametrize("text", ["in /home/me/images", "'/tmp/x.py'", "lib/site-packages/torch", "C:\\data"])
def test_paths_of_machines_are_seen(text):
    assert OF_A_MACHINE.search(text)


@pytest.mark.parametrize("text", ["see https://arxiv.org/abs/2206.02454", "train/test", "8/255", "a / tmp / b"])
def test_what_is_harmless_passes(text):
    assert not LOADED.search(text)
    assert not OF_A_MACHINE.search(text)


@pytest.mark.slow
def test_it_runs_again(notebook, tmp_path, monkeypatch):
    """The last cell's checks hold on this machine, too."""
    client = pytest.importorskip("nbclient")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    resources = {"metadata": {"path": str(tmp_path)}}
    begin = time.monotonic()
    client.NotebookClient(notebook, timeout=PATIENCE, kernel_name="python3", resources=resources).execute()
    assert time.monotonic() - begin < PATIENCE
