"""The site is built from existing pages."""

from pathlib import Path

import yaml

DOCS = Path(__file__).parents[2] / "docs"


def test_every_page_of_the_navigation_exists():
    class Loader(yaml.SafeLoader):
        """Reads what mkdocs' own tags hold as nothing."""

    Loader.add_multi_constructor("tag:yaml.org,2002:python/", lambda *_: None)
    nav = yaml.load((DOCS.parent / "mkdocs.yml").read_text(), Loader)["nav"]
    elsewhere = {"performance.md", "changelog.md", "contributing.md"}
    for page in pages(nav):
        assert page in elsewhere or (DOCS / page).is_file(), page


def pages(entry):
    if isinstance(entry, str):
        yield entry
    for part in entry.values() if isinstance(entry, dict) else entry if isinstance(entry, list) else ():
        yield from pages(part)
