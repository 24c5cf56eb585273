"""What the site needs beyond its pages: the pages that live elsewhere in the project, links, docstrings.

Loaded by mkdocs (hooks) and by griffe (an extension), never by the library.
"""

import posixpath
import re
from pathlib import Path
from typing import Any

from griffe import Extension, Module, Object, Parameter, ParameterKind, Parameters
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
ELSEWHERE = {
    "benchmarks/README.md": "performance.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "security-policy.md",
    **{
        path.relative_to(ROOT).as_posix(): f"results/{path.name}"
        for path in sorted(ROOT.glob("benchmarks/results/*.svg"))
    },
}
"""Files outside of docs/ that are part of the site, and where."""

_LINK = re.compile(
    r"(?P<image>!?)\[(?P<text>[^\]]*)\]\((?P<target>[^)#\s]*)(?P<rest>#[^)]*)?\)"
)
_ROLE = re.compile(r":(?:class|meth|func|data|attr|mod):`~?(?P<name>[\w.]+)`")
_CODE_FOLLOWS = re.compile(r"::$", re.MULTILINE)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages and plots that live elsewhere."""
    for source, place in ELSEWHERE.items():
        files.append(File.generated(config, place, abs_src_path=str(ROOT / source)))
    return files


def on_page_markdown(
    markdown: str, page: Page, config: MkDocsConfig, files: Files
) -> str:
    """Have links between files of the project lead to the site's pages; those to code become its name."""
    place = page.file.src_uri
    source = next(
        (path for path, uri in ELSEWHERE.items() if uri == place), f"docs/{place}"
    )

    def led(found: re.Match[str]) -> str:
        target = found["target"]
        if not target or "://" in target:
            return found[0]
        path = posixpath.normpath(posixpath.join(posixpath.dirname(source), target))
        uri = ELSEWHERE.get(
            path, path.removeprefix("docs/") if path.startswith("docs/") else ""
        )
        if files.get_file_from_path(uri) is None and not (
            uri and (ROOT / path).is_file()
        ):
            return found[0] if not (ROOT / path).exists() else found["text"]
        relative = posixpath.relpath(uri, posixpath.dirname(place) or ".")
        return f"{found['image']}[{found['text']}]({relative}{found['rest'] or ''})"

    return _LINK.sub(led, markdown)


class Roles(Extension):
    """Turns the roles of docstrings into code, and ``::`` before code into what Markdown wants."""

    def on_object(self, *, obj: Object, **_: Any) -> None:
        """Rewrite one docstring."""
        if obj.docstring is not None:
            text = _ROLE.sub(
                lambda found: f"`{found['name'].rpartition('.')[2]}`",
                obj.docstring.value,
            )
            obj.docstring.value = _CODE_FOLLOWS.sub(":", text)

    def on_package(self, *, pkg: Module, **_: Any) -> None:
        """Give the clients the parameters of their settings, which they accept as ``**options``."""
        if pkg.name != "flowmate_async":
            return
        settings = pkg["wiring.Settings"].attributes.values()
        named = [
            Parameter(
                one.name,
                annotation=one.annotation,
                kind=ParameterKind.keyword_only,
                default=one.value,
            )
            for one in settings
            if not one.name.startswith("_")
        ]
        for client in ("client.FlowMate", "blocking.FlowMateSync"):
            init = pkg[client].members["__init__"]
            init.parameters = Parameters(init.parameters["self"], *named)
