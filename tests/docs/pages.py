"""The pages of the project, their fences, and which of their commands are not run, with the reason."""

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
SHELLS = ("console", "sh", "bash", "shell", "zsh")
FOLDERS = (".", "benchmarks", "deploy", "docs")
COMMANDS = ("flowmate ", "pip ", "make ", "docker ", "kubectl ", "python ", "celery ", "curl ", "uvicorn ")
"""What a line begins with that is a command, whatever the language of its block."""

LINES_NOT_RUN = {
    r"^make ": "the targets are run by hand and by .ci/run; the target must exist",
    r"^(\S+/)?pip ": "it would install into this environment; the extras must exist",
    r"^python3 -m venv": "it would need a copy of every dependency",
    r"^(age|bao) |^export BAO_TOKEN": "needs that program",
    r"openbao://bao\.example|postgresql://me@db\.example": "needs that server; tests/stores have one",
}
"""By what they look like. Those of ``flowmate`` are parsed."""

BLOCKS_NOT_RUN = {
    ("docs/scaling.md", "# The broker is"): (
        "needs several machines; tests/distributed and tests/deploy run these commands on one"
    ),
    ("docs/how-to/batch.md", "FLOWMATE_CONFIG="): "a line for cron; its command is parsed",
    ("benchmarks/README.md", "python benchmarks/"): "they take minutes and need nginx",
    ("docs/reliability.md", "make chaos"): "takes minutes; the suite runs the same with fewer seeds",
    ("docs/health.md", "export FLOWMATE_NOTIFY_KEY"): "needs a receiver; tests/cli run it with one",
}
"""By page and the beginning of the block."""

FROM_A_CHECKOUT = {
    "deploy/README.md": "",
    "deploy/compose/README.md": "deploy/compose",
    "docs/kubernetes.md": "",
}
"""Pages whose blocks begin in a checkout, and in which folder of it."""

PREPARED = {
    "docs/upgrading.md": "flowmate sync --all-users --store sqlite:///credentials.db",
    "docs/stores.md": "flowmate store keygen store.key; unset FLOWMATE_STORE_KEY\n"
    "export FLOWMATE_STORE=sqlite:///credentials.db FLOWMATE_STORE_KEY_FILE=store.key\n"
    "flowmate sync --all-users",
}
"""What a page takes for granted."""

_ENDS_WITH_1 = "flowmate health"
"""A command that ends with 1 if it shows something broken."""


@dataclass(frozen=True)
class Fence:
    """A fenced block of a page."""

    page: str
    language: str
    title: str
    body: str

    @property
    def reason(self) -> str:
        """Why none of its commands is run; empty if they are."""
        for (page, begin), reason in BLOCKS_NOT_RUN.items():
            if page == self.page and self.body.startswith(begin):
                return reason
        return ""

    @property
    def lines(self) -> list[str]:
        """Its commands, each on one line."""
        return re.sub(r"\\\n *", "", self.body).splitlines()

    @property
    def not_run(self) -> list[str]:
        """The lines with commands that are not run."""
        lines = self.lines
        return lines if self.reason else [line for line in lines if is_not_run(line)]

    @property
    def script(self) -> str:
        """The commands that are run."""
        lines = [line for line in self.lines if not is_not_run(line)]
        return "\n".join(
            f"{line} || test $? = 1" if line.startswith(_ENDS_WITH_1) else line for line in lines
        )


def is_not_run(line: str) -> bool:
    """Return whether there is a reason not to run a line."""
    return any(re.search(pattern, line) for pattern in LINES_NOT_RUN)


_FENCE = re.compile(r'^( *)```([\w-]*)(?: title="([^"]+)")?\n(.*?)^\1```$', re.DOTALL | re.MULTILINE)


def fences(page: str) -> list[Fence]:
    """The fences of a page, in order."""
    text = (ROOT / page).read_text(encoding="utf-8")
    return [Fence(page, language, title, body) for _, language, title, body in _FENCE.findall(text)]


def script_of(page: str, folder: Path) -> str:
    """The commands of a page that are run, in order."""
    blocks = [fence.script for fence in fences(page) if fence.language == "console" and not fence.reason]
    if page in FROM_A_CHECKOUT:
        blocks = [f"(cd {folder / FROM_A_CHECKOUT[page]}\n{block}\n)" for block in blocks]
    return "\n".join([PREPARED.get(page, ""), *blocks, ""])


def pages() -> list[str]:
    """Every page, as a path from the root, without upstream's own documentation."""
    found = [path for folder in FOLDERS for path in (ROOT / folder).glob("*.md")]
    found += [path for folder in ("docs", "deploy") for path in (ROOT / folder).glob("*/**/*.md")]
    names = sorted({path.relative_to(ROOT).as_posix() for path in found})
    return [name for name in names if not name.startswith("docs/contract/")]


ALL = [fence for page in pages() for fence in fences(page)]
