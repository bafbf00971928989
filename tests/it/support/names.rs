//! A name server that says what a test wants, over UDP and TCP on one port of loopback.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{IpAddr, TcpListener, UdpSocket};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

/// One record, without its name.
#[derive(Clone, Debug)]
pub(crate) enum Record {
    Address(IpAddr),
    Alias(&'static str),
    /// Priority, weight, port, host.
    Server(u16, u16, u16, &'static str),
}

/// What it says.
#[derive(Default)]
struct Zone {
    /// By name in lower case, without a dot at the end; with the time to live in seconds.
    records: HashMap<String, (u32, Vec<Record>)>,
    /// It fails with this code.
    code: u8,
    /// It says nothing.
    is_silent: bool,
    /// It tells over TCP only.
    is_cut: bool,
}

/// The server. Its threads end with the process.
#[derive(Clone)]
pub(crate) struct Names {
    pub(crate) port: u16,
    zone: Arc<Mutex<Zone>>,
    /// Questions so far.
    asked: Arc<AtomicUsize>,
}

impl Names {
    pub(crate) fn start() -> Self {
        let (udp, tcp) = loop {
            let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
            if let Ok(tcp) = TcpListener::bind(udp.local_addr().unwrap()) {
                break (udp, tcp);
            }
        };
        let port = udp.local_addr().unwrap().port();
        let names = Self { port, zone: Arc::default(), asked: Arc::default() };
        let own = names.clone();
        std::thread::spawn(move || {
            let mut question = [0; 512];
            while let Ok((count, from)) = udp.recv_from(&mut question) {
                if let Some(answer) = own.answer(&question[..count], true) {
                    let _ = udp.send_to(&answer, from);
                }
            }
        });
        let own = names.clone();
        std::thread::spawn(move || {
            for mut stream in tcp.incoming().flatten() {
                let mut length = [0; 2];
                if stream.read_exact(&mut length).is_err() {
                    continue;
                }
                let mut question = vec![0; usize::from(u16::from_be_bytes(length))];
                if stream.read_exact(&mut question).is_ok()
                    && let Some(answer) = own.answer(&question, false)
                {
                    let _ = stream.write_all(&(answer.len() as u16).to_be_bytes());
                    let _ = stream.write_all(&answer);
                }
            }
        });
        names
    }

    /// From now on `name` has these records, for so many seconds.
    pub(crate) fn set(&self, name: &str, ttl: u32, records: &[Record]) {
        self.zone.lock().unwrap().records.insert(name.into(), (ttl, records.to_vec()));
    }

    /// As [`Names::set`], for addresses.
    pub(crate) fn addresses(&self, name: &str, ttl: u32, addresses: &[&str]) {
        let records: Vec<_> =
            addresses.iter().map(|address| Record::Address(address.parse().unwrap())).collect();
        self.set(name, ttl, &records);
    }

    /// From now on it answers with this code (2: it has failed; 0: it has not).
    pub(crate) fn fails(&self, code: u8) {
        self.zone.lock().unwrap().code = code;
    }

    /// From now on it says nothing.
    pub(crate) fn is_silent(&self, is_silent: bool) {
        self.zone.lock().unwrap().is_silent = is_silent;
    }

    /// From now on answers over UDP have no room for anything.
    pub(crate) fn is_cut(&self) {
        self.zone.lock().unwrap().is_cut = true;
    }

    pub(crate) fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }

    fn answer(&self, question: &[u8], is_udp: bool) -> Option<Vec<u8>> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        let zone = self.zone.lock().unwrap();
        if zone.is_silent {
            return None;
        }
        let mut labels = Vec::new();
        let mut at = 12;
        while question[at] != 0 {
            let length = usize::from(question[at]);
            labels.push(String::from_utf8_lossy(&question[at + 1..at + 1 + length]).to_lowercase());
            at += 1 + length;
        }
        let kind = u16::from_be_bytes([question[at + 1], question[at + 2]]);
        let mut name = labels.join(".");
        let mut records = Vec::new();
        // Aliases come with what they lead to.
        while let Some((ttl, known)) = zone.records.get(&name) {
            let alias = known.iter().find_map(|record| match record {
                Record::Alias(to) => Some(*to),
                _ => None,
            });
            let wanted = |record: &&Record| match record {
                Record::Address(ip) => kind == if ip.is_ipv4() { 1 } else { 28 },
                Record::Alias(_) => true,
                Record::Server(..) => kind == 33,
            };
            records.extend(known.iter().filter(wanted).map(|record| wire(&name, *ttl, record)));
            match alias {
                Some(to) => name = to.to_string(),
                None => break,
            }
        }
        let is_known = zone.records.contains_key(&labels.join("."));
        let is_cut = zone.is_cut && is_udp;
        let code = if zone.code > 0 {
            zone.code
        } else if is_known {
            0
        } else {
            3
        };
        if zone.code > 0 || is_cut {
            records.clear();
        }
        let mut answer = question[..2].to_vec();
        answer.extend([0x81 | if is_cut { 2 } else { 0 }, 0x80 | code, 0, 1]);
        answer.extend((records.len() as u16).to_be_bytes());
        answer.extend([0; 4]);
        answer.extend(&question[12..at + 5]);
        answer.extend(records.concat());
        Some(answer)
    }
}

fn name_on_wire(name: &str) -> Vec<u8> {
    let labels = name.split('.').filter(|label| !label.is_empty());
    let mut wire: Vec<u8> =
        labels.flat_map(|label| [&[label.len() as u8], label.as_bytes()].concat()).collect();
    wire.push(0);
    wire
}

fn wire(name: &str, ttl: u32, record: &Record) -> Vec<u8> {
    let (kind, data) = match record {
        Record::Address(IpAddr::V4(ip)) => (1u16, ip.octets().to_vec()),
        Record::Address(IpAddr::V6(ip)) => (28, ip.octets().to_vec()),
        Record::Alias(to) => (5, name_on_wire(to)),
        Record::Server(priority, weight, port, host) => {
            let numbers = [priority, weight, port].map(|number| number.to_be_bytes()).concat();
            (33, [numbers, name_on_wire(host)].concat())
        }
    };
    let mut wire = name_on_wire(name);
    wire.extend(kind.to_be_bytes());
    wire.extend(1u16.to_be_bytes());
    wire.extend(ttl.to_be_bytes());
    wire.extend((data.len() as u16).to_be_bytes());
    wire.extend(data);
    wire
}
