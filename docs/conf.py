"""Settings of the documentation site: `sphinx-build -W --keep-going docs site`.

Pages are Markdown that also reads well as plain files. The reference is rendered from the code by `rendered.py`. The site
loads nothing from elsewhere: the theme uses the reader's own fonts, and the search needs no server. Several versions are
published as folders next to each other and next to `versions.json`, the list of their names, which fills the switch.

Why Sphinx: it is kept by several people, refuses references that lead nowhere, and lets pages be made while it builds.
MkDocs has had no release since 2024 and its usual theme is in maintenance; their successor, Zensical, is at 0.x, cannot make
pages yet, and its search without a server loads a script from elsewhere.
"""

from __future__ import annotations

import os
import sys
from importlib.metadata import version as version_of
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

project = "kdtool"
version = release = version_of("kdtool")
extensions = ["myst_parser", "rendered", "package_pages"]
exclude_patterns = ["tests"]

myst_enable_extensions = ["colon_fence", "deflist", "fieldlist"]
myst_heading_anchors = 3

smartquotes_action = "D"  # dashes only: quoted text in docstrings is code
nitpicky = True
nitpick_ignore_regex = [
    # named in signatures: documented elsewhere, or private (its text is all that authors need of an Owner)
    (
        "py:class",
        r"Tensor|Module|TorchOptimizer|Path|Callable|Iterable|Iterator|Mapping|Sequence|Literal|ConfigDict|ClassVar|[CKP-T]",
    ),
    ("py:class", "BufferedReader|Needs|Owner|datetime|sqlite3.*"),
    # returned by functions, whose descriptions explain the attributes
    ("py:class", "Compared|ExportedFile|KnownRun|Named|Requirement|TextSource"),
]
suppress_warnings = ["ref.python"]  # the type `bytes` could be a link to either of two fields of that name; it is none
python_use_unqualified_type_names = True
add_module_names = False
toc_object_entries_show_parents = "hide"

html_theme = "furo"
html_title = f"kdtool {version}"
html_logo = html_favicon = "_static/logo.svg"
html_static_path = ["_static"]
html_css_files = ["kdtool.css"]
html_js_files = [("versions.js", {"defer": "defer"})]
html_theme_options: dict[str, object] = {}
if "GITHUB_REPOSITORY" in os.environ:  # then pages link to their sources
    html_theme_options = {
        "source_repository": f"{os.environ['GITHUB_SERVER_URL']}/{os.environ['GITHUB_REPOSITORY']}/",
        "source_branch": "main",
        "source_directory": "docs/",
    }
html_copy_source = False
html_show_copyright = False
pygments_style = "friendly"
pygments_dark_style = "github-dark"
