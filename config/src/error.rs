//! What is wrong with a configuration, told so that it can be mended at once.

use std::fmt;

/// Characters of a line that are shown.
const SHOWN: usize = 120;

/// One problem.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    /// The file; `None` for flags.
    pub file: Option<String>,
    /// From 1; 0 if there is no text.
    pub line: u32,
    /// From 1.
    pub column: u32,
    /// For example `listeners[0].filters[1].rate_limit.per`.
    pub path: String,
    /// What is wrong.
    pub message: String,
    /// What to do about it.
    pub hint: Option<String>,
    /// The line of the text.
    pub source: String,
}

impl ConfigError {
    /// A problem without a place.
    pub fn new(path: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            file: None,
            line: 0,
            column: 0,
            path: path.into(),
            message: message.into(),
            hint: None,
            source: String::new(),
        }
    }

    /// Adds what to do about it.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "error: {}", self.message)?;
        let path = if self.path.is_empty() { String::new() } else { format!(" at {}", self.path) };
        match (&self.file, self.line) {
            (Some(file), 0) => writeln!(f, "  --> {file}{path}")?,
            (None, 0) if self.path.is_empty() => {}
            (None, 0) => writeln!(f, "  --> {}", self.path)?,
            (file, line) => {
                let file = file.as_deref().unwrap_or("configuration");
                writeln!(f, "  --> {file}:{line}:{}{path}", self.column)?;
                self.show_source(f)?;
            }
        }
        if let Some(hint) = &self.hint {
            writeln!(f, "  hint: {hint}")?;
        }
        Ok(())
    }
}

impl ConfigError {
    /// The line with a mark below it; of a long line, what is around the mark.
    fn show_source(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let at = self.column.saturating_sub(1) as usize;
        let from = if at > SHOWN * 3 / 4 { at - SHOWN / 2 } else { 0 };
        let clean = |c: char| if c.is_control() { ' ' } else { c };
        let shown: String = self.source.chars().skip(from).take(SHOWN).map(clean).collect();
        let number = self.line.to_string();
        writeln!(f, "  {number} | {}", shown.trim_end())?;
        writeln!(f, "  {} | {}^", " ".repeat(number.len()), " ".repeat(at - from))
    }
}

impl std::error::Error for ConfigError {}

/// The known name nearest to `name`, if it is near enough to have been meant.
pub(crate) fn nearest<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let candidates = known.into_iter().map(|other| (edit_distance(name, other), other));
    candidates
        .min()
        .filter(|(distance, other)| *distance <= other.len().div_ceil(2).min(3).min(name.len()))
        .map(|(_, other)| other)
}

/// A hint that names the nearest, or else all that there is.
pub(crate) fn suggestion(name: &str, known: &[&str]) -> String {
    match nearest(name, known.iter().copied()) {
        Some(near) => format!("did you mean `{near}`?"),
        None if known.is_empty() => "there is none".into(),
        None => format!("there is {}", known.join(", ")),
    }
}

/// Levenshtein's edit distance between the first 64 characters, for suggestions.
pub fn edit_distance(one: &str, other: &str) -> usize {
    let other: Vec<char> = other.chars().take(64).collect();
    let mut row: Vec<usize> = (0..=other.len()).collect();
    for (index, a) in one.chars().take(64).enumerate() {
        let (mut before, mut left) = (index, index + 1);
        for (cell, b) in row.iter_mut().skip(1).zip(&other) {
            let above = *cell;
            left = (above + 1).min(left + 1).min(before + usize::from(a != *b));
            (before, *cell) = (above, left);
        }
        if let Some(first) = row.first_mut() {
            *first = index + 1;
        }
    }
    row.last().copied().unwrap_or_default()
}
