//! `cargo xtask test --only http`: what others have written to try HTTP/2 and gRPC, against mecha.
//!
//! h2spec tries the door alone; gRPC's interoperability cases go through mecha to gRPC's own test server, in every pair of
//! plain and TLS, and first to the server itself: what fails there says nothing about mecha.

use std::path::Path;
use std::process::Command;

use crate::clients::{Mecha, Process, free_port, start};

/// Where programs are built; not under version control.
const CACHE: &str = ".cache/http";

/// gRPC's interoperability cases that need no credentials of a cloud ("gRPC interoperability test case descriptions").
const CASES: &[&str] = &[
    "empty_unary",
    "large_unary",
    "client_streaming",
    "server_streaming",
    "ping_pong",
    "empty_stream",
    "timeout_on_sleeping_server",
    "cancel_after_begin",
    "cancel_after_first_response",
    "status_code_and_message",
    "special_status_message",
    "custom_metadata",
    "unimplemented_method",
    "unimplemented_service",
];

/// What h2spec may complain of, and why.
const EXCEPTIONS: &[&str] = &[
    // The answer to the request was on its way before the client took the request back.
    "closed: Sends a DATA frame after sending RST_STREAM frame",
    // The port speaks HTTP/1.1 as well, and it is in that version that the client is told (400) before the connection ends.
    "Sends invalid connection preface",
];

/// Builds and runs everything.
///
/// # Errors
/// What failed.
pub(crate) fn run() -> Result<(), String> {
    let root = std::env::current_dir().map_err(|error| error.to_string())?;
    let cache = root.join(CACHE);
    std::fs::create_dir_all(&cache).map_err(|error| error.to_string())?;
    let mut missing = Vec::new();
    for (program, argument, package) in [("go", "version", "golang"), ("openssl", "version", "openssl")] {
        if !Command::new(program).arg(argument).output().is_ok_and(|output| output.status.success()) {
            missing.push(package);
        }
    }
    crate::servers::install(missing)?;
    for package in [
        "github.com/summerwind/h2spec/cmd/h2spec",
        "google.golang.org/grpc/interop/client",
        "google.golang.org/grpc/interop/server",
    ] {
        println!("$ go build {package}");
        let name = package.rsplit_once("grpc/").map_or("h2spec", |(_, name)| name).replace('/', "-");
        let mut build = Command::new("go");
        build
            .arg("build")
            .arg("-o")
            .arg(cache.join(name))
            .arg(package)
            .current_dir(root.join("tests/clients/http"));
        succeeds(&mut build)?;
    }
    succeeds(Command::new("cargo").args(["build", "--quiet", "--bin", "mecha"]).current_dir(&root))?;
    certificates(&cache)?;
    h2spec(&root, &cache)?;
    grpc(&root, &cache)
}

fn succeeds(command: &mut Command) -> Result<(), String> {
    match command.status() {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(format!("{command:?} ended with {status}")),
        Err(error) => Err(format!("{command:?}: {error}")),
    }
}

/// An authority, and a certificate of it for this machine.
fn certificates(cache: &Path) -> Result<(), String> {
    let openssl = |words: &[&str]| {
        let output = Command::new("openssl").args(words).current_dir(cache).output();
        let output = output.map_err(|error| format!("openssl: {error}"))?;
        let complaint =
            || format!("openssl {}: {}", words.join(" "), String::from_utf8_lossy(&output.stderr));
        if output.status.success() { Ok(()) } else { Err(complaint()) }
    };
    let key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"];
    let ca = ["req", "-x509", "-subj", "/CN=authority", "-days", "2", "-keyout", "ca.key", "-out", "ca.pem"];
    openssl(&[&ca[..], &key[..]].concat())?;
    let request = ["req", "-subj", "/CN=localhost", "-keyout", "server.key", "-out", "server.csr"];
    openssl(&[&request[..], &key[..]].concat())?;
    let names = "subjectAltName=DNS:localhost,IP:127.0.0.1\nbasicConstraints=CA:FALSE\n";
    std::fs::write(cache.join("names"), names).map_err(|error| error.to_string())?;
    openssl(&[
        "x509",
        "-req",
        "-in",
        "server.csr",
        "-CA",
        "ca.pem",
        "-CAkey",
        "ca.key",
        "-CAcreateserial",
        "-days",
        "2",
        "-extfile",
        "names",
        "-out",
        "server.pem",
    ])
}

/// mecha with these listeners, of which each has a `{port}` that is filled in; returns their ports.
fn mecha(
    root: &Path,
    cache: &Path,
    listeners: &[String],
    clusters: &str,
) -> Result<(Mecha, Vec<u16>), String> {
    let ports = listeners.iter().map(|_| free_port()).collect::<Result<Vec<_>, _>>()?;
    let filled = listeners.iter().zip(&ports).map(|(text, port)| text.replace("{port}", &port.to_string()));
    let text = format!("listeners:\n{}{clusters}workers: 1\n", filled.collect::<String>());
    let file = cache.join("mecha.yaml");
    let first = *ports.first().ok_or("no listener")?;
    Ok((Mecha::configured(root, &file, &text, first)?, ports))
}

