"""Write the JSON Schemas of what commands print, from the structs that they print. ``--check`` only compares.

The schemas of events and errors are written by hand. A change that breaks readers needs a new version.
"""

import json
import sys
from pathlib import Path
from typing import Any

import msgspec

from flowmate_async.cli.status_command import StoreStatus
from flowmate_async.reporting.summary import Head
from flowmate_async.stores import Checkpoint
from flowmate_async.sync.report import SyncReport
from flowmate_async.values.plain import is_time

FOLDER = Path(__file__).parents[1] / "flowmate_async" / "reporting" / "schemas"
_INTERNAL = ("seen", "renewed")


def main() -> int:
    """Write the files, or compare them. Return 1 if one differs."""
    made = {
        "report.v1.json": report(),
        "totals.v1.json": schema_of(SyncReport, "totals", "flowmate sync --json"),
        "status.v1.json": schema_of(StoreStatus, "status", "flowmate status --json"),
    }
    differ = 0
    for name, schema in made.items():
        text = json.dumps(schema, indent=2) + "\n"
        if "--check" not in sys.argv:
            (FOLDER / name).write_text(text, encoding="utf-8")
        elif (FOLDER / name).read_text(encoding="utf-8") != text:
            print(
                f"{name} differs; run python tools/schemas.py, or make a new version of it", file=sys.stderr
            )
            differ = 1
    return differ


def report() -> dict[str, Any]:
    """Return the schema of the report file."""
    schema = schema_of(Head, "report", "flowmate sync --report FILE.json")
    checkpoint = schema_of(Checkpoint, "", "")
    schema["$defs"]["Checkpoint"] = {key: checkpoint[key] for key in checkpoint if not key.startswith("$")}
    schema["properties"] |= {
        "schema_version": {"const": 1},
        "users": {"type": "array", "items": {"$ref": "#/$defs/Checkpoint"}},
    }
    schema["required"] += ["schema_version", "users"]
    return schema


def schema_of(kind: type[msgspec.Struct], name: str, title: str) -> dict[str, Any]:
    """Return the schema of a struct as it is printed: every field is there, and times are ISO 8601."""
    made = msgspec.json.schema(kind)
    definitions = {key: printed(part) for key, part in made["$defs"].items()}
    root = definitions.pop(kind.__name__)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": f"urn:flowmate-async:{name}:v1",
        **root,
        "title": title,
        "$defs": definitions,
    }


def printed(part: Any) -> Any:
    """Return a definition with the names and times that ``plain`` prints."""
    if not isinstance(part, dict) or "properties" not in part:
        return renamed(part)
    fields = {}
    for name, field in part["properties"].items():
        if name not in _INTERNAL:
            fields[name] = moment(field) if is_time(name) else renamed(field)
            fields[name].pop("default", None)
    text = " ".join(part.get("description", "").split("\n\n")[0].split())
    return {
        "description": text,
        "type": "object",
        "properties": fields,
        "required": [*fields],
        "additionalProperties": False,
    }


def moment(field: dict[str, Any]) -> dict[str, Any]:
    """Return the schema of a time that may be missing."""
    missing = {"type": "null"} in field.get("anyOf", [])
    return {"type": ["string", "null"] if missing else "string", "format": "date-time"}


def renamed(part: Any) -> Any:
    """Return a copy with plain ``$ref``s."""
    if isinstance(part, dict):
        return {key: renamed(value) for key, value in part.items()}
    return [renamed(value) for value in part] if isinstance(part, list) else part


if __name__ == "__main__":
    sys.exit(main())
