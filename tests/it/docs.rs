//! `docs/configuration.md` is made from what the executable says of itself.
//!
//! `MECHA_BLESS=1 cargo test --test it docs` writes it anew.

use std::fmt::Write;
use std::process::Command;

use serde_json::Value;

const PAGE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/configuration.md");

const START: &str = "# Configuration

<!-- Made from the code: `MECHA_BLESS=1 cargo test --test it docs` writes this page anew. -->

A configuration is one YAML file. `mecha check FILE` tells everything that is wrong with it at once, or what it comes to;
`mecha schema` prints its JSON Schema for editors. Durations and sizes carry their unit (`250ms`, `64KiB`); unknown keys are
errors. A default stands in parentheses. The smallest file:

```yaml
listeners:
  - listen: redis://127.0.0.1:6379
    to: embedded://
```

`to` takes a target (`redis://a:6379,b:6379`, `memcached://a:11211`, `embedded://`) or the name of an entry of `clusters`.
The file is applied again when it changes and on SIGHUP: see `docs/operations.md`.
";

fn said(args: &[&str]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_mecha")).args(args).output().unwrap();
    assert!(output.status.success(), "{args:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// What kind of value a key takes.
fn kind(schema: &Value) -> String {
    if let Some(words) = schema["enum"].as_array() {
        return words
            .iter()
            // A version may also be written as a number, which reads the same.
            .filter_map(|word| Some(format!("`{}`", word.as_str()?)))
            .collect::<Vec<_>>()
            .join(", ");
    }
    if let Some(forms) = schema["anyOf"].as_array() {
        return forms.iter().map(kind).collect::<Vec<_>>().join(" or ");
    }
    match (schema["type"].as_str(), schema["pattern"].as_str()) {
        (Some("string"), Some(pattern)) if pattern.contains("ms") => "duration".into(),
        (Some("string"), Some(pattern)) if pattern.contains("KiB") => "size".into(),
        (Some("string"), _) => "text".into(),
        (None, _) if schema["type"][0] == "integer" => "number".into(),
        (Some("integer" | "number"), _) => "number".into(),
        (Some("boolean"), _) => "`true`, `false`".into(),
        (Some("array"), _) => "list".into(),
        (Some("object"), _) => "map".into(),
        _ => "see the schema".into(),
    }
}

fn rows(page: &mut String, prefix: &str, schema: &Value) {
    for (name, value) in schema["properties"].as_object().unwrap() {
        let about = value["description"].as_str().unwrap_or_default();
        let _ = writeln!(page, "| `{prefix}{name}` | {} | {} |", kind(value), about.replace('|', "\\|"));
        if value["properties"].is_object() {
            rows(page, &format!("{prefix}{name}."), value);
        }
    }
}

fn section(page: &mut String, title: &str, schema: &Value) {
    let _ = write!(page, "\n## {title}\n\n| key | value | meaning (default) |\n|---|---|---|\n");
    rows(page, "", schema);
}

fn made() -> String {
    let schema: Value = serde_json::from_str(&said(&["schema"])).unwrap();
    let mut page = String::from(START);
    section(&mut page, "The file", &schema);
    let listener = &schema["properties"]["listeners"]["items"];
    section(&mut page, "An entry of `listeners`", listener);
    let routes = &listener["properties"]["routes"]["items"]["anyOf"];
    section(&mut page, "An entry of a listener's `routes`", &routes[0]);
    section(&mut page, "An entry of an HTTP listener's `routes`", &routes[1]);
    let forms = schema["properties"]["clusters"]["additionalProperties"]["anyOf"].as_array().unwrap();
    let map = forms.iter().find(|form| form["properties"].is_object()).unwrap();
    section(&mut page, "An entry of `clusters`", map);
    page.push_str("\nAn entry may also be a target alone: `cache: redis://10.0.0.5:6379`.\n\n## Filters\n\nWhat calls pass, in order. Those of a cluster hold for every listener that leads to it.\n");
    let list = said(&["filters"]);
    for name in list.lines().take_while(|line| !line.is_empty()).filter_map(|line| line.split(' ').next()) {
        let _ = write!(page, "\n### `{name}`\n\n```text\n{}```\n", said(&["filters", name]));
    }
    page
}

#[test]
fn the_configuration_reference_is_what_the_executable_says() {
    let made = made();
    if std::env::var_os("MECHA_BLESS").is_some() {
        std::fs::write(PAGE, &made).unwrap();
    }
    assert!(made == std::fs::read_to_string(PAGE).unwrap(), "docs/configuration.md is out of date");
}

/// Names of tests in `docs/traps.md`, as `file::test` or `folder::file::test`.
#[test]
fn every_trap_has_a_test_that_is_there() {
    let page = include_str!("../../docs/traps.md");
    let names: Vec<_> = page.split('`').skip(1).step_by(2).filter(|name| name.contains("::")).collect();
    assert!(names.len() > 80, "{}", names.len());
    for name in names {
        let (file, test) = name.rsplit_once("::").unwrap();
        let path = format!("{}/tests/it/{}.rs", env!("CARGO_MANIFEST_DIR"), file.replace("::", "/"));
        let source = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(source.contains(&format!("#[test]\nfn {test}()")), "{name} is not in {path}");
    }
}
