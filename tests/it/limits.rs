//! Limits that hold for the whole process, however many workers it has.

use super::support::{Client, Mecha, eventually};

#[test]
fn clients_over_the_limit_of_all_workers_get_the_protocols_error() {
    for (door, ask, answer, error) in [
        ("redis", "PING\r\n", "+PONG\r\n", "-ERR max number of clients reached\r\n"),
        ("memcached", "mn\r\n", "MN\r\n", "SERVER_ERROR too many open connections\r\n"),
    ] {
        let mecha = Mecha::configured(&format!(
            "workers: 3\nlisteners:\n  - {{ listen: \"{door}://127.0.0.1:0\", to: \"embedded://\", max_connections: 4 }}\n"
        ));
        let is_served = |client: &mut Client| {
            client.send(ask.as_bytes());
            client.line() == answer
        };
        let mut clients: Vec<_> = (0..4).map(|_| mecha.client()).collect();
        assert!(clients.iter_mut().all(is_served));
        for number in 1..=5 {
            let mut surplus = mecha.client();
            assert_eq!(surplus.line(), error);
            assert!(surplus.is_closed());
            assert_eq!(mecha.metric("mecha_client_connections_refused_total{"), f64::from(number));
        }
        assert!(clients.iter_mut().all(is_served), "those who were there first are not disturbed");
        clients.pop();
        eventually("the place of a client that has left stays taken", || {
            let mut client = mecha.client();
            let _ = std::io::Write::write_all(&mut client.writer, ask.as_bytes());
            client.line() == answer
        });
        drop(clients);
        mecha.settles();
    }
}
