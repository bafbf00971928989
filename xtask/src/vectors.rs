//! `cargo xtask vectors`: records what real servers answer, for the tests of the codecs.
//!
//! Each file of `codecs/*/tests/vectors/` has one conversation: `> ` what a client sends, `< ` what the server answered,
//! escaped as in Rust's byte strings. A new request is a new line; this writes all answers anew.

use std::fmt::Write as _;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use super::clients::free_port;

/// A server that says nothing for so long has answered.
const QUIET: Duration = Duration::from_millis(60);

/// The files, and the server that answers: program and arguments, before the port.
const FILES: &[(&str, &[&str])] = &[
    ("codecs/resp/tests/vectors/resp2.txt", REDIS),
    ("codecs/resp/tests/vectors/resp3.txt", REDIS),
    ("codecs/memcached/tests/vectors/text.txt", MEMCACHED),
    ("codecs/memcached/tests/vectors/meta.txt", MEMCACHED),
    ("codecs/memcached/tests/vectors/binary.txt", MEMCACHED),
];

const REDIS: &[&str] =
    &["redis-server", "--bind", "127.0.0.1", "--save", "", "--enable-debug-command", "yes", "--port"];
const MEMCACHED: &[&str] = &["memcached", "-U", "0", "-u", "root", "-l", "127.0.0.1", "-p"];

/// Records every file.
///
/// # Errors
/// A server cannot be started, or a file is damaged.
pub(crate) fn run(_args: &[String]) -> Result<(), String> {
    FILES.iter().try_for_each(|(file, server)| record(Path::new(file), server))
}

struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn record(file: &Path, server: &[&str]) -> Result<(), String> {
    let failed = |error: std::io::Error| format!("{}: {error}", file.display());
    let old = std::fs::read_to_string(file).map_err(failed)?;
    let port = free_port()?;
    let mut command = Command::new(server[0]);
    let _server = Server(
        command.args(&server[1..]).arg(port.to_string()).stdout(Stdio::null()).spawn().map_err(failed)?,
    );
    let version = Command::new(server[0]).arg("--version").output().map_err(failed)?;
    let version = String::from_utf8_lossy(&version.stdout).lines().next().unwrap_or_default().to_string();
    let version = version.split(" sha=").next().unwrap_or_default();
    let connect = || {
        let stream = (0..100).find_map(|_| {
            std::thread::sleep(Duration::from_millis(20));
            TcpStream::connect(("127.0.0.1", port)).ok()
        });
        let stream = stream.ok_or("the server does not start")?;
        stream.set_read_timeout(Some(QUIET)).map_err(failed)?;
        Ok::<_, String>(stream)
    };
    let mut stream = connect()?;
    let mut new = format!("# Recorded by `cargo xtask vectors` from: {version}\n");
    for line in old.lines().filter(|line| !line.starts_with("< ") && !line.starts_with("# Recorded")) {
        let _ = writeln!(new, "{line}");
        let Some(request) = line.strip_prefix("> ") else { continue };
        stream.write_all(&bytes(request).ok_or_else(|| format!("what is this: {line}"))?).map_err(failed)?;
        let (answer, is_over) = answer(&mut stream);
        if !answer.is_empty() {
            let _ = writeln!(new, "< {}", answer.escape_ascii());
        }
        if is_over {
            stream = connect()?;
        }
    }
    println!("{}: {} requests", file.display(), new.matches("\n> ").count());
    std::fs::write(file, new).map_err(failed)
}

/// Everything that comes until nothing comes any more, and whether the server has ended the connection.
fn answer(stream: &mut TcpStream) -> (Vec<u8>, bool) {
    let (mut all, mut buffer) = (Vec::new(), [0; 64 << 10]);
    while let Ok(count) = stream.read(&mut buffer) {
        if count == 0 {
            return (all, true);
        }
        all.extend_from_slice(&buffer[..count]);
    }
    (all, false)
}

/// The bytes of an escaped line.
fn bytes(text: &str) -> Option<Vec<u8>> {
    let mut out = Vec::new();
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        out.push(match (byte, if byte == b'\\' { rest.next()? } else { 0 }) {
            (b'\\', b'x') => {
                let digits = [rest.next()?, rest.next()?];
                u8::from_str_radix(std::str::from_utf8(&digits).ok()?, 16).ok()?
            }
            (b'\\', b'n') => b'\n',
            (b'\\', b'r') => b'\r',
            (b'\\', b't') => b'\t',
            (b'\\', other) => other,
            (plain, _) => plain,
        });
    }
    Some(out)
}
