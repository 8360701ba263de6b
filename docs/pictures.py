"""Makes the site's pictures: of the report without arguments, and of a kernel machine that looks for a star."""

import tempfile
from pathlib import Path

import matplotlib as mpl
import numpy as np

import convscope
from convscope.cli import main
from convscope.rfm.tasks import star

HERE = Path(__file__).parent / "pictures"
OF_THE_REPORT = {
    "firstlayer": ("energy profile", "fits"),
    "dynamics": ("learning", "modes"),
    "ansatz": ("alignment", "views"),
    "bottleneck": ("directions by depth", "two levels in the weights"),
    "shortcuts": ("frequencies",),
}
OF_THE_MACHINE = {"rfm": ("gain", "views")}


def draw(path: Path, wanted: dict[str, tuple[str, ...]]) -> None:
    """Writes the wanted figures of a saved report, the same ones byte for byte from the same report."""
    for result in convscope.read_report(path).results:
        figures = result.figures()
        for name in wanted.get(result.kind, ()):
            target = HERE / f"{result.kind}-{name.replace(' ', '-')}.svg"
            with mpl.rc_context({"svg.hashsalt": "convscope"}):
                figures[name].savefig(target, bbox_inches="tight", metadata={"Date": None})


def stars(path: Path, images: slice) -> None:
    """Writes images of noise, every other one with a small star: a class that is in a small part of the image."""
    task = star(450)
    pixels = np.clip(task.images[images] / 3 + 0.45, 0, 1)  # files hold values from 0 to 1
    np.savez(path, images=pixels, labels=task.labels[images])


if __name__ == "__main__":
    HERE.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        report, machine = folder / "report.html", folder / "rfm.html"
        main(["report", "--quiet", "-o", str(report)], standalone_mode=False)
        draw(report.with_suffix(".json"), OF_THE_REPORT)
        train, test = folder / "train.npz", folder / "test.npz"
        stars(train, slice(50))
        stars(test, slice(50, None))
        options = [
            "--patch-size",
            "11",
            "--depth",
            "1",
            "--iterations",
            "2",
            "--centre",
            "--quiet",
        ]
        main(
            ["rfm", str(train), "--test", str(test), *options, "-o", str(machine)],
            standalone_mode=False,
        )
        draw(machine.with_suffix(".json"), OF_THE_MACHINE)
