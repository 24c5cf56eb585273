"""Every statement of docs/contract/OBSERVED.md is proved by one test of this folder, or excused here.

The walk cuts the document into sentences and rows of tables. A test claims those that it proves:

    @pytest.mark.observes("Impersonation", "Tokens are opaque", "No expiry is returned")

Section and statements are named by how they begin. A statement that nobody claims, that two claim, or
a claim that meets no statement fails the walk.
"""

import ast
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

HERE = Path(__file__).parent
CONTRACT = HERE.parent.parent / "docs" / "contract" / "OBSERVED.md"

INTRODUCTION = "says where the knowledge comes from, nothing of the service"
ADVICE = "tells a client what to do; the sandbox has no say in it"

EXCUSED: dict[str, dict[str, str]] = {
    "What the upstream really does": {
        "The FlowMate documentation": INTRODUCTION,
        "FlowMate's API is operated": INTRODUCTION,
        "Both services were run": INTRODUCTION,
        "FlowMate's hosted gateway": INTRODUCTION,
        "Base URL": "the sandbox listens on loopback, and never anywhere else",
    },
    "Impersonation": {
        "Behind it is IAM's `POST /tokens`": "behind the gateway; no route of the public service",
        "Expiry is enforced by a database sweep": "tokens end on time: a client may not rely on the minute",
        "There is no atomic find-or-create": "a race of the database; the sandbox issues one a call",
        "Concurrent impersonations": ADVICE,
    },
    "Users of the tenant": {'Whoever asks for "all users"': ADVICE},
    "Listing": {
        "The documentation never says so": INTRODUCTION,
        "`meta` may be absent": "only documented, never observed: the sandbox answers as the recording does",
        "Deduplicate by `_id`": ADVICE,
    },
    "One secret": {
        "They are the upstream's business": ADVICE,
        "A masked value that overwrites": ADVICE,
        "None of these may fail the decode": ADVICE,
    },
    "Concurrent GETs": {"So single-flight": ADVICE},
    "Second look": {"A second series": INTRODUCTION, "All of this was observed": INTRODUCTION},
    "Recorded answers": {
        "Each has": INTRODUCTION,
        "`request.authorization` says": INTRODUCTION,
    },
    "Errors": {
        'So a 401 does not always mean "impersonate again"': ADVICE,
        "One re-impersonation": ADVICE,
    },
}


class Statement(msgspec.Struct, frozen=True):
    """One sentence or row, with the section that it stands in."""

    section: str
    text: str

    def begins(self, section: str, beginning: str) -> bool:
        """Return whether a claim means this statement."""
        return self.section.startswith(section) and self.text.startswith(beginning)


def blocks_of(document: str) -> Iterator[Statement]:
    """Cut a document into paragraphs, items of lists and rows of tables; code and headers are left out."""
    section, open_lines, in_code = "", list[str](), False
    lines = document.splitlines()
    for line, following in zip(lines, [*lines[1:], ""], strict=True):
        heading = re.match(r"#+ (.*)", line)
        continues = line.strip() and not in_code and not heading and not line.startswith(("|", "- ", "```"))
        if open_lines and not continues:
            yield Statement(section, " ".join(open_lines))
            open_lines = []
        if line.startswith("```"):
            in_code = not in_code
        elif heading and not in_code:
            section = heading[1]
        elif line.startswith("|") and not in_code:
            if not is_rule(line) and not is_rule(following):
                yield Statement(section, line)
        elif line.strip() and not in_code:
            open_lines.append(line.removeprefix("- ").strip())
    if open_lines:
        yield Statement(section, " ".join(open_lines))


def is_rule(line: str) -> bool:
    return line.startswith("|") and not line.strip("|- ")


