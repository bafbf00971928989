//! `cargo xtask test --only schema`: what `mecha schema` prints, before a validator that is not ours.

use std::path::Path;

use super::call;

/// Makes an environment for the validator and runs `tests/schema/check.py`.
///
/// # Errors
/// It cannot be made, or something does not fit.
pub(crate) fn run() -> Result<(), String> {
    let python = Path::new(".cache/schema/bin/python");
    let environment = ".cache/schema";
    // Debian keeps what makes a virtual environment apart from Python.
    if call("python3", &["-c", "import ensurepip"], &[]).is_err() {
        crate::servers::install(vec!["python3-venv"])?;
    }
    call("python3", &["-m", "venv", environment], &[])?;
    let python = python.display().to_string();
    let install = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-r"];
    call(&python, &[&install[..], &["tests/schema/requirements.txt"]].concat(), &[])?;
    call("cargo", &["build", "--quiet"], &[])?;
    call(&python, &["tests/schema/check.py", "target/debug/mecha", "."], &[])
}
