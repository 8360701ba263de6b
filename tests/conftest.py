"""Tests are importable from this folder, and one folder has the name of a package that pandas looks for."""

import sys

sys.modules.setdefault("bottleneck", None)  # type: ignore[arg-type]  # to pandas: not installed
