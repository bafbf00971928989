//! Clients that are many, and take little.

use std::io::{Read, Write};
use std::net::TcpStream;

use super::{answer, connect, kcat, request, topic};
use crate::support::{Mecha, kafka};

/// mecha with one worker before the broker itself: the gate would take longer than all the rest.
fn before(port: u16) -> Mecha {
    Mecha::configured(&format!(
        "listeners:\n- {{ listen: \"kafka://127.0.0.1:0\", to: \"kafka://127.0.0.1:{port}\" }}\nworkers: 1\n"
    ))
}

/// A client that has its connection to the broker. One after another, as a broker has no place for many who knock at once.
#[track_caller]
fn greeted(mecha: &Mecha) -> TcpStream {
    let mut client = connect(mecha);
    client.write_all(&request(18, 0, 7, &[])).unwrap();
    // What it is called, and no error.
    assert_eq!(answer(&mut client)[..6], [0, 0, 0, 7, 0, 0]);
    client
}

#[test]
fn two_thousand_idle_clients_take_less_than_60_mib() {
    let Some(kafka) = kafka() else { return };
    let mecha = before(kafka.ports()[0]);
    let clients: Vec<TcpStream> = (0..2000).map(|_| greeted(&mecha)).collect();
    let levels = mecha.levels();
    assert!(levels.clients == 2000 && levels.upstreams >= 2000, "{levels:?}");
    assert!(levels.resident < 60 << 20, "{} bytes", levels.resident);
    drop(clients);
    mecha.settles();
}

/// Asks for everything in four partitions, none of which is longer than a broker's files are.
fn fetch(topic: &str) -> Vec<u8> {
    let most: i32 = 55 << 20;
    let mut body = Vec::new();
    // No replica; at most a second; at least a byte; at most so many; committed or not.
    [-1, 1000, 1, most].iter().for_each(|number: &i32| body.extend(number.to_be_bytes()));
    body.push(0);
    body.extend(1i32.to_be_bytes());
    body.extend((topic.len() as i16).to_be_bytes());
    body.extend(topic.as_bytes());
    body.extend(4i32.to_be_bytes());
    for partition in 0..4i32 {
        body.extend(partition.to_be_bytes());
        body.extend(0i64.to_be_bytes());
        body.extend(most.to_be_bytes());
    }
    request(1, 4, 5, &body)
}

#[test]
fn a_hundred_answers_of_50_mib_are_never_here_as_a_whole() {
    let Some(kafka) = kafka() else { return };
    let mecha = before(kafka.ports()[0]);
    topic(&mecha, "vast", 4);
    let line = "0123456789abcdef".repeat(60_000) + "\n";
    for partition in ["0", "1", "2", "3"] {
        kcat(&mecha, &["-P", "-t", "vast", "-p", partition], &line.repeat(14));
    }
    let mut clients: Vec<TcpStream> = (0..100).map(|_| greeted(&mecha)).collect();
    for client in &mut clients {
        client.write_all(&fetch("vast")).unwrap();
    }
    let mut sizes = Vec::new();
    for client in &mut clients {
        let mut head = [0; 64 << 10];
        client.read_exact(&mut head).unwrap();
        sizes.push(
            u64::from(u32::from_be_bytes([head[0], head[1], head[2], head[3]])) + 4 - head.len() as u64,
        );
    }
    assert!(sizes.iter().all(|size| *size > 49 << 20), "{sizes:?}");
    // All have begun, and nobody reads on.
    let levels = mecha.levels();
    assert!(levels.resident < 100 << 20, "{} bytes", levels.resident);
    // Some read to the end, slowly or not, and others leave.
    for (client, size) in clients.drain(..).zip(sizes).step_by(10) {
        let got = std::io::copy(&mut client.take(size), &mut std::io::sink()).unwrap();
        assert_eq!(got, size);
    }
    mecha.settles();
}
