//! `mecha filters`: the reference of filters, made from the code.

use std::fmt::Write;

use mecha_config::FilterOption;

/// What the command line tells about the process' parts.
pub struct Help {
    /// Every filter.
    pub filters: Vec<FilterHelp>,
    /// The support table of a door and a back.
    pub support: fn(&str, &str) -> Vec<SupportRow>,
}

/// One command of the support table.
pub struct SupportRow {
    /// Its name.
    pub command: String,
    /// `exact`, `emulated` or `refused`.
    pub support: &'static str,
    /// What to know about it.
    pub note: String,
}

/// One filter.
pub struct FilterHelp {
    /// Its name.
    pub name: &'static str,
    /// One line.
    pub summary: &'static str,
    /// Its options.
    pub options: &'static [FilterOption],
    /// What else to know.
    pub docs: &'static str,
    /// YAML.
    pub example: &'static str,
    /// Where it can be used.
    pub applies_to: String,
}

/// All filters, a line each, or one of them.
pub(super) fn filters(help: &Help, name: Option<&str>) -> Result<String, String> {
    let mut text = String::new();
    let Some(name) = name else {
        for filter in &help.filters {
            let _ = writeln!(text, "{:<16} {}  [{}]", filter.name, filter.summary, filter.applies_to);
        }
        text.push_str("\n`mecha filters NAME` explains one, with an example.\n");
        return Ok(text);
    };
    let Some(filter) = help.filters.iter().find(|filter| filter.name == name) else {
        let names: Vec<_> = help.filters.iter().map(|filter| filter.name).collect();
        return Err(format!("mecha: there is no filter `{name}`; there is {}\n", names.join(", ")));
    };
    let _ = writeln!(text, "{}: {}\nUsed on: {}\n\nOptions:", filter.name, filter.summary, filter.applies_to);
    for option in filter.options {
        let _ = writeln!(text, "  {}", option.line());
    }
    if !filter.docs.is_empty() {
        let _ = writeln!(text, "\n{}", filter.docs);
    }
    let _ = writeln!(text, "\nExample:\n  filters:");
    filter.example.lines().for_each(|line| {
        let _ = writeln!(text, "    {line}");
    });
    Ok(text)
}
