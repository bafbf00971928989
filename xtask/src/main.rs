//! Chores: `cargo xtask test` prepares the machine and runs every check; `cargo xtask commands` writes the RESP command
//! table, `cargo xtask kafka-schemas` the messages of Kafka.

mod clients;
mod cluster_clients;
mod commands;
mod http;
mod kafka_schemas;
mod newer;
mod schema;
mod servers;
mod test;
mod user_clients;
mod vectors;

use std::process::{Command, ExitCode};

const HELP: &str = "\
cargo xtask test [--only NAME] [--list]   installs what the tests need, builds, runs every test
cargo xtask commands                      writes codecs/resp/src/ops/table.rs from real servers
cargo xtask kafka-schemas [FOLDER]        writes codecs/kafka/src/schema/messages.rs from Kafka's descriptions
cargo xtask vectors                       records conversations with real servers for the tests of the codecs
";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let rest = args.get(1..).unwrap_or_default();
    let result = match args.first().map(String::as_str) {
        Some("test") => test::run(rest),
        Some("commands") => commands::run(rest),
        Some("kafka-schemas") => kafka_schemas::run(rest),
        Some("vectors") => vectors::run(rest),
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

/// Runs a program and shows how it was called.
///
/// # Errors
/// It cannot be started, or it fails.
fn call(program: &str, args: &[&str], environment: &[(&str, &str)]) -> Result<(), String> {
    println!("$ {program} {}", args.join(" "));
    let status = Command::new(program).args(args).envs(environment.iter().copied()).status();
    match status {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(format!("{program} {} ended with {status}", args.join(" "))),
        Err(error) => Err(format!("{program}: {error}")),
    }
}
