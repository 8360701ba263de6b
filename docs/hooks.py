"""What the site needs beyond plugins: notebooks as ordinary pages, in the site's style and without scripts."""

import re
from pathlib import PurePosixPath
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from nbconvert import MarkdownExporter


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Returns the site's files with each notebook as a Markdown page and its pictures beside it."""
    for notebook in [f for f in files if f.src_uri.endswith(".ipynb") and f.inclusion.is_included()]:
        page = PurePosixPath(notebook.src_uri).with_suffix("")
        # Exporters put this in front of each picture's name, on the page and in the list of pictures.
        resources = {"output_files_dir": f"{page.name}-pictures", "unique_key": "output"}
        text, made = MarkdownExporter().from_filename(notebook.abs_src_path, resources=resources)
        files.remove(notebook)
        files.append(File.generated(config, f"{page}.md", content=text))
        for name, content in made["outputs"].items():
            files.append(File.generated(config, str(page.parent / name), content=content))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Returns a page whose links to notebooks, right where the repository is read, lead to their pages."""
    return re.sub(r"(\]\((?!https?:)[^)\s]*)\.ipynb(?=[)#])", r"\1.md", markdown)
