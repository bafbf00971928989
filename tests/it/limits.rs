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

#[test]
fn two_hundred_admin_clients_do_not_touch_the_data() {
    let mecha = Mecha::start("redis", "embedded://");
    let mut clients: Vec<_> = (0..8).map(|_| mecha.client()).collect();
    let crowd: Vec<_> = (0..200u32)
        .filter_map(|number| {
            let mut stream = std::net::TcpStream::connect(("127.0.0.1", mecha.admin)).ok()?;
            let bytes: &[u8] = match number % 4 {
                0 => &[0xff; 4096],
                1 => b"GET /connections HTTP/1.1\r\nhost: x\r\n",
                2 => b"GET /connections?limit=99999999 HTTP/1.1\r\nhost: x\r\n\r\n",
                _ => b"",
            };
            // Those over the admin server's limit are closed at once.
            let _ = std::io::Write::write_all(&mut stream, bytes);
            Some(stream)
        })
        .collect();
    for round in 0..100 {
        for (number, client) in clients.iter_mut().enumerate() {
            let word = format!("{number}-{round}");
            assert_eq!(client.call(&format!("ECHO {word}")), format!("${}\r\n{word}\r\n", word.len()));
        }
    }
    drop(crowd);
    let admin = mecha.admin;
    eventually("the admin server does not come back", || {
        Client::try_new(admin).is_some_and(|mut client| {
            let asked = b"GET /ready HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
            std::io::Write::write_all(&mut client.writer, asked).is_ok() && client.line().contains(" 200 ")
        })
    });
}

#[test]
fn connections_beyond_the_limit_are_counted_and_not_listed() {
    let mecha = Mecha::configured(
        "workers: 2\nlisteners:\n  - { listen: \"redis://127.0.0.1:0\", to: \"embedded://\" }\n",
    );
    let mut clients: Vec<_> = (0..9).map(|_| mecha.client()).collect();
    clients.iter_mut().for_each(|client| assert_eq!(client.call("PING"), "+PONG\r\n"));
    for (limit, listed) in [(0, 0), (1, 1), (7, 7), (100, 9)] {
        let text = mecha.get(&format!("/connections?limit={limit}"));
        assert!(text.contains("\"total\": 9"), "{text}");
        assert_eq!(text.matches("\"idle_seconds\"").count(), listed, "{text}");
    }
}

#[test]
fn hot_keys_are_told_by_the_admin_server() {
    let mecha = Mecha::configured(
        "listeners:\n  - { listen: \"redis://127.0.0.1:0\", to: \"embedded://\", name: front, filters: [ { hot_keys: { sample: 3 } } ] }\n  \
         - { listen: \"memcached://127.0.0.1:0\", to: \"embedded://\", name: quiet }\nworkers: 2\n",
    );
    let none = mecha.get("/hot_keys");
    assert!(none.contains("\"listener:front\": []") && !none.contains("quiet"), "{none}");
    let mut clients: Vec<_> = (0..4).map(|_| mecha.client()).collect();
    for round in 0..600 {
        for client in &mut clients {
            let _ = client.call("GET sirius");
            let _ = client.call(&format!("GET other:{round}"));
        }
    }
    let told: serde_json::Value = serde_json::from_str(body(&mecha.get("/hot_keys?limit=2"))).unwrap();
    let keys = told["listener:front"].as_array().unwrap();
    assert_eq!((keys.len(), keys[0]["key"].as_str()), (2, Some("sirius")), "{told}");
    let share = keys[0]["share"].as_f64().unwrap();
    assert!((0.4..0.6).contains(&share), "{share}");
    // Keys are told nowhere else.
    assert!(mecha.get("/metrics").contains("mecha_calls_total") && !mecha.get("/metrics").contains("sirius"));
}

/// What is behind the head of an answer.
fn body(answer: &str) -> &str {
    answer.split_once("\r\n\r\n").map_or(answer, |(_, body)| body)
}
