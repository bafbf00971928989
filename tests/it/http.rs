//! HTTP doors: what reaches servers, what reaches clients, and what reaches nobody.

pub(crate) mod client;
mod filters;
mod framing;
mod grpc;
mod pairs;
mod routes;
mod secure;
mod trouble;
mod tunnels;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::{Arc, Mutex};

use super::support::{Fake, Mecha, PATIENCE};

/// A raw connection to mecha.
fn connect(port: u16) -> TcpStream {
    let stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// Everything that comes until the connection ends.
fn to_end(stream: &mut TcpStream) -> String {
    let mut heard = Vec::new();
    let _ = stream.read_to_end(&mut heard);
    String::from_utf8_lossy(&heard).into_owned()
}

/// What a server that answers every request with `answer` has heard, message by message, as text.
#[derive(Clone, Default)]
struct Heard(Arc<Mutex<Vec<String>>>);

impl Heard {
    fn all(&self) -> Vec<String> {
        self.0.lock().unwrap().clone()
    }

    fn add(&self, message: String) {
        self.0.lock().unwrap().push(message);
    }
}

/// One message of HTTP/1 from `stream`: its head, and its body if its length is declared.
fn message(stream: &mut TcpStream) -> Option<String> {
    let mut text = Vec::new();
    let mut byte = [0; 1];
    while !text.ends_with(b"\r\n\r\n") {
        if stream.read(&mut byte).ok()? == 0 {
            return None;
        }
        text.push(byte[0]);
    }
    let head = String::from_utf8_lossy(&text).to_lowercase();
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse::<usize>().ok());
    let mut body = vec![0; length.unwrap_or(0)];
    stream.read_exact(&mut body).ok()?;
    text.extend_from_slice(&body);
    if head.contains("transfer-encoding: chunked") {
        while !text.ends_with(b"\r\n0\r\n\r\n") {
            if stream.read(&mut byte).ok()? == 0 {
                return None;
            }
            text.push(byte[0]);
        }
    }
    Some(String::from_utf8_lossy(&text).into_owned())
}

/// A server that answers `200` with the number of the request on its connection.
fn counting() -> (Fake, Heard) {
    let heard = Heard::default();
    let hears = heard.clone();
    let server = Fake::start(move |mut stream, _| {
        for number in 1.. {
            let Some(message) = message(&mut stream) else { return };
            hears.add(message);
            let number = number.to_string();
            let fields = format!("content-length: {}\r\nx-secret: 1\r\nconnection: x-secret", number.len());
            let answer = format!("HTTP/1.1 200 OK\r\n{fields}\r\n\r\n{number}");
            if stream.write_all(answer.as_bytes()).is_err() {
                return;
            }
        }
    });
    (server, heard)
}

fn door(port: u16) -> Mecha {
    Mecha::start("http", &format!("http://127.0.0.1:{port}"))
}

/// The count of calls that ended in this way.
fn calls(mecha: &Mecha, command: &str, outcome: &str) -> f64 {
    mecha.metric(&format!(
        "mecha_calls_total{{listener=\"http\",protocol=\"http\",command=\"{command}\",outcome=\"{outcome}\""
    ))
}