def statements_of(document: str) -> list[Statement]:
    """Cut blocks into sentences; a full stop inside of code ends none."""
    found = []
    for block in blocks_of(document):
        code = iter(re.findall(r"`[^`]*`", block.text))
        plain = re.sub(r"`[^`]*`", "\0", block.text).replace("**", "")
        row = [" ".join(plain.strip("| ").split())] if plain.startswith("|") else None
        for sentence in row or re.split(r"(?<=\.) (?=[A-Z0-9\0])", plain):
            text = "".join(next(code) if letter == "\0" else letter for letter in sentence)
            found.append(Statement(block.section, text))
    return found


class Claim(msgspec.Struct, frozen=True):
    """A test's word for a statement."""

    by: str
    section: str
    beginning: str


def claims_of(source: str, name: str) -> Iterator[Claim]:
    """Read the markers of a file of tests, without running it."""
    for node in ast.parse(source).body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            for decorator in node.decorator_list:
                match ast.unparse(decorator).partition("(")[0], decorator:
                    case "pytest.mark.observes", ast.Call(args=arguments):
                        assert node.name.startswith("test_"), f"{node.name} is no test"
                        section, *beginnings = [ast.literal_eval(argument) for argument in arguments]
                        for beginning in beginnings:
                            yield Claim(f"{name}::{node.name}", section, beginning)
                    case "pytest.mark.skip" | "pytest.mark.xfail", _:
                        pytest.fail(f"{node.name} proves nothing as long as it is skipped")


def all_claims() -> list[Claim]:
    """Claims of the tests beside this one, and the excuses above."""
    made = [
        claim
        for path in sorted(HERE.glob("test_*.py"))
        for claim in claims_of(path.read_text(encoding="utf-8"), path.name)
    ]
    excused = [
        Claim("excused", section, beginning) for section, which in EXCUSED.items() for beginning in which
    ]
    return made + excused


def complaints(statements: list[Statement], claims: list[Claim]) -> list[str]:
    """Return statements without exactly one claim, and claims without exactly one statement."""
    claimed: Counter[Statement] = Counter()
    found = []
    for claim in claims:
        meant = [one for one in statements if one.begins(claim.section, claim.beginning)]
        claimed.update(meant)
        if len(meant) != 1:
            found.append(f"{claim.by} means {len(meant)} statements: {claim.section} / {claim.beginning}")
    found += [
        f"claimed {claimed[one]} times: {one.section} / {one.text}" for one in statements if claimed[one] != 1
    ]
    return found


def test_every_statement_of_the_contract_is_proved_once_or_excused() -> None:
    """Each line of the contract has a test, or an excuse here."""
    statements = statements_of(CONTRACT.read_text(encoding="utf-8"))
    assert len(statements) > 80
    assert complaints(statements, all_claims()) == []


def test_a_new_statement_fails_the_walk_and_so_does_a_double_claim() -> None:
    """In a paragraph, a list, a table; a claim of nothing too."""
    document = CONTRACT.read_text(encoding="utf-8")
    claims = all_claims()
    for line in ("Cats answer too. See `x. y`.", "- Cats answer too.", "| cats | too |"):
        grown = document.replace("## Errors\n", f"## Errors\n\n{line}\n\n")
        told = complaints(statements_of(grown), claims)
        assert any("claimed 0 times" in complaint and "ats" in complaint for complaint in told)
    assert complaints(statements_of(document), [*claims, claims[0]])
    assert complaints(statements_of(document), [*claims, Claim("x", "Errors", "no such line")])


def test_a_document_is_cut_at_full_stops_outside_of_code() -> None:
    """Skip headings, code blocks, and headers and rules of tables; items may continue."""
    document = (
        "# T\n\nOne `a. B`. Two\ngoes **on**.\n\n```\nNot. This.\n```\n## U\n"
        "- item. Is\n  two\n- three\n\n| h | i |\n| --- | --- |\n| **r** |  s |\n"
    )
    assert statements_of(document) == [
        Statement("T", "One `a. B`."),
        Statement("T", "Two goes on."),
        Statement("U", "item."),
        Statement("U", "Is two"),
        Statement("U", "three"),
        Statement("U", "r | s"),
    ]
