//! The PROXY protocol: a header in front of a connection's bytes, by which one proxy tells the next whom it speaks for.
//!
//! Source: HAProxy's "The PROXY protocol, versions 1 and 2", sections 2.1 and 2.2. Written here because the formats fit a
//! page, and the crates for them bring a second version of what the rest of the graph has already.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use tokio::io::{AsyncRead, AsyncReadExt};

/// How the header is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProxyVersion {
    /// A line of text.
    V1,
    /// Binary.
    V2,
}

/// What version 2 begins with.
const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
/// The longest line of version 1, with its end.
const MAX_LINE: usize = 107;
/// Addresses and extensions of version 2 together; more is not sent by anybody.
const MAX_V2: usize = 4096;

/// Reads a header of either version, and not a byte behind it. `None`: the proxy speaks for itself, or for somebody
/// without an address.
///
/// # Errors
/// `InvalidData` where there is no header, or a broken one; whatever the stream says.
pub(crate) async fn read_proxy_header(
    stream: &mut (impl AsyncRead + Unpin),
) -> io::Result<Option<SocketAddr>> {
    let mut start = [0; SIGNATURE.len()];
    stream.read_exact(&mut start).await?;
    if start == *SIGNATURE {
        let mut rest = [0; 4];
        stream.read_exact(&mut rest).await?;
        let [how, family, high, low] = rest;
        let length = usize::from(u16::from_be_bytes([high, low]));
        if length > MAX_V2 {
            return Err(broken());
        }
        let mut body = vec![0; length];
        stream.read_exact(&mut body).await?;
        return source_v2(how, family, &body).ok_or_else(broken);
    }
    let mut line = start.to_vec();
    // A byte at a time: what is behind the line is not ours.
    while !line.ends_with(b"\r\n") {
        if !line.starts_with(b"PROXY ") || line.len() >= MAX_LINE {
            return Err(broken());
        }
        line.push(stream.read_u8().await?);
    }
    source_v1(&line).ok_or_else(broken)
}

fn broken() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "no header of the PROXY protocol")
}

/// Outer `None`: broken.
fn source_v2(how: u8, family: u8, body: &[u8]) -> Option<Option<SocketAddr>> {
    match (how, family) {
        // LOCAL: addresses, if there are any, mean nothing.
        (0x20, _) => Some(None),
        (0x21, 0x11) => {
            let (ip, port) = (body.get(..4)?, body.get(8..10)?);
            body.get(..12)?;
            Some(Some(socket(Ipv4Addr::from(<[u8; 4]>::try_from(ip).ok()?), port)?))
        }
        (0x21, 0x21) => {
            let (ip, port) = (body.get(..16)?, body.get(32..34)?);
            body.get(..36)?;
            Some(Some(socket(Ipv6Addr::from(<[u8; 16]>::try_from(ip).ok()?), port)?))
        }
        // Datagrams and Unix sockets, and what a proxy does not know.
        (0x21, 0x00 | 0x12 | 0x22 | 0x31 | 0x32) => Some(None),
        _ => None,
    }
}

fn socket(ip: impl Into<IpAddr>, port: &[u8]) -> Option<SocketAddr> {
    Some(SocketAddr::new(ip.into(), u16::from_be_bytes(port.try_into().ok()?)))
}

/// Outer `None`: broken.
fn source_v1(line: &[u8]) -> Option<Option<SocketAddr>> {
    let text = std::str::from_utf8(line).ok()?.strip_suffix("\r\n")?;
    let mut words = text.split(' ');
    let family = (words.next()? == "PROXY").then(|| words.next())??;
    if family == "UNKNOWN" {
        return Some(None);
    }
    let (source, destination): (IpAddr, IpAddr) = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
    let (port, _): (u16, u16) = (number(words.next()?)?, number(words.next()?)?);
    let is_right = match family {
        "TCP4" => source.is_ipv4() && destination.is_ipv4(),
        "TCP6" => source.is_ipv6() && destination.is_ipv6(),
        _ => false,
    };
    (is_right && words.next().is_none()).then(|| Some(SocketAddr::new(source, port)))
}

/// A port, without sign and leading zeros.
fn number(text: &str) -> Option<u16> {
    let port: u16 = text.parse().ok()?;
    (port.to_string() == text).then_some(port)
}

/// The header for a client that has connected from `source` to `destination`; either may be unknown.
pub fn proxy_header(
    version: ProxyVersion,
    source: Option<SocketAddr>,
    destination: Option<SocketAddr>,
) -> Vec<u8> {
    let known = source.zip(destination).map(|(source, destination)| match (source.ip(), destination.ip()) {
        (IpAddr::V4(_), IpAddr::V4(_)) | (IpAddr::V6(_), IpAddr::V6(_)) => (source, destination),
        // One family for both.
        _ => (mapped(source), mapped(destination)),
    });
    match (version, known) {
        (ProxyVersion::V1, None) => b"PROXY UNKNOWN\r\n".to_vec(),
        (ProxyVersion::V1, Some((source, destination))) => {
            let family = if source.is_ipv4() { "TCP4" } else { "TCP6" };
            let (from, to) = (source.ip(), destination.ip());
            format!("PROXY {family} {from} {to} {} {}\r\n", source.port(), destination.port()).into_bytes()
        }
        (ProxyVersion::V2, known) => {
            let mut out = SIGNATURE.to_vec();
            let Some((source, destination)) = known else {
                // PROXY for somebody unknown.
                out.extend_from_slice(&[0x21, 0, 0, 0]);
                return out;
            };
            let mut addresses = Vec::with_capacity(36);
            for addr in [source, destination] {
                match addr.ip() {
                    IpAddr::V4(ip) => addresses.extend_from_slice(&ip.octets()),
                    IpAddr::V6(ip) => addresses.extend_from_slice(&ip.octets()),
                }
            }
            for addr in [source, destination] {
                addresses.extend_from_slice(&addr.port().to_be_bytes());
            }
            out.extend_from_slice(&[0x21, if source.is_ipv4() { 0x11 } else { 0x21 }]);
            out.extend_from_slice(&(addresses.len() as u16).to_be_bytes());
            out.extend_from_slice(&addresses);
            out
        }
    }
}

