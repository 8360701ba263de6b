"""The command line. Nothing heavy is imported before a command runs."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import click

_COMMANDS = {
    "report": "What did this network learn, and how much of it was predictable from the images?",
    "data": "What can be said of images before any training.",
    "dynamics": "In which order would a network learn these images?",
    "shortcuts": "What betrays a class without being its object?",
    "ansatz": "In which convolutions do the filters line up with the patches that drive the outputs?",
    "bottleneck": "Which frequencies and channels does this network keep?",
    "rfm": "Does a kernel machine that learns which patches matter beat one that does not?",
    "compare": "Do several networks listen to the same directions of image space?",
    "render": "Rebuild the page from a saved report.json.",
    "papers": "Reproduce the papers' experiments.",
}


class _Lazy(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        command: click.Command = getattr(import_module(f"convscope.cli.{cmd_name}"), cmd_name)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(_COMMANDS.items()))

    def invoke(self, ctx: click.Context) -> Any:
        from convscope.core.errors import ConvscopeError

        try:
            return super().invoke(ctx)
        except (ConvscopeError, ValueError) as error:
            # One line, whatever a file name holds.
            text = " ".join("".join(c if c.isprintable() else " " for c in str(error)).split())
            raise click.ClickException(text) from None
        except MemoryError:
            raise click.ClickException(
                "not enough memory: use fewer or smaller images (--limit, --size) or a smaller --max-memory"
            ) from None


@click.group(cls=_Lazy, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="convscope")
def main() -> None:
    """Measures, predicts and explains what a convolutional network learned from its data.

    `convscope report` without arguments trains small networks on photographs that ship with scikit-image and
    reports on them in minutes.
    """
