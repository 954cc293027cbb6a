"""Sphinx's configuration; pictures, tables of options and of models' figures are made when a build starts."""

import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

import pictures  # noqa: E402
import reference  # noqa: E402

import pcpad  # noqa: E402

project = "pcpad"
author = "the pcpad developers"
copyright = author
release = pcpad.__version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode"]
exclude_patterns = ["_made/*.md"]  # read by an include
html_theme = "furo"
html_title = "pcpad"
html_static_path = ["_static"]
html_css_files = ["tables.css"]
html_theme_options = {"source_repository": ""}
html_show_sphinx = False
myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3
default_role = "code"  # docstrings say `name` as Markdown does
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
napoleon_use_ivar = True
nitpicky = False


def make(app) -> None:
    """Draw the pictures and write the tables that the pages include."""
    made = HERE / "_made"
    made.mkdir(exist_ok=True)
    pictures.draw(made)
    reference.write(made)


def setup(app) -> None:
    """Sphinx calls this."""
    app.connect("builder-inited", make)
