"""Sphinx builds these pages offline: no inventory of anybody else is asked for."""

project = "msgov"
author = "the msgov authors"
copyright = "2026, the msgov authors"
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
html_theme = "furo"
html_title = "msgov"
exclude_patterns = ["_build"]
myst_heading_anchors = 3
autodoc_typehints = "description"
autodoc_member_order = "bysource"
suppress_warnings = ["docutils", "ref.python"]  # docstrings are written to be read where they stand
