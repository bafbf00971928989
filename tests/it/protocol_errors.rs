//! Bytes that break the protocol: answered in their turn, with the server's words, and the connection ends.

use std::time::Duration;

use super::state::Twins;
use super::support::{Client, PATIENCE};

#[test]
fn a_protocol_error_is_answered_behind_calls_that_had_to_wait() {
    let Some(twins) = Twins::start() else { return };
    for port in [twins.direct, twins.mecha.port] {
        let mut client = Client::new(port);
        assert_eq!(client.call("SELECT 1"), "+OK\r\n");
        // The length waits until the dedicated connection is given back.
        client.send(b"SELECT 0\r\nXLEN k\r\nGET \"k\r\n");
        assert_eq!([client.reply(), client.reply()].concat(), "+OK\r\n:0\r\n");
        assert_eq!(client.reply(), "-ERR Protocol error: unbalanced quotes in request\r\n");
        assert!(client.is_closed());
    }
    twins.mecha.settles();
}

#[test]
fn a_protocol_error_is_answered_behind_replies_that_are_not_counted() {
    let Some(twins) = Twins::start() else { return };
    let wrong: &[u8] = b"GET \"k\r\nPING\r\n";
    let starts: [&[u8]; 5] = [
        b"SUBSCRIBE a b c\r\nUNSUBSCRIBE a\r\nPING\r\n",
        b"GET k\r\nPSUBSCRIBE a*\r\n",
        b"CLIENT REPLY OFF\r\nCLIENT REPLY ON\r\nGET k\r\n",
        b"MULTI\r\nGET k\r\nUNSUBSCRIBE a b\r\nEXEC\r\n",
        b"SUBSCRIBE a\r\n*1\r\n$4\r\nPING\r\n*1\r\n!",
    ];
    for start in starts {
        for pause in [None, Some(Duration::from_millis(30))] {
            let seen = [twins.direct, twins.mecha.port].map(|port| {
                let mut client = Client::new(port);
                client.send(start);
                pause.into_iter().for_each(std::thread::sleep);
                // The connection may have ended already.
                let _ = std::io::Write::write_all(&mut client.writer, wrong);
                let (bytes, is_over) = client.drain(PATIENCE);
                (String::from_utf8_lossy(&bytes).into_owned(), is_over)
            });
            assert!(seen[0].0.contains("Protocol error") && seen[0].1, "{seen:?}");
            assert_eq!(seen[1], seen[0], "{:?}", String::from_utf8_lossy(start));
        }
    }
    twins.mecha.settles();
}
