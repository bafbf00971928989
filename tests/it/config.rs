//! What `mecha check` says, letter by letter: every file in `tests/data/config` beside what is expected of it.
//!
//! `MECHA_BLESS=1 cargo test --test it config` writes what is said now; read the difference before you commit it.

use std::path::Path;
use std::process::Command;

const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/config");

/// Exit code and everything that is said about `file`.
fn checked(file: &str) -> (i32, String) {
    let output =
        Command::new(env!("CARGO_BIN_EXE_mecha")).args(["check", file]).current_dir(FOLDER).output().unwrap();
    let text = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
    (output.status.code().unwrap(), text)
}

#[test]
fn every_wrong_file_is_explained_as_expected() {
    let mut count = 0;
    for entry in std::fs::read_dir(FOLDER).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "yaml") {
            continue;
        }
        count += 1;
        let (code, said) = checked(path.file_name().unwrap().to_str().unwrap());
        assert_eq!(code, 1, "{said}");
        let expected = path.with_extension("txt");
        if std::env::var_os("MECHA_BLESS").is_some() {
            std::fs::write(&expected, &said).unwrap();
        }
        assert_eq!(said, std::fs::read_to_string(&expected).unwrap(), "{}", path.display());
        for error in said.split("\nerror: ").skip(1) {
            let is_placed = error.contains("  --> ") && error.contains(".yaml");
            assert!(
                is_placed && error.contains("  hint: "),
                "{}: no place or no hint: {error}",
                path.display()
            );
        }
    }
    assert!(count >= 12, "only {count} files were found");
}

#[test]
fn what_is_no_configuration_file_is_told_apart() {
    let (code, said) = checked("nosuch.yaml");
    assert!(code == 1 && said.contains("No such file") && said.contains("mecha --help"), "{said}");
    let (code, said) = checked("..");
    assert!(code == 1 && said.contains("this is a directory"), "{said}");
    // A hole of a hundred megabytes: never read whole.
    let path = std::env::temp_dir().join(format!("mecha-large-{}.yaml", std::process::id()));
    std::fs::File::create(&path).unwrap().set_len(100 << 20).unwrap();
    let (code, said) = checked(path.to_str().unwrap());
    std::fs::remove_file(&path).unwrap();
    assert!(code == 1 && said.contains("larger than 4 MiB"), "{said}");
}

#[test]
fn every_example_is_fine() {
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples");
    for entry in std::fs::read_dir(examples).unwrap() {
        let path = entry.unwrap().path();
        // Names files of the machine that it runs on: checked with files by the tests of TLS.
        if ["tls.yaml", "kafka-tls.yaml"].iter().any(|name| path.ends_with(name)) {
            continue;
        }
        if path.extension().is_some_and(|extension| extension == "yaml") {
            let (code, said) = checked(path.to_str().unwrap());
            assert!(code == 0 && said.starts_with("the configuration is fine"), "{}: {said}", path.display());
        }
    }
}
