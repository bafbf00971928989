"""Holds `mecha schema` against everything that the project shows as configuration: a validator of JSON Schema must take all
examples and all pieces of the documentation, and refuse files with wrong options. Run by `cargo xtask test --only schema`.

    check.py MECHA ROOT
"""

import copy
import json
import pathlib
import re
import subprocess
import sys

import jsonschema
import yaml

MECHA, ROOT = sys.argv[1], pathlib.Path(sys.argv[2])


def said(*words):
    return subprocess.run([MECHA, *words], check=True, capture_output=True, text=True).stdout


SCHEMA = json.loads(said("schema"))
VALIDATOR = jsonschema.validators.validator_for(SCHEMA)
VALIDATOR.check_schema(SCHEMA)
# A piece of a file need not have a listener.
PIECE = {key: value for key, value in SCHEMA.items() if key != "required"}
LISTENER = {key: value for key, value in SCHEMA["properties"]["listeners"]["items"].items() if key != "required"}
FILTERS = copy.deepcopy(LISTENER["properties"]["filters"])
ROUTES = LISTENER["properties"]["routes"]
checked = 0


def fits(what, value, schema):
    global checked
    checked += 1
    errors = [f"{error.json_path}: {error.message}" for error in VALIDATOR(schema).iter_errors(value)]
    assert not errors, f"{what}: {errors}"


def is_refused(what, text, schema=FILTERS):
    global checked
    checked += 1
    assert not VALIDATOR(schema).is_valid(yaml.safe_load(text)), f"{what} fits: {text}"


examples = sorted((ROOT / "examples").rglob("*.yaml"))
for path in examples:
    # Other programs' files may lie beside ours.
    value = yaml.safe_load(path.read_text())
    if isinstance(value, dict) and "listeners" in value:
        fits(path, value, SCHEMA)

pages = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
snippets = 0
for page in pages:
    for text in re.findall(r"^```yaml\n(.*?)^```", page.read_text(), re.M | re.S):
        value = yaml.safe_load(text)
        if isinstance(value, list):
            # A filter has one name and its options, a route conditions and where they lead.
            is_routes = any(isinstance(item, dict) and "to" in item for item in value)
            fits(page, value, ROUTES if is_routes else FILTERS)
        elif set(value) <= set(SCHEMA["properties"]):
            fits(page, value, PIECE)
        elif set(value) <= set(LISTENER["properties"]):
            fits(page, value, LISTENER)
        else:
            raise AssertionError(f"{page}: what is this? {text}")
        snippets += 1

names = [line.split()[0] for line in said("filters").split("\n\n")[0].splitlines()]
options = FILTERS["items"]["anyOf"][1]["properties"]
assert sorted(options) == sorted(names), (sorted(options), names)
for name in names:
    page = said("filters", name)
    example = page.split("  filters:\n", 1)[1]
    fits(f"the example of {name}", yaml.safe_load(example), FILTERS)
    for option, schema in options[name]["properties"].items():
        assert f"\n  {option}: " in page, f"{name}: `{option}` is in the schema only"
        assert schema["description"], f"{name}: `{option}` says nothing"
    # No filter takes what nobody has heard of.
    is_refused(name, f"- {name}: {{ no_such_option: 1 }}")

for text in [
    "- rate_limit",
    "- rate_limit: { permits: 5 }",
    "- rate_limit: { permits: lots, per: 1s }",
    "- rate_limit: { permits: 0, per: 1s }",
    "- rate_limit: { permits: 5, per: 10 }",
    "- rate_limit: { permits: 5, per: 10s, by: clients }",
    "- timeout: { after: 250 }",
    "- timeout: { after: 250ms, commands: get }",
    "- circuit_breaker: { ratio: 1.5 }",
    "- access_log: { only: [error] }",
    "- deny_commands: { commands: [flushall], only: 1 }",
    "- key_prefix: { prefix: [a] }",
    "- nosuch",
    "- { timeout: { after: 1s }, access_log: }",
]:
    is_refused("a wrong filter", text)
wrong = "listeners: [ { listen: 'redis://:1', to: 'embedded://', idle_timeout: 5 } ]"
is_refused("a number without its unit", wrong, SCHEMA)

assert len(examples) >= 5 and snippets >= 4, (len(examples), snippets)
print(f"{checked} values held against the schema: {len(examples)} examples, {snippets} pieces of pages, {len(names)} filters")
