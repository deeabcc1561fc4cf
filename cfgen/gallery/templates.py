"""The pages' templates: escaped, and strict about what a page is not told."""

from __future__ import annotations

import jinja2


def templates(package: str) -> jinja2.Environment:
    """The templates that lie beside the modules of a package of cfgen."""
    return jinja2.Environment(
        loader=jinja2.PackageLoader(package, ""),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