fn h2spec(root: &Path, cache: &Path) -> Result<(), String> {
    let inner = free_port()?;
    let listeners = [
        format!(
            "  - {{ name: door, listen: 'http://127.0.0.1:{{port}}', to: 'http://127.0.0.1:{inner}' }}\n"
        ),
        format!(
            "  - {{ name: inner, listen: 'http://127.0.0.1:{inner}', to: 'http://127.0.0.1:1', routes: [ {{ prefix: /, respond: {{ body: hello }} }} ] }}\n"
        ),
    ];
    let (mecha, ports) = mecha(root, cache, &listeners, "")?;
    let port = ports.first().map(ToString::to_string).unwrap_or_default();
    let output =
        Command::new(cache.join("h2spec")).args(["-h", "127.0.0.1", "-p", &port, "-o", "5"]).output();
    let output = output.map_err(|error| format!("h2spec: {error}"))?;
    let text = String::from_utf8_lossy(&output.stdout);
    let failed: Vec<_> = text.lines().filter_map(|line| line.trim().strip_prefix("× ")).collect();
    let is_excepted = |line: &&str| EXCEPTIONS.iter().any(|exception| line.contains(exception));
    let bad: Vec<_> = failed.iter().filter(|line| !is_excepted(line)).collect();
    let summary = text.lines().rfind(|line| line.contains(" tests, ")).unwrap_or("it said nothing");
    println!("h2spec: {summary}");
    if !bad.is_empty() || !summary.starts_with("145 tests") {
        return Err(format!("h2spec: {bad:?}\n{text}"));
    }
    let calls: f64 = mecha.calls_by_listener(&["inner"])?.iter().sum();
    if calls < 30.0 { Err(format!("only {calls} requests of h2spec crossed mecha")) } else { Ok(()) }
}

fn grpc(root: &Path, cache: &Path) -> Result<(), String> {
    let file = |name: &str| cache.join(name).display().to_string();
    let (cert, key, ca) = (file("server.pem"), file("server.key"), file("ca.pem"));
    let server = |tls: &[&str]| -> Result<(Process, u16), String> {
        let port = free_port()?;
        let own = format!("-port={port}");
        let args: Vec<_> = [&[own.as_str()], tls].concat();
        Ok((start(&file("interop-server"), &args, port)?, port))
    };
    let (_plain, plain) = server(&[])?;
    let (_tls, tls) =
        server(&["-use_tls", &format!("-tls_cert_file={cert}"), &format!("-tls_key_file={key}")])?;
    let block = format!("tls: {{ cert: {cert}, key: {key} }}");
    let listeners = [
        "  - { name: plain-plain, listen: 'http://127.0.0.1:{port}', to: plain }\n".to_string(),
        "  - { name: plain-tls, listen: 'http://127.0.0.1:{port}', to: tls }\n".to_string(),
        format!("  - {{ name: tls-plain, listen: 'https://127.0.0.1:{{port}}', to: plain, {block} }}\n"),
        format!("  - {{ name: tls-tls, listen: 'https://127.0.0.1:{{port}}', to: tls, {block} }}\n"),
    ];
    let clusters = format!(
        "clusters:\n  plain: {{ to: 'grpc://127.0.0.1:{plain}' }}\n  tls: {{ to: 'grpcs://127.0.0.1:{tls}', tls: {{ ca: {ca}, server_name: localhost }} }}\n"
    );
    let (mecha, ports) = mecha(root, cache, &listeners, &clusters)?;
    let with_tls = ["-use_tls", "-use_test_ca", &format!("-ca_file={ca}"), "-server_host_override=localhost"];
    let run = |port: u16, is_tls: bool, name: &str| -> Result<(), String> {
        for case in CASES {
            let mut client = Command::new(cache.join("interop-client"));
            client.args([
                "-server_host=127.0.0.1".to_string(),
                format!("-server_port={port}"),
                format!("-test_case={case}"),
            ]);
            if is_tls {
                client.args(with_tls);
            }
            let output = client.output().map_err(|error| format!("interop-client: {error}"))?;
            if !output.status.success() {
                let said = String::from_utf8_lossy(&output.stderr).into_owned();
                return Err(format!("gRPC {name}: {case} failed: {said}"));
            }
        }
        println!("gRPC {name}: {} cases", CASES.len());
        Ok(())
    };
    run(plain, false, "direct")?;
    run(tls, true, "direct with TLS")?;
    let names = ["plain-plain", "plain-tls", "tls-plain", "tls-tls"];
    for (name, port) in names.iter().zip(ports) {
        run(port, name.starts_with("tls"), name)?;
    }
    let calls = mecha.calls_by_listener(&names)?;
    if calls.iter().any(|calls| *calls < 14.0) {
        return Err(format!("too few gRPC calls crossed mecha: {calls:?}"));
    }
    Ok(())
}
