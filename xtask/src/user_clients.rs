//! Clients with a name and a password: users of mecha on every back, users of a Memcached with SASL whose logins pass
//! through, and clients without one for whom mecha logs in there.

use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::clients::{Mecha, Process, Program, free_port, start_with, talk};

const REDIS_PY: Program = Program {
    name: "redis-py",
    door: "redis",
    command: &["{cache}/python/bin/python", "users_program.py", "{port}", "redis"],
    folder: "python",
};
const GO_REDIS: Program = Program {
    name: "go-redis",
    door: "redis",
    command: &["{cache}/go/users", "{port}", "redis"],
    folder: "go",
};
const MEMCACHED: Program = Program {
    name: "bmemcached",
    door: "memcached",
    command: &["{cache}/python/bin/python", "users_program.py", "{port}", "{kind}"],
    folder: "python",
};

/// Of mecha: the SHA-256 of `password`.
const USERS: &str = "users: { app: \"#5e884898da28047151d0e56f8dc6292773603d0d6aabbdd62a11ef721d1542d8 ~app:* &* \
                     +@all -@dangerous\" }\n";

/// Runs every program on every back that it is for. Returns what they say of themselves.
///
/// # Errors
/// What failed.
pub(crate) fn run(root: &Path, cache: &Path, backs: &[(&str, String)]) -> Result<String, String> {
    let folder = cache.join("users");
    let _ = std::fs::remove_dir_all(&folder);
    std::fs::create_dir_all(&folder).map_err(|error| error.to_string())?;
    let (_server, sasl) = memcached_with_sasl(&folder)?;
    let to_sasl = format!("memcached://127.0.0.1:{sasl}");
    // The program itself is proved against the server first.
    let mut table = format!(
        "{:<12} {:<10} {}\n",
        "bmemcached",
        "direct",
        talk(&MEMCACHED, root, cache, sasl, "sasl", "direct")?
    );
    let open = |to: &str| format!("clusters: {{ back: \"{to}\" }}\n");
    let mut cases = Vec::new();
    for (back, to) in backs {
        cases.push((&MEMCACHED, "memcached", *back, USERS, open(to)));
        if *back != "memcached" {
            cases.push((&REDIS_PY, "redis", back, USERS, open(to)));
            cases.push((&GO_REDIS, "redis", back, USERS, open(to)));
        }
    }
    cases.push((&MEMCACHED, "sasl", "sasl", "", open(&to_sasl)));
    let login = "auth: { username: app, password: password }";
    let logged_in = format!("clusters: {{ back: {{ to: \"{to_sasl}\", {login} }} }}\n");
    cases.push((&MEMCACHED, "anonymous", "sasl", "", logged_in));
    for (program, kind, back, users, clusters) in cases {
        let port = free_port()?;
        let door = program.door;
        let listener = format!("listeners: [ {{ listen: \"{door}://127.0.0.1:{port}\", to: back }} ]\n");
        let text = format!("{listener}{clusters}{users}workers: 2\n");
        let mecha = Mecha::configured(root, &folder.join("mecha.yaml"), &text, port)?;
        let checks = talk(program, root, cache, mecha.port, kind, back)?;
        let calls = mecha.calls()?;
        if calls < 50.0 {
            return Err(format!("{} on {back}: only {calls} calls crossed mecha", program.name));
        }
        table += &format!("{:<12} {back:<10} {kind} users: {checks}, {calls} calls\n", program.name);
    }
    Ok(table)
}

/// A Memcached that wants a login, and knows one.
fn memcached_with_sasl(folder: &Path) -> Result<(Process, u16), String> {
    let told = |error: std::io::Error| format!("{}: {error}", folder.display());
    let database = folder.join("sasldb").display().to_string();
    let settings = format!("mech_list: plain\nsasldb_path: {database}\n");
    std::fs::write(folder.join("memcached.conf"), settings).map_err(told)?;
    let mut child = Command::new("saslpasswd2")
        .args(["-p", "-f", &database, "-a", "memcached", "-c", "app"])
        .stdin(Stdio::piped())
        .spawn()
        .map_err(|error| format!("saslpasswd2: {error}"))?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(b"password").map_err(told)?;
    }
    if !child.wait().map_err(told)?.success() {
        return Err("saslpasswd2 did not make a user".into());
    }
    let port = free_port()?;
    let args = ["-S", "-U", "0", "-u", "root", "-l", "127.0.0.1", "-p", &port.to_string()];
    let at = folder.display().to_string();
    Ok((start_with("memcached", &args, port, &[("SASL_CONF_PATH", &at)])?, port))
}
