"""What a release says about itself: changelog, upgrade notes, metadata, pinned tools, install commands."""

import re
import tomllib

import pytest

from flowmate_async import __version__
from flowmate_async.stores.age import folder
from flowmate_async.stores.documents import base
from flowmate_async.stores.postgres import schema as postgres
from flowmate_async.stores.sqlite import schema as sqlite
from tests.docs.pages import ALL, ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PINNED = (ROOT / "requirements" / "release.txt").read_text()


def test_the_changelog_begins_with_this_version_and_its_date():
    first = re.findall(r"^## (.*)$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)[0]
    assert re.fullmatch(re.escape(__version__) + r" \(\d{4}-\d\d-\d\d\)", first)


@pytest.mark.parametrize(
    ("store", "written"),
    [
        ("`sqlite:`", sqlite.FORMAT),
        ("`postgresql:`", postgres.FORMAT),
        ("`jsonl+age:`", folder.FORMAT),
        ("`openbao:`, `awssm:`", base.FORMAT),
    ],
)
def test_the_upgrade_notes_have_the_format_of_each_store(store, written):
    rows = [line for line in (ROOT / "docs" / "upgrading.md").read_text().splitlines() if "|" in line]
    versions = rows[0].strip("| ").split(" | ")
    assert versions[-1] == ".".join(__version__.split(".")[:2]) + ".0"
    (row,) = [row.strip("| ").split(" | ") for row in rows if row.startswith(f"| {store} ")]
    assert int(row[-1]) == written


def test_the_metadata_names_places_and_a_security_contact():
    assert {"Documentation", "Source", "Issues", "Changelog"} <= set(PROJECT["project"]["urls"])
    assert any("security" in one["email"] for one in PROJECT["project"]["maintainers"])


def test_every_release_tool_is_pinned_by_hash():
    blocks = re.split(r"\n(?=[a-z])", re.sub(r"\n +#.*", "", PINNED))
    names = set()
    for block in blocks:
        found = re.match(r"([\w.-]+)==\S+", block)
        assert found, block
        assert "--hash=sha256:" in block, block
        names.add(found[1])
    wanted = {re.split(r"[>=]", text)[0] for text in PROJECT["dependency-groups"]["release"]}
    assert wanted <= names


def test_no_index_is_named():
    assert not re.search(r"https?:|file:|--(extra-)?index|--find-links|--trusted-host", PINNED)


def test_no_command_needs_the_package_on_an_index():
    """``pip install 'flowmate-async[…]'`` adds an extra to what is installed already."""
    for fence in ALL:
        assert not re.search(r"pip install '?flowmate-async'?(\s|$)", fence.body), fence.page
    for page in ("README.md", "docs/index.md", "docs/tutorial.md"):
        first = next(fence.body for fence in ALL if fence.page == page and "pip install" in fence.body)
        assert re.match(r"pip install '?\.", first)
        assert "is not on an index yet" in (ROOT / page).read_text()
