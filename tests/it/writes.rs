//! What one turn of the event loop costs upstream.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::support::{Client, Fake, Mecha, eventually, frame, signal};

const CLIENTS: usize = 50;

#[test]
fn fifty_ready_clients_cause_at_most_two_upstream_writes() {
    let reads = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&reads);
    let request = frame(&["GET", "key"]);
    let length = request.len();
    let fake = Fake::start(move |stream, _| {
        let reads = Arc::clone(&counted);
        let mut left = 0;
        Fake::talk(stream, |bytes| {
            reads.fetch_add(1, Ordering::SeqCst);
            left += bytes.len();
            let whole = left / length;
            left %= length;
            Ok(b"$1\r\nv\r\n".repeat(whole))
        });
    });
    let mecha = Mecha::configured(&format!(
        "workers: 1\nlisteners:\n  - {{ listen: \"redis://127.0.0.1:0\", to: \"redis://127.0.0.1:{}\" }}\n",
        fake.port
    ));
    let mut clients: Vec<_> = (0..CLIENTS).map(|_| mecha.client()).collect();
    for client in &mut clients {
        client.send(&request);
        assert_eq!(client.reply(), "$1\r\nv\r\n");
    }
    for round in 0..10 {
        // While mecha is stopped, the requests of all clients arrive: when it goes on, all of them are ready.
        signal(mecha.process.id(), "STOP");
        eventually("mecha does not stop", || state(mecha.process.id()) == 'T');
        let before = reads.load(Ordering::SeqCst);
        clients.iter_mut().for_each(|client| client.send(&request));
        signal(mecha.process.id(), "CONT");
        clients.iter_mut().map(Client::reply).for_each(|reply| assert_eq!(reply, "$1\r\nv\r\n"));
        let reads = reads.load(Ordering::SeqCst) - before;
        assert!(reads <= 2, "round {round}: {reads} reads at the server");
    }
    assert_eq!(fake.accepted(), 1, "all clients share one connection");
}

/// The letter that stands for what a process is doing.
fn state(id: u32) -> char {
    let stat = std::fs::read_to_string(format!("/proc/{id}/stat")).unwrap();
    stat.rsplit(") ").next().and_then(|rest| rest.chars().next()).unwrap()
}
