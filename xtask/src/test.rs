//! `cargo xtask test`: from a fresh machine to a verdict.
#![expect(clippy::disallowed_methods, reason = "chores time themselves")]

use std::time::Instant;

use super::{call, servers};

/// One part of the suite: its name, what it does, and how.
struct Part {
    name: &'static str,
    what: &'static str,
    run: fn() -> Result<(), String>,
}

/// In the order in which a failure is found soonest.
const PARTS: &[Part] = &[
    Part { name: "fmt", what: "rustfmt has nothing to change", run: fmt },
    Part {
        name: "servers",
        what: "redis-server, memcached, newer servers and Kafka are here, or are fetched",
        run: servers,
    },
    Part { name: "clippy", what: "no warning in any target", run: clippy },
    Part { name: "unit", what: "unit, property and differential tests of every crate", run: unit },
    Part { name: "docs", what: "the documentation of every crate, without a warning", run: docs },
    Part { name: "examples", what: "every example passes `mecha check`", run: examples },
    Part {
        name: "schema",
        what: "a validator takes every example and page, and refuses what is wrong",
        run: crate::schema::run,
    },
    Part { name: "fuzz", what: "every fuzz target for a few seconds", run: fuzz },
    Part { name: "bench", what: "the benches and the comparison with peers still run", run: bench },
    Part {
        name: "clients",
        what: "programs in Python, Go, JavaScript and Java, on every back",
        run: crate::clients::run,
    },
    Part {
        name: "http",
        what: "h2spec, and gRPC's interoperability cases through mecha",
        run: crate::http::run,
    },
];

/// Runs all parts, or the one that `--only` names.
///
/// # Errors
/// What failed.
pub(crate) fn run(args: &[String]) -> Result<(), String> {
    if args.iter().any(|arg| arg == "--list") {
        PARTS.iter().for_each(|part| println!("{:<10} {}", part.name, part.what));
        return Ok(());
    }
    let only = args.iter().position(|arg| arg == "--only").and_then(|at| args.get(at + 1));
    let chosen: Vec<_> = PARTS.iter().filter(|part| only.is_none_or(|only| only == part.name)).collect();
    if chosen.is_empty() {
        return Err("there is no such part; `cargo xtask test --list` shows them".into());
    }
    let mut rows = Vec::new();
    for (index, part) in chosen.iter().enumerate() {
        println!("== {}/{} {}: {}", index + 1, chosen.len(), part.name, part.what);
        let start = Instant::now();
        rows.push((part.name, (part.run)(), start.elapsed().as_secs()));
    }
    println!();
    for (name, result, seconds) in &rows {
        let verdict = result.as_ref().map_or_else(|error| format!("FAILED: {error}"), |()| "ok".into());
        println!("{name:<10} {seconds:>5} s  {verdict}");
    }
    let failed = rows.iter().filter(|(_, result, _)| result.is_err()).count();
    println!("{} passed, {failed} failed", rows.len() - failed);
    if failed == 0 { Ok(()) } else { Err(format!("{failed} part(s) failed")) }
}

fn fmt() -> Result<(), String> {
    call("cargo", &["fmt", "--all", "--check"], &[])
}

fn clippy() -> Result<(), String> {
    call("cargo", &["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"], &[])
}

fn docs() -> Result<(), String> {
    call("cargo", &["doc", "--workspace", "--no-deps", "--quiet"], &[("RUSTDOCFLAGS", "-D warnings")])
}

fn fuzz() -> Result<(), String> {
    call("cargo", &["run", "--quiet", "-p", "mecha-fuzz", "--", "--seconds", "5"], &[])
}

fn bench() -> Result<(), String> {
    // Unoptimised, and each once: it is not measured, only kept from rotting.
    call("cargo", &["test", "--quiet", "-p", "mecha-benches", "--benches"], &[])?;
    call("cargo", &["build", "--quiet"], &[])?;
    for script in ["benches/peers/peers.py", "benches/peers/tcp.py", "benches/peers/http_peers.py"] {
        call("python3", &[script, "--smoke", "--mecha", "target/debug/mecha"], &[])?;
    }
    Ok(())
}

fn servers() -> Result<(), String> {
    servers::installed()?;
    servers::newer()?;
    servers::kafka().map(drop)
}

fn unit() -> Result<(), String> {
    let newer = servers::newer()?.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(":");
    let kafka = servers::kafka()?.display().to_string();
    let environment =
        [("MECHA_REQUIRE_SERVERS", "1"), ("MECHA_NEWER_SERVERS", newer.as_str()), ("MECHA_KAFKA", &kafka)];
    call("cargo", &["test", "--workspace"], &environment)
}

fn examples() -> Result<(), String> {
    let folder = std::fs::read_dir("examples").map_err(|error| format!("examples: {error}"))?;
    // `tls.yaml` and `kafka-tls.yaml` name certificates of the machine that they run on: tests/it/tls.rs and
    // tests/it/kafka check them with some.
    // Folders are tried by tests of their own.
    let is_file = |entry: &std::fs::DirEntry| entry.path().extension().is_some_and(|ending| ending == "yaml");
    let is_tried_there = |entry: &std::fs::DirEntry| {
        ["tls.yaml", "kafka-tls.yaml"].iter().any(|name| entry.file_name() == *name)
    };
    for entry in folder.flatten().filter(|entry| is_file(entry) && !is_tried_there(entry)) {
        let path = entry.path().display().to_string();
        call("cargo", &["run", "--quiet", "--bin", "mecha", "--", "check", &path], &[])?;
    }
    Ok(())
}
