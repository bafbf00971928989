//! Dependencies point downwards: the table of ARCHITECTURE.md, as a test.

use std::process::Command;

use serde_json::Value;

/// Level of each crate; an edge goes to a lower level only.
const LEVELS: [(&str, u8); 13] = [
    ("mecha-core", 1),
    ("mecha-resp", 2),
    ("mecha-memcached", 2),
    ("mecha-http", 2),
    ("mecha-kafka", 2),
    ("mecha-transport", 2),
    ("mecha-config", 2),
    ("mecha-telemetry", 2),
    ("mecha-translate", 3),
    ("mecha-clusters", 3),
    ("mecha-users", 3),
    ("mecha-filters", 4),
    ("mecha", 5),
];

/// Crates that may not name a runtime.
const SANS_IO: [&str; 8] = [
    "mecha-core",
    "mecha-http",
    "mecha-resp",
    "mecha-memcached",
    "mecha-kafka",
    "mecha-translate",
    "mecha-filters",
    "mecha-users",
];

#[test]
fn dependencies_point_downwards_only() {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--no-deps", "--format-version", "1", "--manifest-path"])
        .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml"))
        .output()
        .unwrap();
    let metadata: Value = serde_json::from_slice(&output.stdout).unwrap();
    let level = |name: &str| LEVELS.iter().find(|(known, _)| *known == name).map(|(_, level)| *level);
    for package in metadata["packages"].as_array().unwrap() {
        let name = package["name"].as_str().unwrap();
        if ["mecha-benches", "mecha-fuzz", "xtask"].contains(&name) {
            continue;
        }
        let own =
            level(name).unwrap_or_else(|| panic!("{name} has no level: add it to ARCHITECTURE.md and here"));
        for dependency in package["dependencies"].as_array().unwrap() {
            let other = dependency["name"].as_str().unwrap();
            let is_dev = dependency["kind"].as_str() == Some("dev");
            if let Some(other_level) = level(other) {
                assert!(is_dev || other_level < own, "{name} depends on {other}, which is not below it");
            }
            assert!(is_dev || !(SANS_IO.contains(&name) && other == "tokio"), "{name} names a runtime");
        }
    }
}

/// The rules of deny.toml that need no advisory database.
#[test]
fn outside_crates_are_those_that_deny_toml_allows() {
    let rules = include_str!("../deny.toml");
    let is_listed = |what: &str| rules.contains(&format!("\"{what}\""));
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--filter-platform", "x86_64-unknown-linux-gnu"])
        .args(["--manifest-path", concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml")])
        .output()
        .unwrap();
    let metadata: Value = serde_json::from_slice(&output.stdout).unwrap();
    let nodes = metadata["resolve"]["nodes"].as_array().unwrap();
    let used = |id: &Value| nodes.iter().any(|node| node["id"] == *id);
    let mut versions = std::collections::BTreeMap::<&str, Vec<&str>>::new();
    for package in metadata["packages"].as_array().unwrap().iter().filter(|package| used(&package["id"])) {
        let (name, version) = (package["name"].as_str().unwrap(), package["version"].as_str().unwrap());
        assert!(!["aws-lc-rs", "openssl-sys"].contains(&name), "{name} is banned");
        versions.entry(name).or_default().push(version);
        let licence = package["license"].as_str().unwrap_or_else(|| panic!("{name} has no licence"));
        let licence = licence.replace(['(', ')'], "").replace('/', " OR ");
        // "A AND B" wants both, "A OR B" one of them.
        let is_allowed = licence.split(" AND ").all(|all| all.split(" OR ").any(|one| is_listed(one.trim())));
        assert!(is_allowed, "{name}: the licence {licence} is not allowed");
    }
    for (name, versions) in versions.iter().filter(|(_, versions)| versions.len() > 1) {
        let is_skipped = versions.iter().filter(|version| {
            let mut parts = version.split('.');
            let (major, minor) = (parts.next().unwrap(), parts.next().unwrap());
            is_listed(&format!("{name}@{major}")) || is_listed(&format!("{name}@{major}.{minor}"))
        });
        assert!(is_skipped.count() + 1 >= versions.len(), "{name} is there in versions {versions:?}");
    }
}
