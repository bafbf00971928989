//! Dependencies point downwards: the table of ARCHITECTURE.md, as a test.

use std::process::Command;

use serde_json::Value;

/// Level of each crate; an edge goes to a lower level only.
const LEVELS: [(&str, u8); 10] = [
    ("mecha-core", 1),
    ("mecha-resp", 2),
    ("mecha-memcached", 2),
    ("mecha-transport", 2),
    ("mecha-config", 2),
    ("mecha-telemetry", 2),
    ("mecha-filters", 3),
    ("mecha-translate", 3),
    ("mecha-clusters", 3),
    ("mecha", 4),
];

/// Crates that may not name a runtime.
const SANS_IO: [&str; 5] =
    ["mecha-core", "mecha-resp", "mecha-memcached", "mecha-translate", "mecha-filters"];

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
