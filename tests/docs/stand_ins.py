"""Stand-ins for programs that need a daemon or root. Each checks the files it is given.

Run as ``python stand_ins.py LOG REAL_KUBECTL NAME ARGUMENTS...``; ``REAL_KUBECTL`` may be empty.
"""

import itertools
import os
import subprocess
import sys
from pathlib import Path

NAMES = ("docker", "kubectl", "systemctl", "systemd-sysusers", "sudo", "otelcol", "opentelemetry-instrument")
FILE_FLAGS = ("--file", "--filename", "--config")


def main(log: str, kubectl: str, name: str, *arguments: str) -> int:
    """Return the exit code."""
    if name == "opentelemetry-instrument":
        os.execvp(arguments[0], arguments)
    if name == "sudo":
        return 0 if arguments[0] == "chown" else subprocess.call(arguments)
    for flag, value in itertools.pairwise(arguments):
        if flag in FILE_FLAGS and not Path(value).is_file():
            sys.exit(f"{name}: {value} does not exist")
    if arguments[:1] == ("compose",) and not Path("compose.yaml").is_file():
        sys.exit("docker compose: there is no compose.yaml here")
    if "--kustomize" in arguments and kubectl:
        subprocess.run([kubectl, "kustomize", arguments[-1]], check=True, stdout=subprocess.DEVNULL)
    with Path(log).open("a") as skipped:
        skipped.write(f"{name} {' '.join(arguments)}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
