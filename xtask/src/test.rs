//! `cargo xtask test`: from a fresh machine to a verdict.
#![expect(clippy::disallowed_methods, reason = "chores time themselves")]

use std::process::{Command, Stdio};
use std::time::Instant;

/// One part of the suite: its name, what it does, and how.
struct Part {
    name: &'static str,
    what: &'static str,
    run: fn() -> Result<(), String>,
}

const PARTS: &[Part] = &[
    Part { name: "servers", what: "redis-server and memcached are here, or are installed", run: servers },
    Part { name: "unit", what: "unit, property and differential tests of every crate", run: unit },
    Part { name: "examples", what: "every example passes `mecha check`", run: examples },
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

fn call(program: &str, args: &[&str], environment: &[(&str, &str)]) -> Result<(), String> {
    println!("$ {program} {}", args.join(" "));
    let status = Command::new(program).args(args).envs(environment.iter().copied()).status();
    match status {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(format!("{program} {} ended with {status}", args.join(" "))),
        Err(error) => Err(format!("{program}: {error}")),
    }
}

fn has(program: &str) -> bool {
    Command::new(program).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok()
}

fn servers() -> Result<(), String> {
    let wanted = [("redis-server", "redis-server"), ("redis-cli", "redis-tools"), ("memcached", "memcached")];
    let missing: Vec<_> =
        wanted.iter().filter(|(program, _)| !has(program)).map(|(_, package)| *package).collect();
    if missing.is_empty() {
        println!("all there");
        return Ok(());
    }
    // Packages of servers start them; the tests start their own.
    let quiet = [("DEBIAN_FRONTEND", "noninteractive"), ("RUNLEVEL", "1")];
    let (program, first): (&str, &[&str]) =
        if has("sudo") { ("sudo", &["-E", "apt-get"]) } else { ("apt-get", &[]) };
    let with = |args: &[&'static str]| first.iter().copied().chain(args.iter().copied()).collect::<Vec<_>>();
    call(program, &with(&["update", "-qq"]), &quiet)?;
    let mut install = with(&["install", "-y", "-qq", "--no-install-recommends"]);
    install.extend(missing);
    call(program, &install, &quiet)
}

fn unit() -> Result<(), String> {
    call("cargo", &["test", "--workspace"], &[("MECHA_REQUIRE_SERVERS", "1")])
}

fn examples() -> Result<(), String> {
    let folder = std::fs::read_dir("examples").map_err(|error| format!("examples: {error}"))?;
    for entry in folder.flatten() {
        let path = entry.path().display().to_string();
        call("cargo", &["run", "--quiet", "--bin", "mecha", "--", "check", &path], &[])?;
    }
    Ok(())
}
