//! Which calls a policy is about: by command and by class.

use mecha_config::{ConfigError, Options, edit_distance};
use mecha_core::{Call, OpClass, OpInfo};

/// A set of operations. Empty means every one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Selection {
    /// One bit for each row of the table.
    rows: Vec<u64>,
    classes: Vec<OpClass>,
    /// Operations that the table lacks, in lower case.
    names: Vec<String>,
}

impl Selection {
    /// Understands names of commands (a container stands for its subcommands too) and of classes.
    ///
    /// # Errors
    /// A name that is neither, with the nearest one that is.
    pub(crate) fn new(
        names: &[String],
        ops: &[OpInfo],
        options: &Options,
        path: &str,
        foreign: Foreign,
    ) -> Result<Self, Vec<ConfigError>> {
        let (mut selection, mut errors) = (Self::default(), Vec::new());
        for (index, name) in names.iter().enumerate() {
            let lower = name.to_ascii_lowercase().replace(' ', "|");
            let classes = [OpClass::Admin, OpClass::Read, OpClass::Session, OpClass::Write];
            if let Some(class) = classes.into_iter().find(|class| format!("@{}", class.name()) == lower) {
                selection.classes.push(class);
                continue;
            }
            let stem = format!("{lower}|");
            let mut is_known = false;
            for (row, op) in ops.iter().enumerate().skip(1) {
                // Names of commands are the same in any case, but not always written in small letters.
                if op.name.eq_ignore_ascii_case(&lower) || op.name.starts_with(&stem) {
                    is_known = true;
                    selection.set(row);
                }
            }
            if !is_known && foreign == Foreign::Named && is_foreign(&lower, ops) {
                selection.names.push(lower);
                continue;
            }
            if !is_known {
                let path = format!("{path}[{index}]");
                let (message, hint) = if ops.is_empty() {
                    let message = format!("commands cannot be named on a cluster: `{name}`");
                    (message, "classes can: @read, @write, @admin, @session".to_string())
                } else {
                    let hint = match nearest(&lower, ops) {
                        Some(near) => format!("did you mean `{near}`?"),
                        None => {
                            "a command of this protocol, or a class: @read, @write, @admin, @session".into()
                        }
                    };
                    (format!("there is no command `{name}`"), hint)
                };
                errors.push(options.error(&path, message).hint(hint));
            }
        }
        if errors.is_empty() { Ok(selection) } else { Err(errors) }
    }

    /// As [`Selection::new`], adding to `errors`.
    pub(crate) fn read(
        names: &[String],
        ops: &[OpInfo],
        options: &Options,
        path: &str,
        foreign: Foreign,
        errors: &mut Vec<ConfigError>,
    ) -> Self {
        Self::new(names, ops, options, path, foreign).unwrap_or_else(|more| {
            errors.extend(more);
            Self::default()
        })
    }

    fn set(&mut self, row: usize) {
        if self.rows.len() <= row / 64 {
            self.rows.resize(row / 64 + 1, 0);
        }
        if let Some(word) = self.rows.get_mut(row / 64) {
            *word |= 1 << (row % 64);
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.rows.is_empty() && self.classes.is_empty() && self.names.is_empty()
    }

    /// Whether it has operations that the table lacks.
    pub(crate) fn has_foreign(&self) -> bool {
        !self.names.is_empty()
    }

    /// Whether an operation with this name, which the table lacks, is one of them.
    pub(crate) fn has_named(&self, name: &str) -> bool {
        let is_it = |known: &String| {
            let rest = name.get(known.len()..).unwrap_or("x");
            name.get(..known.len()) == Some(known) && (rest.is_empty() || rest.starts_with('|'))
        };
        self.names.iter().any(is_it)
    }

    /// Whether `call` is one of them.
    pub(crate) fn has(&self, call: &Call) -> bool {
        let row = usize::from(call.op.0);
        self.rows.get(row / 64).is_some_and(|word| word >> (row % 64) & 1 == 1)
            || self.classes.contains(&call.class)
    }
}

/// Whether operations may be named that the table lacks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Foreign {
    /// They may: whoever asks tells them by their names.
    Named,
    /// They may not.
    Refused,
}

/// Whether a name that the table lacks is likely to be meant, and no mistake: it has a dot, as commands of modules have, or is
/// like no other.
fn is_foreign(name: &str, ops: &[OpInfo]) -> bool {
    let is_name =
        !name.is_empty() && !name.starts_with('@') && name.bytes().all(|byte| byte.is_ascii_graphic());
    is_name && !ops.is_empty() && (name.contains('.') || nearest(name, ops).is_none())
}

/// The operation whose name differs from `name` by at most two edits.
fn nearest(name: &str, ops: &[OpInfo]) -> Option<&'static str> {
    let names = ops.iter().skip(1).map(|op| op.name).chain(["@admin", "@read", "@session", "@write"]);
    let candidates = names.map(|known| (edit_distance(name, known), known));
    candidates.min().filter(|(distance, _)| *distance <= 2).map(|(_, name)| name)
}
