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
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let listen = format!("redis://{}", taken.local_addr().unwrap());
    let (is_fine, text) = run(&["--listen", &listen, "--to", "embedded://"]);
    assert!(!is_fine && text.contains("fix:"), "{text}");
}
