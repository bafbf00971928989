//! Chores: `cargo xtask test` prepares the machine and runs every check; `cargo xtask commands` writes the RESP command
//! table.

mod commands;
mod newer;
mod test;

use std::process::ExitCode;

const HELP: &str = "\
cargo xtask test [--only NAME] [--list]   installs what the tests need, builds, runs every test
cargo xtask commands                      writes codecs/resp/src/ops/table.rs from a redis-server
";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let rest = args.get(1..).unwrap_or_default();
    let result = match args.first().map(String::as_str) {
        Some("test") => test::run(rest),
        Some("commands") => commands::run(rest),
        _ => Err(HELP.into()),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(text) => {
            eprintln!("{text}");
            ExitCode::FAILURE
        }
    }
}
