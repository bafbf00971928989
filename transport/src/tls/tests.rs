//! Both sides against each other and against bytes that are no TLS.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, SanType};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::*;
use crate::{Address, ReadHalf, WriteHalf};

/// A folder that goes with the test, with an authority.
struct Folder {
    path: PathBuf,
    ca: CertifiedIssuer<'static, KeyPair>,
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.path);
    }
}

impl Folder {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("mecha-tls-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, format!("authority of {name}"));
        let ca = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        std::fs::write(path.join("ca.pem"), ca.pem()).unwrap();
        Self { path, ca }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    fn params(names: &[&str]) -> CertificateParams {
        let mut params =
            CertificateParams::new(names.iter().map(|n| (*n).to_string()).collect::<Vec<_>>()).unwrap();
        params.distinguished_name.push(DnType::CommonName, *names.first().unwrap());
        params
    }

    fn issue(&self, stem: &str, params: CertificateParams) -> Certificate {
        let key = KeyPair::generate().unwrap();
        let leaf = params.signed_by(&key, &self.ca).unwrap();
        let files =
            Certificate { cert: self.file(&format!("{stem}.pem")), key: self.file(&format!("{stem}.key")) };
        std::fs::write(&files.cert, leaf.pem()).unwrap();
        std::fs::write(&files.key, key.serialize_pem()).unwrap();
        use std::os::unix::fs::PermissionsExt;
        std::fs::set_permissions(&files.key, std::fs::Permissions::from_mode(0o600)).unwrap();
        files
    }

    fn server(&self) -> ServerOptions {
        ServerOptions {
            certificates: vec![self.issue("server", Self::params(&["localhost", "127.0.0.1"]))],
            ..ServerOptions::default()
        }
    }

    fn client(&self) -> ClientOptions {
        ClientOptions { ca: Some(self.file("ca.pem")), ..ClientOptions::default() }
    }
}

type Halves = (ReadHalf, WriteHalf);

async fn sockets() -> (TcpStream, TcpStream, Address) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let (client, server) = tokio::join!(TcpStream::connect(addr), listener.accept());
    (client.unwrap(), server.unwrap().0, Address::Tcp(addr))
}

/// One handshake of both sides.
async fn shake(
    server: &ServerTls,
    client: &ClientTls,
) -> (Result<Handshaken, HandshakeError>, Result<Halves, HandshakeError>) {
    let (near, far, address) = sockets().await;
    let addr = near.local_addr().unwrap();
    let (served, connected) = tokio::join!(accept(far, addr, server), super::connect(near, &address, client));
    (served, connected.map(|(read, write)| (ReadHalf::Tls(read), WriteHalf::Tls(write))))
}

async fn pair(server: ServerOptions, client: ClientOptions) -> (Halves, Halves) {
    let (server, client) = (ServerTls::new(server).unwrap().0, ClientTls::new(client).unwrap().0);
    let (served, connected) = shake(&server, &client).await;
    let (read, write) = served.unwrap().stream.into_halves().unwrap();
    ((ReadHalf::Tls(read), WriteHalf::Tls(write)), connected.unwrap())
}

