"""Long forms of the tests of the promises: `python long_forms.py [NAME ...]`; writes docs/promises.md's table.

Names: kills, fuzzing, long_use and threads; without one, all. Each is recorded in artifacts/long_forms.json.
"""

import datetime as dt
import json
import sys

import fuzzing
import kills
import long_use
import threads
from bench import ARTIFACTS, write_table

from imgclassify.runs import provenance

FORMS = {"kills": kills, "fuzzing": fuzzing, "long_use": long_use, "threads": threads}
RECORD = ARTIFACTS / "long_forms.json"


def table(result: dict) -> str:
    lines = ["| what | result | when |", "|---|---|---|"]
    for name, form in FORMS.items():
        if entry := result.get(name):
            what = name.capitalize().replace("_", " ")
            lines.append(f"| {what} | {form.describe(entry['found'])} | {entry['created'][:10]} |")
    machines = {f"{entry['machine']['cores']} cores of an {entry['machine']['processor']}" for entry in result.values()}
    return "\n".join(lines) + f"\n\nOn {' and '.join(sorted(machines))}.\n"


def main(names: list[str]) -> None:
    for name in names or FORMS:
        about = {"machine": provenance.describe_machine(), "versions": provenance.describe_versions()}
        found = FORMS[name].measure()
        created = dt.datetime.now(dt.UTC).isoformat(timespec="seconds")
        result = json.loads(RECORD.read_text(encoding="utf-8")) if RECORD.exists() else {}
        result[name] = {"created": created, **about, "found": found}
        RECORD.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
        write_table("long forms", table(result), "promises.md")


if __name__ == "__main__":
    main(sys.argv[1:])
