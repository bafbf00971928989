//! A file that lists servers, and whether it has changed.

use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use mecha_config::{ConfigError, ListedSpec, listed_in};

/// Such a file may have so many bytes; a larger one is a mistake.
const MAX_FILE: u64 = 4 << 20;

/// What changes when a file is written or replaced.
pub(super) type Look = (u64, u64, i64, i64, u64);

/// `None` while it is missing, as it may be for a moment while it is replaced.
pub(super) fn look(file: &Path) -> Option<Look> {
    let meta = std::fs::metadata(file).ok()?;
    Some((meta.dev(), meta.ino(), meta.mtime(), meta.mtime_nsec(), meta.size()))
}

/// What `file` lists; addresses without a port have `port`.
///
/// # Errors
/// Everything that is wrong with it.
pub(crate) fn read(file: &Path, port: u16) -> Result<Vec<ListedSpec>, Vec<ConfigError>> {
    let name = file.display().to_string();
    let cannot = |message: String, hint: &str| vec![ConfigError::new(&*name, message).hint(hint)];
    let mut text = String::new();
    let opened = std::fs::File::open(file);
    let read = opened.and_then(|file| file.take(MAX_FILE + 1).read_to_string(&mut text));
    read.map_err(|error| {
        cannot(
            format!("cannot read the file of servers: {error}"),
            "check its path, permissions and encoding",
        )
    })?;
    if text.len() as u64 > MAX_FILE {
        return Err(cannot(
            format!("the file is larger than {} MiB", MAX_FILE >> 20),
            "is this the right file?",
        ));
    }
    listed_in(&text, &name, port)
}