/// Writes everything, as an outbox does.
async fn write_all((read, write): (&ReadHalf, &WriteHalf), mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match write.try_write(bytes) {
            Ok(written) => bytes = &bytes[written..],
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                std::future::poll_fn(|cx| {
                    // A socket that was not full when it was asked has cleared nothing: look again later.
                    read.poll_write_ready(cx)
                })
                .await?;
                tokio::task::yield_now().await;
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn run(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build_local(Default::default());
    runtime.unwrap().block_on(async { tokio::time::timeout(Duration::from_secs(60), test).await.unwrap() });
}

fn noise(count: usize) -> Vec<u8> {
    let mut state = 1u32;
    let next = |_| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    };
    (0..count).map(next).collect()
}

#[test]
fn both_directions_carry_large_values_at_once_in_both_versions() {
    run(async {
        let folder = Folder::new("large");
        for min_version in [MinVersion::V1_2, MinVersion::V1_3] {
            let server = ServerOptions { min_version, ..folder.server() };
            let (mut one, mut other) = pair(server, folder.client()).await;
            let bytes = noise(5 << 20);
            let pump = async |read: &mut ReadHalf, write: &WriteHalf, bytes: &[u8]| {
                let (mut got, mut at) = (Vec::new(), 0);
                let mut buf = vec![0; 16 << 10];
                std::future::poll_fn(|cx| {
                    use std::task::Poll;
                    while at < bytes.len() {
                        match write.try_write(&bytes[at..bytes.len().min(at + 200_000)]) {
                            Ok(written) => at += written,
                            Err(_) if read.poll_write_ready(cx).is_pending() => break,
                            Err(_) => {}
                        }
                    }
                    while got.len() < bytes.len() {
                        let mut into = tokio::io::ReadBuf::new(&mut buf);
                        match tokio::io::AsyncRead::poll_read(std::pin::Pin::new(&mut *read), cx, &mut into) {
                            Poll::Pending => return Poll::Pending,
                            Poll::Ready(result) => result.unwrap(),
                        }
                        assert!(!into.filled().is_empty(), "ended after {}", got.len());
                        got.extend_from_slice(into.filled());
                    }
                    if at < bytes.len() { Poll::Pending } else { Poll::Ready(()) }
                })
                .await;
                got
            };
            let (a, b) = tokio::join!(pump(&mut one.0, &one.1, &bytes), pump(&mut other.0, &other.1, &bytes));
            assert!(a == bytes && b == bytes);
        }
    });
}

#[test]
fn any_chopping_of_the_records_gives_the_same_bytes() {
    run(async {
        let folder = Folder::new("chop");
        let server = ServerTls::new(folder.server()).unwrap().0;
        let client = ClientTls::new(folder.client()).unwrap().0;
        // A relay that passes on one to seven bytes at a time, in the handshake and after it.
        let (near, relay_near, address) = sockets().await;
        let (relay_far, far, _) = sockets().await;
        let addr = near.local_addr().unwrap();
        let relay = async |mut from: tokio::net::tcp::OwnedReadHalf,
                           mut to: tokio::net::tcp::OwnedWriteHalf| {
            let mut buf = [0; 7];
            for size in (1..=7).cycle() {
                let Ok(count @ 1..) = from.read(&mut buf[..size]).await else { return };
                if to.write_all(&buf[..count]).await.is_err() {
                    return;
                }
            }
        };
        let ((a_read, a_write), (b_read, b_write)) = (relay_near.into_split(), relay_far.into_split());
        tokio::task::spawn_local(relay(a_read, b_write));
        tokio::task::spawn_local(relay(b_read, a_write));
        let (served, connected) =
            tokio::join!(accept(far, addr, &server), super::connect(near, &address, &client));
        let (mut read, write) = served.unwrap().stream.into_halves().unwrap();
        let (client_read, client_write) = connected.unwrap();
        let bytes = noise(40_000);
        let mut got = Vec::new();
        let writing = async {
            let halves = (ReadHalf::Tls(client_read), WriteHalf::Tls(client_write));
            write_all((&halves.0, &halves.1), &bytes).await.unwrap();
        };
        let reading = async {
            let _write = write;
            read.read_to_end(&mut got).await.unwrap();
        };
        tokio::join!(writing, reading);
        assert!(got == bytes);
    });
}

#[test]
fn a_peer_that_never_reads_costs_one_chunk() {
    run(async {
        let folder = Folder::new("deaf");
        let (one, mut other) = pair(folder.server(), folder.client()).await;
        let bytes = noise(64 << 20);
        let mut sent = 0;
        while let Ok(written) = one.1.try_write(&bytes[sent..]) {
            sent += written;
        }
        assert!(sent < bytes.len(), "the socket took everything");
        // Once more: nothing is encrypted again.
        let stuck = one.1.try_write(&bytes[sent..]).unwrap_err();
        assert_eq!(stuck.kind(), io::ErrorKind::WouldBlock);
        let WriteHalf::Tls(_) = &one.1 else { panic!() };
        // It reads after all, and nothing is lost or doubled.
        let rest = bytes[sent..sent + (1 << 20)].to_vec();
        let expected = &bytes[..sent + rest.len()];
        let writing = async { write_all((&one.0, &one.1), &rest).await.unwrap() };
        let reading = async {
            let mut got = vec![0; expected.len()];
            other.0.read_exact(&mut got).await.unwrap();
            assert!(got == expected);
        };
        tokio::join!(writing, reading);
    });
}

#[test]
fn a_farewell_ends_one_direction_only() {
    run(async {
        let folder = Folder::new("farewell");
        let (mut one, mut other) = pair(folder.server(), folder.client()).await;
        write_all((&other.0, &other.1), b"last words").await.unwrap();
        other.1.finish();
        let mut got = Vec::new();
        one.0.read_to_end(&mut got).await.unwrap();
        assert_eq!(got, b"last words");
        write_all((&one.0, &one.1), b"answer").await.unwrap();
        drop(one.1);
        let mut got = Vec::new();
        other.0.read_to_end(&mut got).await.unwrap();
        assert_eq!(got, b"answer");
    });
}

#[test]
fn the_certificate_is_chosen_by_name() {
    run(async {
        let folder = Folder::new("sni");
        let certificates = vec![
            folder.issue("a", Folder::params(&["a.test"])),
            folder.issue("b", Folder::params(&["b.test", "*.wild.test"])),
        ];
        let server = ServerTls::new(ServerOptions { certificates, ..ServerOptions::default() }).unwrap().0;
        for (name, is_fine) in
            [("a.test", true), ("b.test", true), ("x.wild.test", true), ("other.test", false)]
        {
            let options = ClientOptions { server_name: Some(name.into()), ..folder.client() };
            let (_, connected) = shake(&server, &ClientTls::new(options).unwrap().0).await;
            assert_eq!(connected.is_ok(), is_fine, "{name}");
            if let Err(error) = connected {
                assert_eq!(error.name(), "server_certificate");
            }
        }
    });
}

#[test]
fn a_client_certificate_says_who_the_client_is() {
    run(async {
        let folder = Folder::new("mutual");
        let mut params = Folder::params(&["app.test"]);
        params.subject_alt_names.push(SanType::URI("spiffe://mesh/app".try_into().unwrap()));
        let certificate = Some(folder.issue("app", params));
        let required = ServerOptions { client_ca: Some(folder.file("ca.pem")), ..folder.server() };
        let optional = ServerOptions { client_auth: ClientAuth::Optional, ..required.clone() };
        let known = ClientOptions { certificate: certificate.clone(), ..folder.client() };
        let stranger = Folder::new("stranger");
        let unknown = ClientOptions {
            certificate: Some(stranger.issue("x", Folder::params(&["x"]))),
            ..folder.client()
        };
        for (server, client, expected) in [
            (&required, known.clone(), Ok(Some("CN=app.test"))),
            (&optional, known, Ok(Some("CN=app.test"))),
            (&optional, folder.client(), Ok(None)),
            (&required, folder.client(), Err("client_certificate")),
            (&required, unknown.clone(), Err("client_certificate")),
            (&optional, unknown, Err("client_certificate")),
        ] {
            let server = ServerTls::new(server.clone()).unwrap().0;
            let (served, _client) = shake(&server, &ClientTls::new(client).unwrap().0).await;
            let identity = served.map(|served| served.stream.identity().cloned());
            let subject =
                identity.as_ref().map(|identity| identity.as_deref().map(|who| who.subject.as_str()));
            assert_eq!(subject.map_err(HandshakeError::name), expected);
            if let Ok(Some(identity)) = identity {
                assert_eq!(identity.names, ["app.test", "spiffe://mesh/app"]);
                assert_eq!(identity.fingerprint.len(), 64);
            }
        }
    });
}

#[test]
fn sessions_are_resumed_and_versions_kept() {
    run(async {
        let folder = Folder::new("resume");
        let server = ServerTls::new(folder.server()).unwrap().0;
        let client = ClientTls::new(folder.client()).unwrap().0;
        let mut resumed = Vec::new();
        for _ in 0..2 {
            let (served, connected) = shake(&server, &client).await;
            let served = served.unwrap();
            assert_eq!(served.version, "1.3");
            resumed.push(served.is_resumed);
            // The ticket comes with the first data.
            let (read, write) = served.stream.into_halves().unwrap();
            let halves = (ReadHalf::Tls(read), WriteHalf::Tls(write));
            write_all((&halves.0, &halves.1), b"x").await.unwrap();
            connected.unwrap().0.read_exact(&mut [0]).await.unwrap();
        }
        assert_eq!(resumed, [false, true]);
    });
}

#[test]
fn a_client_is_known_by_the_name_that_it_asked_for() {
    run(async {
        let folder = Folder::new("asked");
        let certificates = vec![folder.issue("a", Folder::params(&["a.test", "b.test"]))];
        let server = ServerTls::new(ServerOptions { certificates, ..ServerOptions::default() }).unwrap().0;
        for name in ["a.test", "b.test"] {
            let options = ClientOptions { server_name: Some(name.into()), ..folder.client() };
            let client = ClientTls::new(options).unwrap().0;
            for is_resumed in [false, true] {
                let (served, connected) = shake(&server, &client).await;
                let served = served.unwrap();
                assert_eq!(served.is_resumed, is_resumed);
                let (read, write) = served.stream.into_halves().unwrap();
                let halves = (ReadHalf::Tls(read), WriteHalf::Tls(write));
                assert_eq!(halves.0.server_name().as_deref(), Some(name));
                // The ticket comes with the first data.
                write_all((&halves.0, &halves.1), b"x").await.unwrap();
                let (mut read, _write) = connected.unwrap();
                assert_eq!(read.server_name(), None);
                read.read_exact(&mut [0]).await.unwrap();
            }
        }
        // An address is no name.
        let client =
            ClientTls::new(ClientOptions { insecure_skip_verify: true, ..folder.client() }).unwrap().0;
        let (served, _connected) = shake(&server, &client).await;
        let (read, _write) = served.unwrap().stream.into_halves().unwrap();
        assert_eq!(ReadHalf::Tls(read).server_name(), None);
    });
}

#[test]
fn new_files_are_used_and_broken_ones_are_not() {
    run(async {
        let folder = Folder::new("reload");
        let server = ServerTls::new(folder.server()).unwrap().0;
        assert_eq!(server.reload(), Reloaded::Unchanged);
        let reaches = async |name: &str| {
            let options = ClientOptions { server_name: Some(name.into()), ..folder.client() };
            shake(&server, &ClientTls::new(options).unwrap().0).await.1.is_ok()
        };
        assert!(reaches("localhost").await && !reaches("new.test").await);
        folder.issue("server", Folder::params(&["new.test"]));
        assert_eq!(server.reload(), Reloaded::Changed);
        assert!(!reaches("localhost").await && reaches("new.test").await);
        std::fs::write(folder.file("server.pem"), "no certificate").unwrap();
        assert!(matches!(server.reload(), Reloaded::Failed(complaints) if complaints.len() == 1));
        assert_eq!(server.reload(), Reloaded::Unchanged);
        assert!(reaches("new.test").await);
    });
}

#[test]
fn every_fault_of_a_file_is_told_and_all_at_once() {
    let folder = Folder::new("faults");
    let good = folder.issue("good", Folder::params(&["localhost"]));
    let mut expired = Folder::params(&["old"]);
    (expired.not_before, expired.not_after) =
        (rcgen::date_time_ymd(2000, 1, 1), rcgen::date_time_ymd(2001, 1, 1));
    let expired = folder.issue("expired", expired);
    let write = |name: &str, text: &str| {
        std::fs::write(folder.file(name), text).unwrap();
        folder.file(name)
    };
    let encrypted = write(
        "encrypted.key",
        "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n",
    );
    let certificates = vec![
        Certificate { cert: "/nosuch.pem".into(), key: good.cert.clone() },
        Certificate { cert: good.cert.clone(), key: expired.key.clone() },
        expired,
        Certificate { cert: write("der.pem", "0\u{1}"), key: encrypted },
    ];
    let options =
        ServerOptions { certificates, client_ca: Some("/no/ca.pem".into()), ..ServerOptions::default() };
    let complaints = options.check();
    let told: Vec<_> = complaints.iter().map(|c| (c.field.as_str(), c.message.as_str())).collect();
    for (field, part) in [
        ("cert", "cannot read `/nosuch.pem`"),
        ("key", "holds no private key"),
        ("certificates[0].key", "does not belong to the certificate"),
        ("certificates[1].cert", "expired"),
        ("certificates[2].cert", "holds no certificate"),
        ("certificates[2].key", "is encrypted"),
        ("client_ca", "cannot read `/no/ca.pem`"),
    ] {
        assert!(
            told.iter().any(|(at, text)| *at == field && text.contains(part)),
            "{field} {part}: {told:#?}"
        );
    }
    assert_eq!(told.len(), 7, "{told:#?}");
    // A key that everybody can read works, and is told.
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(&good.key, std::fs::Permissions::from_mode(0o644)).unwrap();
    let options = ServerOptions { certificates: vec![good], ..ServerOptions::default() };
    let complaints = options.check();
    assert!(matches!(&complaints[..], [one] if one.is_warning && one.message.contains("everybody")));
}

#[test]
fn bytes_that_are_no_handshake_end_it_within_bounds() {
    run(async {
        let folder = Folder::new("hostile");
        let server = ServerTls::new(folder.server()).unwrap().0;
        let hello = {
            // The beginning of a good hello.
            let client = ClientTls::new(folder.client()).unwrap().0;
            let (near, mut far, address) = sockets().await;
            let shaking =
                tokio::task::spawn_local(
                    async move { super::connect(near, &address, &client).await.is_ok() },
                );
            let mut hello = vec![0; 4096];
            let count = far.read(&mut hello).await.unwrap();
            shaking.abort();
            hello.truncate(count);
            hello
        };
        let mut flipped = hello.clone();
        flipped[60] ^= 0xff;
        let mut cases: Vec<(Vec<u8>, &str)> = vec![
            (b"PING\r\n".to_vec(), "invalid"),
            (vec![0x16; 200_000], "invalid"),
            (vec![0xff; 100], "invalid"),
            (hello[..hello.len() / 2].to_vec(), "closed"),
            (Vec::new(), "closed"),
            // A record longer than any may be.
            (vec![0x16, 3, 1, 0xff, 0xff, 0, 0], "invalid"),
            // A message that claims sixteen megabytes, in small records.
            (
                [vec![0x16, 3, 1, 0, 4, 1, 0xff, 0xff, 0xff], [0x16, 3, 1, 0, 1, 0].repeat(20_000)].concat(),
                "invalid",
            ),
            // Application data before any handshake.
            (vec![0x17, 3, 3, 0, 5, 1, 2, 3, 4, 5], "invalid"),
        ];
        // The hello, then something else where the client's answer belongs.
        cases.push(([hello.clone(), b"GET a\r\nGET a\r\n".to_vec()].concat(), "invalid"));
        for seed in 0..200 {
            let mut bytes = hello.clone();
            let at = (seed * 7919) % bytes.len();
            bytes[at] ^= 1 << (seed % 8);
            cases.push((bytes, ""));
        }
        for (bytes, expected) in cases {
            let (mut near, far, _) = sockets().await;
            let addr = near.local_addr().unwrap();
            let writing = async {
                let _ = near.write_all(&bytes).await;
                let _ = near.shutdown().await;
                let mut rest = Vec::new();
                let _ = near.read_to_end(&mut rest).await;
            };
            let (served, ()) = tokio::join!(accept(far, addr, &server), writing);
            let name = served.err().map_or("accepted", |error| error.name());
            assert!(expected.is_empty() && name != "accepted" || name == expected, "{name} for {expected}");
        }
    });
}

#[test]
fn damaged_records_end_an_established_stream_with_an_error() {
    run(async {
        let folder = Folder::new("damaged");
        let server = ServerTls::new(folder.server()).unwrap().0;
        let client = ClientTls::new(folder.client()).unwrap().0;
        let (near, far, address) = sockets().await;
        let addr = near.local_addr().unwrap();
        let raw = near.into_std().unwrap();
        let spoiler = raw.try_clone().unwrap();
        let near = TcpStream::from_std(raw).unwrap();
        let (served, connected) =
            tokio::join!(accept(far, addr, &server), super::connect(near, &address, &client));
        let (mut read, write) = served.unwrap().stream.into_halves().unwrap();
        let _client = connected.unwrap();
        use std::io::Write;
        (&spoiler).write_all(&[0x17, 3, 3, 0, 32]).unwrap();
        (&spoiler).write_all(&[7; 32]).unwrap();
        let error = read.read(&mut [0; 10]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
        assert!(write.try_write(b"x").is_err());
    });
}

#[test]
fn hundreds_of_streams_live_side_by_side() {
    run(async {
        let folder = Folder::new("hundreds");
        let server = Arc::new(ServerTls::new(folder.server()).unwrap().0);
        let client = ClientTls::new(folder.client()).unwrap().0;
        let mut all = Vec::new();
        for _ in 0..400 {
            let (served, connected) = shake(&server, &client).await;
            let (read, write) = served.unwrap().stream.into_halves().unwrap();
            all.push((ReadHalf::Tls(read), WriteHalf::Tls(write), connected.unwrap()));
        }
        for (number, (read, write, _)) in all.iter().enumerate() {
            write_all((read, write), &(number as u64).to_be_bytes()).await.unwrap();
        }
        for (number, (_, _, (read, _))) in all.iter_mut().enumerate() {
            assert_eq!(read.read_u64().await.unwrap(), number as u64);
        }
    });
}
