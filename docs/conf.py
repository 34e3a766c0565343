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


def _links_to_pages(app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Docstrings name pages as files of the repository, docs/padding.md; here they are links."""
    for i, line in enumerate(lines):
        lines[i] = re.sub(r"\bdocs/(\w+)\.md", r":doc:`/\1`", line)


def setup(app: Any) -> None:
    app.connect("autodoc-process-docstring", _links_to_pages)
