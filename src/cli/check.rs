//! `mecha check`: all errors of a file, or what it comes to.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::io::Read;
use std::path::Path;

use mecha_config::{
    Address, ClusterSpec, ConfigError, Discovery, FilterSpec, HealthCheckKind, Known, OutlierSpec, Snapshot,
};

use super::{Help, SupportRow, shown};

mod routes;

pub(crate) use routes::conditions;

/// A configuration file may have so many bytes; a larger one is a mistake.
const MAX_FILE: u64 = 4 << 20;

/// Reads a file.
pub(super) fn load(file: &Path, known: &Known<'_>) -> Result<Snapshot, String> {
    read(file, known).map_err(|errors| render(&shown(file), &errors))
}

/// As [`load`], with the errors one by one.
pub(super) fn read(file: &Path, known: &Known<'_>) -> Result<Snapshot, Vec<ConfigError>> {
    let name = shown(file);
    let cannot = |message: String, hint: &str| vec![ConfigError::new(&*name, message).hint(hint)];
    let look = std::fs::metadata(file).map_err(|error| {
        let hint = match error.kind() {
            std::io::ErrorKind::NotFound => "`mecha --help` shows a configuration file of three lines",
            _ => "check the path and its permissions",
        };
        cannot(format!("cannot read the file: {error}"), hint)
    })?;
    if look.is_dir() {
        return Err(cannot(
            "this is a directory".into(),
            "name the file in it, as in `mecha DIRECTORY/mecha.yaml`",
        ));
    }
    let mut bytes = Vec::new();
    let read = std::fs::File::open(file).and_then(|file| file.take(MAX_FILE + 1).read_to_end(&mut bytes));
    read.map_err(|error| cannot(format!("cannot read the file: {error}"), "check its permissions"))?;
    if bytes.len() as u64 > MAX_FILE {
        return Err(cannot(
            format!("the file is larger than {} MiB", MAX_FILE >> 20),
            "is this the right file?",
        ));
    }
    let text = String::from_utf8(bytes).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        let line =
            error.as_bytes().get(..at).map_or(0, |good| good.iter().filter(|byte| **byte == b'\n').count());
        cannot(format!("line {} is not UTF-8", line + 1), "save the file as UTF-8")
    })?;
    mecha_config::load(&text, &name, known)
}

/// All errors, one after the other.
pub(super) fn render(what: &str, errors: &[ConfigError]) -> String {
    let count = errors.len();
    let mut text = format!("{what} has {count} {}\n", if count == 1 { "error" } else { "errors" });
    for error in errors {
        let _ = write!(text, "\n{error}");
    }
    text
}

/// All errors, or the resolved plan.
pub(super) fn check(file: &Path, known: &Known<'_>, help: &Help, is_long: bool) -> Result<String, String> {
    let snapshot = load(file, known)?;
    let mut text = plan(&snapshot, help, is_long);
    for cluster in &snapshot.clusters {
        let Discovery::File { path, port } = &cluster.discovery else { continue };
        if !path.exists() {
            // It may be written only where mecha will run.
            let _ = writeln!(text, "\nnote: {} is not there yet", path.display());
            continue;
        }
        let listed = crate::discovery::read_file(path, *port);
        let listed = listed.map_err(|errors| render(&path.display().to_string(), &errors))?;
        let count = listed.iter().filter(|server| server.has(&cluster.alike.subset)).count();
        let _ = writeln!(text, "\n{} lists {count} servers for {}", path.display(), cluster.name);
    }
    Ok(text)
}

