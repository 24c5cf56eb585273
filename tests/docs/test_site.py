"""The site is built from existing pages."""

from pathlib import Path

import yaml

from tests.docs.pages import ALL

DOCS = Path(__file__).parents[2] / "docs"


def navigation():
    class Loader(yaml.SafeLoader):
        """Reads what mkdocs' own tags hold as nothing."""

    Loader.add_multi_constructor("tag:yaml.org,2002:python/", lambda *_: None)
    return yaml.load((DOCS.parent / "mkdocs.yml").read_text(), Loader)["nav"]


def test_every_page_of_the_navigation_exists():
    elsewhere = {"performance.md", "changelog.md", "contributing.md", "security-policy.md"}
    for page in pages(navigation()):
        assert page in elsewhere or (DOCS / page).is_file(), page


def test_each_page_is_in_the_navigation_once():
    listed = list(pages(navigation()))
    assert sorted(set(listed)) == sorted(listed)
    there = {path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md")}
    assert there <= set(listed)


def test_code_fits_a_page_of_1280_pixels():
    """README.md is not on the site, and GitHub scrolls."""
    wide = [
        f"{fence.page}: {line}"
        for fence in ALL
        if fence.page.startswith(("docs/", "benchmarks/", "CONTRIBUTING"))
        for line in fence.body.splitlines()
        if len(line) > 88
    ]
    assert wide == []


def pages(entry):
    if isinstance(entry, str):
        yield entry
    for part in entry.values() if isinstance(entry, dict) else entry if isinstance(entry, list) else ():
        yield from pages(part)