fn mapped(addr: SocketAddr) -> SocketAddr {
    match addr.ip() {
        IpAddr::V4(ip) => SocketAddr::new(ip.to_ipv6_mapped().into(), addr.port()),
        IpAddr::V6(_) => addr,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is read of `bytes`, and what is left behind the header.
    fn read(bytes: &[u8]) -> (io::Result<Option<SocketAddr>>, usize) {
        let mut rest = bytes;
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let source = runtime.block_on(read_proxy_header(&mut rest));
        (source, rest.len())
    }

    #[test]
    fn what_is_written_is_read_and_nothing_behind_it() {
        let addr = |text: &str| text.parse::<SocketAddr>().unwrap();
        for version in [ProxyVersion::V1, ProxyVersion::V2] {
            for (source, destination) in [("1.2.3.4:5", "6.7.8.9:65535"), ("[2001:db8::1]:80", "[::1]:1")] {
                let mut bytes = proxy_header(version, Some(addr(source)), Some(addr(destination)));
                bytes.extend_from_slice(b"PING\r\n");
                let (read, rest) = read(&bytes);
                assert_eq!((read.unwrap(), rest), (Some(addr(source)), 6), "{version:?} {source}");
                // Every beginning of it is no header.
                for length in 0..bytes.len() - 6 {
                    assert!(super::tests::read(&bytes[..length]).0.is_err(), "{version:?} {length}");
                }
            }
            let mixed = proxy_header(version, Some(addr("1.2.3.4:5")), Some(addr("[::1]:1")));
            assert_eq!(read(&mixed).0.unwrap(), Some(addr("[::ffff:1.2.3.4]:5")));
            assert_eq!(read(&proxy_header(version, None, Some(addr("1.2.3.4:5")))).0.unwrap(), None);
        }
    }

    #[test]
    fn the_specifications_forms_are_read_and_broken_ones_refused() {
        let v2 = |rest: &[u8]| [SIGNATURE.as_slice(), rest].concat();
        let ok = [
            b"PROXY UNKNOWN\r\n".to_vec(),
            b"PROXY UNKNOWN ffff:f:f:f:f:f:f:f ffff:f:f:f:f:f:f:f 65535 65535\r\n".to_vec(),
            // LOCAL, with and without addresses; a Unix socket; an extension behind the addresses.
            v2(&[0x20, 0, 0, 0]),
            v2(&[0x20, 0x11, 0, 3, 1, 2, 3]),
            v2(&[0x21, 0x31, 0, 1, 0]),
            v2(&[0x21, 0x11, 0, 16, 1, 1, 1, 1, 2, 2, 2, 2, 0, 1, 0, 2, 4, 0, 1, 0]),
        ];
        for bytes in ok {
            assert!(read(&bytes).0.is_ok(), "{}", bytes.escape_ascii());
        }
        let wrong = [
            b"PING\r\nPING\r\nPING\r\n".to_vec(),
            b"PROXY TCP4 1.2.3.4 5.6.7.8 1\r\n".to_vec(),
            b"PROXY TCP4 1.2.3.4 5.6.7.8 1 65536\r\n".to_vec(),
            b"PROXY TCP4 1.2.3.4 5.6.7.8 01 2\r\n".to_vec(),
            b"PROXY TCP4 ::1 ::1 1 2\r\n".to_vec(),
            b"PROXY TCP6 1.2.3.4 5.6.7.8 1 2\r\n".to_vec(),
            b"PROXY TCP4 1.2.3.4 5.6.7.8 1 2 3\r\n".to_vec(),
            b"PROXY  TCP4 1.2.3.4 5.6.7.8 1 2\r\n".to_vec(),
            [b"PROXY UNKNOWN ".as_slice(), &[b'x'; 200], b"\r\n"].concat(),
            v2(&[0x11, 0x11, 0, 0]),
            v2(&[0x22, 0x11, 0, 0]),
            v2(&[0x21, 0x11, 0, 11, 1, 1, 1, 1, 2, 2, 2, 2, 0, 1, 0]),
            v2(&[0x21, 0x41, 0, 0]),
            v2(&[0x20, 0, 0xff, 0xff]),
        ];
        for bytes in wrong {
            assert!(read(&bytes).0.is_err(), "{}", bytes.escape_ascii());
        }
    }
}