fn plan(snapshot: &Snapshot, help: &Help, is_long: bool) -> String {
    let mut text = String::from("the configuration is fine\n");
    let _ = writeln!(text, "\nworkers: {}", snapshot.workers);
    let admin = snapshot.admin.map_or_else(|| "none".to_string(), |admin| format!("http://{admin}/"));
    let _ = writeln!(text, "admin:   {admin}");
    for listener in &snapshot.listeners {
        let address = match &listener.address {
            Address::Tcp(addr) => addr.to_string(),
            Address::Unix(path) => format!("unix:{}", path.display()),
        };
        let _ = writeln!(text, "\nlistener {} ({} on {address})", listener.name, listener.protocol);
        let own = if listener.is_routed() { None } else { snapshot.clusters.get(listener.cluster) };
        let filters = listener.filters.iter().chain(own.iter().flat_map(|cluster| &cluster.filters));
        let _ = writeln!(text, "  filters: {}", names(filters));
        if let Some(detect) = &listener.detect {
            let ports = detect.ports.iter().map(|(port, name)| format!("port {port} -> {name}"));
            let spoken = detect.to.iter().map(|name| format!("its protocol -> {name}"));
            let named = detect.names.iter().map(|(host, name)| format!("TLS for {host} -> {name}"));
            let leads: Vec<_> = ports.chain(named).chain(spoken).collect();
            let _ = writeln!(
                text,
                "  detects: {}",
                if leads.is_empty() { "and counts".into() } else { leads.join(", ") }
            );
        }
        if let Some(users) = &listener.users {
            let names: Vec<_> = users.iter().map(|user| user.name.as_str()).collect();
            let _ = writeln!(text, "  users:   {}", names.join(", "));
        }
        routes::write(&mut text, snapshot, listener);
        let targets: BTreeSet<_> = listener.targets().into_iter().collect();
        targets
            .into_iter()
            .filter_map(|at| snapshot.clusters.get(at))
            .for_each(|cluster| health(&mut text, cluster));
        // Each pair once, however many routes lead there.
        let mut told = Vec::new();
        for cluster in listener.targets().into_iter().filter_map(|at| snapshot.clusters.get(at)) {
            if told.contains(&&cluster.protocol) {
                continue;
            }
            told.push(&cluster.protocol);
            let rows = (help.support)(&listener.protocol, &cluster.protocol);
            if listener.protocol == cluster.protocol || rows.is_empty() {
                text.push_str("  requests are passed on as they are\n");
            } else {
                support(&mut text, &rows, (&listener.protocol, &cluster.protocol), is_long);
            }
        }
    }
    text
}

/// How the servers of a cluster are looked at.
fn health(text: &mut String, cluster: &ClusterSpec) {
    if let Some(check) = &cluster.health_check {
        let what = match &check.kind {
            HealthCheckKind::Grpc(service) if service.is_empty() => "gRPC's health service".to_string(),
            HealthCheckKind::Grpc(service) => format!("gRPC's health service, about {service}"),
            HealthCheckKind::Http { path, .. } => format!("GET {path}"),
            HealthCheckKind::Protocol => format!("what clients of {} ask first", cluster.protocol),
            HealthCheckKind::Tcp => "a connection".to_string(),
        };
        let _ = writeln!(text, "  health:  {} is asked every {:?} by {what}", cluster.name, check.interval);
    }
    if let Some(outlier) = &cluster.outlier {
        let (name, OutlierSpec { failures, eject_for, .. }) = (&cluster.name, outlier);
        let _ = writeln!(
            text,
            "  health:  {name} leaves a server out for {eject_for:?} after {failures} failures"
        );
    }
}

fn names<'a>(filters: impl Iterator<Item = &'a FilterSpec>) -> String {
    let names: Vec<_> = filters.map(|filter| filter.name.as_str()).collect();
    if names.is_empty() { "none".into() } else { names.join(" -> ") }
}

/// What the translation can do.
fn support(text: &mut String, rows: &[SupportRow], (front, back): (&str, &str), is_long: bool) {
    let count = |support: &str| rows.iter().filter(|row| row.support == support).count();
    let _ = writeln!(
        text,
        "  requests are translated from {front} to {back}: {} commands exact, {} emulated, {} refused",
        count("exact"),
        count("emulated"),
        count("refused")
    );
    if is_long {
        for row in rows {
            let _ = writeln!(text, "    {:<9} {:<24} {}", row.support, row.command, row.note);
        }
        return;
    }
    let refused: Vec<_> =
        rows.iter().filter(|row| row.support == "refused").map(|row| row.command.as_str()).collect();
    let mut line = String::from("    refused:");
    for name in refused {
        if line.len() + name.len() > 108 {
            let _ = writeln!(text, "{line}");
            line = String::from("            ");
        }
        line.push(' ');
        line.push_str(name);
    }
    let _ = writeln!(text, "{line}\n  `mecha check --support FILE` lists every command");
}
