//! Records of many bytes, which go on without being copied where nobody looks at them.

use super::{bootstrap, kcat, topic};
use crate::support::{Mecha, kafka};

/// Lines of some hundred kilobytes that have nothing in common.
fn lines(count: usize) -> String {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut text = String::new();
    for at in 0..count {
        for _ in 0..(4_000 + 200 * at) {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            text += &format!("{state:016x}");
        }
        text.push('\n');
    }
    text
}

#[test]
fn large_records_arrive_byte_for_byte_by_every_way() {
    let Some(kafka) = kafka() else { return };
    let lines = lines(120);
    for brokers in ["{ ports: none }", "{ host: 127.0.0.1 }"] {
        let listener =
            format!("{{ listen: \"kafka://127.0.0.1:0\", to: \"{}\", brokers: {brokers} }}", kafka.target());
        let mecha = Mecha::configured(&format!("listeners:\n- {listener}\nworkers: 1\n"));
        let name = if brokers.contains("none") { "large-one" } else { "large-each" };
        topic(&mecha, name, 1);
        // By Kafka's newest client too, whose answers have addresses at their end.
        let args = ["-P", "-t", name, "-X", "message.max.bytes=2000000", "-X", "acks=all"];
        kcat(&mecha, &args, &lines);
        let got = kcat(&mecha, &["-C", "-t", name, "-o", "beginning", "-e", "-q"], "");
        assert!(got == lines, "{brokers}: {} of {} bytes", got.len(), lines.len());
        let servers = bootstrap(&mecha);
        let args = ["--bootstrap-server", &servers, "--topic", name, "--max-messages", "120"];
        let got = crate::support::tool(
            "consumer.ConsoleConsumer",
            &[&args[..], &["--from-beginning", "--timeout-ms", "60000"]].concat(),
        );
        assert!(got == lines, "{brokers}: {} of {} bytes", got.len(), lines.len());
    }
    kafka.assert_hidden();
}
