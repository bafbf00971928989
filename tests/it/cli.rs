//! The command line.

use std::net::TcpListener;
use std::process::Command;

#[test]
fn the_command_line_explains_itself() {
    let run = |args: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_mecha")).args(args).output().unwrap();
        (
            output.status.success(),
            String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned(),
        )
    };
    assert!(run(&["--help"]).1.contains("Examples:"));
    assert!(run(&["filters", "rate_limit"]).1.contains("permits"));
    assert!(run(&["schema"]).1.contains("\"listeners\""));
    let (is_fine, text) = run(&["--listen", "redis://127.0.0.1:1", "--to", "memcach://x"]);
    assert!(!is_fine && text.contains("did you mean `memcached`?"), "{text}");
    for (wrong, meant) in [("chek", "check"), ("filter", "filters"), ("shema", "schema")] {
        for args in [&[wrong][..], &[wrong, "mecha.yaml"]] {
            let (is_fine, text) = run(args);
            let hint = format!("did you mean `mecha {meant}`?");
            assert!(!is_fine && text.contains(&format!("`{wrong}`")) && text.contains(&hint), "{text}");
        }
    }
    let (is_fine, text) = run(&["nosuch.yaml"]);
    assert!(!is_fine && text.contains("No such file"), "{text}");
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let listen = format!("redis://{}", taken.local_addr().unwrap());
    let (is_fine, text) = run(&["--listen", &listen, "--to", "embedded://"]);
    assert!(!is_fine && text.contains("fix:"), "{text}");
}

#[test]
fn a_checked_cluster_is_told_as_what_it_is() {
    let file = std::env::temp_dir().join(format!("mecha-told-{}.yaml", std::process::id()));
    let text = "listeners:
  - { listen: redis://127.0.0.1:7001, to: \"redis-cluster://a:1,b:1\" }
  - { listen: redis://127.0.0.1:7002, to: \"redis-sentinel://a:1,b:1/main\" }
  - { listen: redis://127.0.0.1:7003, to: \"redis://a:1,b:1\" }
";
    std::fs::write(&file, text).unwrap();
    let output =
        Command::new(env!("CARGO_BIN_EXE_mecha")).args(["check", file.to_str().unwrap()]).output().unwrap();
    std::fs::remove_file(&file).unwrap();
    let told = String::from_utf8_lossy(&output.stdout);
    let lines: Vec<_> = told.lines().filter(|line| line.contains("a:1, b:1")).collect();
    assert!(lines.len() == 3 && output.status.success(), "{told}");
    assert!(lines[0].contains("a Redis Cluster, by its slots; asked first: a:1, b:1"), "{told}");
    assert!(lines[1].contains("the primary of `main`, as sentinels tell: a:1, b:1"), "{told}");
    assert!(lines[2].ends_with("a:1, b:1 by ketama"), "{told}");
}
