//! Cluster-aware clients in other languages: they must find a cluster of mecha's addresses on every back, and use all of it.

use std::net::TcpListener;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use crate::clients::{Mecha, Process, Program, free_port, start, talk};

const PROGRAMS: &[Program] = &[
    Program {
        name: "redis-py",
        door: "redis",
        command: &["{cache}/python/bin/python", "cluster_program.py", "{port}", "{kind}"],
        folder: "python",
    },
    Program {
        name: "go-redis",
        door: "redis",
        command: &["{cache}/go/cluster", "{port}", "{kind}"],
        folder: "go",
    },
    Program {
        name: "ioredis",
        door: "redis",
        command: &["node", "cluster_program.js", "{port}", "{kind}"],
        folder: "node",
    },
    Program {
        name: "jedis",
        door: "redis",
        command: &[
            "java",
            "-Xmx256m",
            "-cp",
            "{cache}/java/classes:{cache}/java/libs/*",
            "ClusterProgram",
            "{port}",
            "{kind}",
        ],
        folder: "java",
    },
];

/// Runs every program on a real cluster, and through mecha on that, on one server and on the embedded store. Returns what
/// they say of themselves.
///
/// # Errors
/// What failed.
pub(crate) fn run(root: &Path, cache: &Path, redis_port: u16) -> Result<String, String> {
    let folder = cache.join("cluster");
    let _ = std::fs::remove_dir_all(&folder);
    let servers: Vec<_> = (0..3).map(|_| server(&folder)).collect::<Result<_, _>>()?;
    let seeds: Vec<_> = servers.iter().map(|(_, port)| format!("127.0.0.1:{port}")).collect();
    let words: Vec<_> = ["--cluster", "create"]
        .into_iter()
        .chain(seeds.iter().map(String::as_str))
        .chain(["--cluster-yes"])
        .collect();
    crate::call("redis-cli", &words, &[])?;
    for (_, port) in &servers {
        wait_until_up(*port)?;
    }
    let first = servers.first().map_or(0, |(_, port)| *port);
    let backs = [
        ("cluster", "full", format!("redis-cluster://127.0.0.1:{first}")),
        ("redis", "full", format!("redis://127.0.0.1:{redis_port}")),
        ("embedded", "portable", "embedded://".into()),
    ];
    let mut table = String::new();
    for program in PROGRAMS {
        let checks = talk(program, root, cache, first, "full", "direct")?;
        table += &format!("{:<12} {:<10} {checks}\n", program.name, "direct");
        for (back, kind, to) in &backs {
            let mecha = Mecha::announced(root, &folder, to)?;
            let checks = talk(program, root, cache, mecha.port, kind, back)?;
            let calls = mecha.calls_by_listener(&["one", "two"])?;
            if calls.iter().any(|calls| *calls < 50.0) {
                return Err(format!("{} on {back}: {calls:?} calls crossed the two addresses", program.name));
            }
            table += &format!("{:<12} {back:<10} {checks}, {calls:?} calls\n", program.name);
        }
    }
    Ok(table)
}

/// A cluster that was just made is down for a moment, on each of its servers for itself.
fn wait_until_up(port: u16) -> Result<(), String> {
    for _ in 0..200 {
        let asked = Command::new("redis-cli").args(["-p", &port.to_string(), "cluster", "info"]).output();
        let told = asked.map_err(|error| format!("redis-cli: {error}"))?.stdout;
        if String::from_utf8_lossy(&told).contains("cluster_state:ok") {
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    Err(format!("the cluster's server on port {port} does not come up"))
}

/// One server of a cluster that is still to be made.
fn server(folder: &Path) -> Result<(Process, u16), String> {
    // The cluster's own port lies 10,000 above, among those that the system gives away.
    let port = loop {
        let port = free_port()?;
        if TcpListener::bind(("127.0.0.1", port + 10_000)).is_ok() {
            break port;
        }
    };
    let folder = folder.join(port.to_string());
    std::fs::create_dir_all(&folder).map_err(|error| error.to_string())?;
    let (text, folder) = (port.to_string(), folder.display().to_string());
    let args =
        ["--bind", "127.0.0.1", "--save", "", "--cluster-enabled", "yes", "--port", &text, "--dir", &folder];
    Ok((start("redis-server", &args, port)?, port))
}
