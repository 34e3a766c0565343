"""Sphinx's settings. `make docs` builds docs/_build/html with warnings as errors, and without the network."""

from __future__ import annotations

import re
from typing import Any

import convext

project = "convext"
author = "convext contributors"
project_copyright = "convext contributors, BSD-3-Clause"
release = version = convext.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_build"]
source_suffix = {".md": "markdown", ".rst": "restructuredtext"}
root_doc = "index"

myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3

html_theme = "furo"
html_title = f"convext {release}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_copy_source = False

autodoc_inherit_docstrings = False  # what only torch describes is not listed
autodoc_member_order = "bysource"
autodoc_typehints = "none"  # the signatures have no room for them, and the docstrings say shapes
autodoc_preserve_defaults = True
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_rtype = False
napoleon_use_param = True
napoleon_use_ivar = True

pygments_style = "friendly"
pygments_dark_style = "monokai"

nitpicky = False


def _marked_up(line: str) -> str:
    """A line of a docstring, which is text for people: its asterisks and bars are no markup, pages are links."""
    parts = re.split(r"(``.*?``|:\w+:`.*?`)", line)
    plain = [re.sub(r"([*|])", r"\\\1", part) for part in parts[::2]]
    parts[::2] = [re.sub(r"\bdocs/(\w+)\.md", r":doc:`/\1`", part) for part in plain]
    return "".join(parts)


def _process_docstring(app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    lines[:] = [_marked_up(line) for line in lines]


def _name_files_outside(app: Any, page: str, source: list[str]) -> None:
    """A link out of docs/ leads somewhere in the repository alone; the site names the file."""
    source[0] = re.sub(r"\[([^\]]*)\]\(\.\./([^)]*)\)", r"\1: `\2`", source[0])


def setup(app: Any) -> None:
    app.connect("source-read", _name_files_outside)
    app.connect("autodoc-process-docstring", _process_docstring, priority=100)  # before napoleon makes fields of them
