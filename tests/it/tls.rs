//! TLS on both sides, and mecha's own login upstream.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

use super::support::{
    Client, Fake, Mecha, NAME, PATIENCE, Process, RedisCluster, Sentinels, eventually, free_port, redis,
};

/// Files of one test: `ca.pem`, and certificates by name. All goes away with the test.
pub(crate) struct Folder {
    path: PathBuf,
    ca: CertifiedIssuer<'static, KeyPair>,
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.path);
    }
}

impl Folder {
    pub(crate) fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("mecha-it-tls-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, "test authority");
        let ca = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        std::fs::write(path.join("ca.pem"), ca.pem()).unwrap();
        let folder = Self { path, ca };
        folder.issue("server", "localhost");
        folder
    }

    pub(super) fn issue(&self, stem: &str, name: &str) {
        let mut params = CertificateParams::new(vec![name.to_string(), "127.0.0.1".to_string()]).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        let key = KeyPair::generate().unwrap();
        let leaf = params.signed_by(&key, &self.ca).unwrap();
        std::fs::write(self.path.join(format!("{stem}.key")), key.serialize_pem()).unwrap();
        std::fs::write(self.path.join(format!("{stem}.pem")), leaf.pem()).unwrap();
    }

    pub(crate) fn file(&self, name: &str) -> String {
        self.path.join(name).display().to_string()
    }

    /// A configuration with one listener, `tls` being further keys of its block.
    pub(crate) fn mecha(&self, listen: &str, tls: &str, rest: &str) -> Mecha {
        let (cert, key) = (self.file("server.pem"), self.file("server.key"));
        let text = format!(
            "listeners:\n  - listen: {listen}://127.0.0.1:0\n    to: back\n    tls: {{ cert: {cert}, key: {key}{tls} }}\n\
             clusters:\n  back: {rest}\nworkers: 2\n"
        );
        let file = self.path.join("mecha.yaml");
        std::fs::write(&file, text).unwrap();
        Mecha::from_file(&file)
    }

    pub(super) fn config(&self, certificate: Option<&str>) -> Arc<ClientConfig> {
        self.config_of(rustls::DEFAULT_VERSIONS, certificate)
    }

    pub(super) fn config_of(
        &self,
        versions: &[&'static rustls::SupportedProtocolVersion],
        certificate: Option<&str>,
    ) -> Arc<ClientConfig> {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(self.path.join("ca.pem")).unwrap()).unwrap();
        let builder = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_protocol_versions(versions)
            .unwrap()
            .with_root_certificates(roots);
        Arc::new(match certificate {
            None => builder.with_no_client_auth(),
            Some(stem) => {
                let chain =
                    vec![CertificateDer::from_pem_file(self.path.join(format!("{stem}.pem"))).unwrap()];
                let key = PrivateKeyDer::from_pem_file(self.path.join(format!("{stem}.key"))).unwrap();
                builder.with_client_auth_cert(chain, key).unwrap()
            }
        })
    }
}

pub(super) struct TlsClient(StreamOwned<ClientConnection, TcpStream>);

impl TlsClient {
    pub(super) fn new(config: &Arc<ClientConfig>, port: u16) -> Self {
        let socket = TcpStream::connect(("127.0.0.1", port)).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        let name = ServerName::try_from("localhost").unwrap();
        Self(StreamOwned::new(ClientConnection::new(Arc::clone(config), name).unwrap(), socket))
    }

    /// Sends and reads exactly what is expected.
    #[track_caller]
    pub(super) fn call(&mut self, request: &[u8], expected: &[u8]) {
        self.0.write_all(request).unwrap();
        let mut got = vec![0; expected.len()];
        self.0.read_exact(&mut got).unwrap();
        assert!(got == expected, "{:?}", String::from_utf8_lossy(&got));
    }
}

/// A real server that speaks TLS, if there is one.
fn tls_redis(folder: &Folder) -> Option<(Process, u16)> {
    let port = free_port();
    let file = |name: &str| folder.file(name);
    let child = Command::new("redis-server")
        .args(["--bind", "127.0.0.1", "--save", "", "--port", "0", "--tls-port", &port.to_string()])
        .args(["--tls-cert-file", &file("server.pem"), "--tls-key-file", &file("server.key")])
        .args(["--tls-ca-cert-file", &file("ca.pem"), "--tls-auth-clients", "optional"])
        .stdout(Stdio::null())
        .spawn();
    match child {
        Ok(child) => {
            let process = Process(child);
            eventually("redis-server with TLS does not come up", || {
                TcpStream::connect(("127.0.0.1", port)).is_ok()
            });
            Some((process, port))
        }
        Err(_) if std::env::var_os("MECHA_REQUIRE_SERVERS").is_none() => None,
        Err(error) => panic!("redis-server: {error}"),
    }
}

#[test]
fn a_real_client_reaches_a_real_server_with_tls_on_both_sides() {
    let folder = Folder::new("both");
    let Some((_redis, redis)) = tls_redis(&folder) else { return };
    let ca = folder.file("ca.pem");
    let back = format!("{{ to: \"rediss://127.0.0.1:{redis}\", tls: {{ ca: {ca} }} }}");
    let mecha = folder.mecha("rediss", "", &back);
    let cli = |args: &[&str]| {
        let output = Command::new("redis-cli")
            .args(["--tls", "--cacert", &ca, "-h", "127.0.0.1", "-p", &mecha.port.to_string()])
            .args(args)
            .output()
            .unwrap();
        String::from_utf8_lossy(&output.stdout).trim_end().to_string()
    };
    assert_eq!(cli(&["SET", "k", "through TLS"]), "OK");
    assert_eq!(cli(&["GET", "k"]), "through TLS");
    // Larger than every buffer on the way, in both directions.
    let mut client = TlsClient::new(&folder.config(None), mecha.port);
    let value: Vec<u8> = (0..3_000_000u32).map(|n| (n.wrapping_mul(7919) >> 3) as u8).collect();
    let bulk = [format!("${}\r\n", value.len()).as_bytes(), &value, b"\r\n"].concat();
    client.call(&[b"*3\r\n$3\r\nSET\r\n$3\r\nbig\r\n".as_slice(), &bulk].concat(), b"+OK\r\n");
    client.call(b"*2\r\n$3\r\nGET\r\n$3\r\nbig\r\n", &bulk);
    client.call(&b"*1\r\n$4\r\nPING\r\n".repeat(1000), &b"+PONG\r\n".repeat(1000));
    assert!(mecha.metric("mecha_calls_total{") >= 1004.0);
    assert!(mecha.metric("mecha_tls_handshakes_total{listener=\"resp\",result=\"ok\"}") >= 3.0);
    assert!(mecha.metric("mecha_tls_upstream_handshakes_total{cluster=\"back\",result=\"ok\"}") >= 1.0);
    assert!(mecha.metric("mecha_tls_upstream_sessions_total{cluster=\"back\",") >= 1.0);
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs_f64();
    for ends in [
        "mecha_tls_certificate_expiry_timestamp_seconds{",
        "mecha_tls_upstream_certificate_expiry_timestamp_seconds{",
    ] {
        assert!(mecha.metric(ends) > now, "{ends} is not in the future");
    }
}

#[test]
fn a_server_that_nobody_vouches_for_gets_no_command() {
    let folder = Folder::new("untrusted");
    let Some((_redis, redis)) = tls_redis(&folder) else { return };
    let stranger = Folder::new("stranger");
    let ca = stranger.file("ca.pem");
    let back = format!("{{ to: \"rediss://127.0.0.1:{redis}\", tls: {{ ca: {ca} }} }}");
    let mecha = folder.mecha("rediss", "", &back);
    let mut client = TlsClient::new(&folder.config(None), mecha.port);
    client.call(b"SET a 1\r\n", b"-ERR mecha: backend is unreachable, the command was not sent (set)\r\n");
    let refused = "mecha_tls_upstream_handshakes_total{cluster=\"back\",result=\"server_certificate\"}";
    assert!(mecha.metric(refused) >= 1.0);
    assert_eq!(mecha.metric("mecha_tls_upstream_handshakes_total{cluster=\"back\",result=\"ok\"}"), 0.0);
}

#[test]
fn a_memcached_client_speaks_tls_too() {
    let folder = Folder::new("memcached");
    let mecha = folder.mecha("memcacheds", ", min_version: 1.3", "embedded://");
    let mut client = TlsClient::new(&folder.config(None), mecha.port);
    client.call(b"set k 5 0 3\r\nabc\r\nget k\r\n", b"STORED\r\nVALUE k 5 3\r\nabc\r\nEND\r\n");
}

#[test]
fn clients_prove_who_they_are() {
    let folder = Folder::new("mutual");
    folder.issue("app", "app.test");
    let mecha = folder.mecha("rediss", &format!(", client_ca: {}", folder.file("ca.pem")), "embedded://");
    let mut client = TlsClient::new(&folder.config(Some("app")), mecha.port);
    client.call(b"PING\r\n", b"+PONG\r\n");
    let shown = mecha.get("/connections");
    assert!(shown.contains("CN=app.test") && shown.contains("sha256"), "{shown}");
    let mut nobody = TlsClient::new(&folder.config(None), mecha.port);
    let _ = nobody.0.write_all(b"PING\r\n");
    assert!(nobody.0.read(&mut [0; 10]).is_err(), "a client without a certificate was served");
    eventually("the refusal is not counted", || {
        mecha.metric("mecha_tls_handshakes_total{listener=\"resp\",result=\"client_certificate\"}") == 1.0
    });
}

#[test]
fn a_client_without_tls_is_told_or_served_as_configured() {
    let folder = Folder::new("plain");
    let strict = folder.mecha("rediss", "", "embedded://");
    let mut client = Client::new(strict.port);
    assert_eq!(client.call("PING"), "-ERR mecha: this port speaks TLS only\r\n");
    assert_eq!(strict.metric("mecha_tls_handshakes_total{listener=\"resp\",result=\"not_tls\"}"), 1.0);
    let both = folder.mecha("redis", ", mode: optional, handshake_timeout: 300ms", "embedded://");
    let mut silent = Client::new(both.port);
    assert_eq!(Client::new(both.port).call("PING"), "+PONG\r\n");
    TlsClient::new(&folder.config(None), both.port).call(b"PING\r\n", b"+PONG\r\n");
    // A spare connection of a pool says nothing for long.
    eventually("the silent client is not served", || {
        both.metric("mecha_client_connections{listener=\"resp\",protocol=\"resp\"}") >= 1.0
    });
    assert_eq!(silent.call("PING"), "+PONG\r\n");
}

#[test]
fn renewed_certificates_are_used_and_connections_stay() {
    let folder = Folder::new("renew");
    let mecha = folder.mecha("rediss", "", "embedded://");
    let config = folder.config(None);
    let mut old = TlsClient::new(&config, mecha.port);
    old.call(b"SET a 1\r\n", b"+OK\r\n");
    let shown = |client: &TlsClient| client.0.conn.peer_certificates().unwrap()[0].to_vec();
    let first = shown(&old);
    std::fs::write(folder.file("server.pem"), "broken").unwrap();
    eventually("the broken file is not noticed", || {
        mecha.metric("mecha_tls_reloads_total{name=\"resp\",result=\"failed\"}") >= 1.0
    });
    let mut client = TlsClient::new(&config, mecha.port);
    client.call(b"GET a\r\n", b"$1\r\n1\r\n");
    assert!(shown(&client) == first);
    folder.issue("server", "localhost");
    eventually("the new file is not used", || {
        let mut client = TlsClient::new(&folder.config(None), mecha.port);
        client.call(b"GET a\r\n", b"$1\r\n1\r\n");
        shown(&client) != first
    });
    old.call(b"GET a\r\n", b"$1\r\n1\r\n");
}

#[test]
fn a_storm_of_handshakes_stalls_nobody() {
    let folder = Folder::new("storm");
    let mecha = folder.mecha("rediss", ", handshake_timeout: 6s", "embedded://");
    let config = folder.config(None);
    let mut client = TlsClient::new(&config, mecha.port);
    client.call(b"SET a 1\r\n", b"+OK\r\n");
    // Some never go on, some send garbage, some are good and leave without a word.
    let mut stuck: Vec<_> =
        (0..300).map(|_| TcpStream::connect(("127.0.0.1", mecha.port)).unwrap()).collect();
    stuck.iter_mut().for_each(|socket| socket.write_all(&[0x16, 3, 1, 2, 0, 1]).unwrap());
    let port = mecha.port;
    let storm: Vec<_> = (0..4)
        .map(|_| {
            let config = folder.config(None);
            std::thread::spawn(move || {
                for _ in 0..50 {
                    TlsClient::new(&config, port).call(b"PING\r\n", b"+PONG\r\n");
                    let mut socket = TcpStream::connect(("127.0.0.1", port)).unwrap();
                    let _ = socket.write_all(&[0x16; 3000]);
                }
            })
        })
        .collect();
    let mut times = Vec::new();
    while storm.iter().any(|thread| !thread.is_finished()) {
        let start = Instant::now();
        client.call(b"GET a\r\n", b"$1\r\n1\r\n");
        times.push(start.elapsed());
    }
    storm.into_iter().for_each(|thread| thread.join().unwrap());
    times.sort_unstable();
    let p99 = times[times.len() * 99 / 100];
    assert!(p99 < Duration::from_millis(250), "p99 of {} calls was {p99:?}", times.len());
    eventually("handshakes that never end keep their places", || {
        mecha.metric("mecha_tls_handshakes_under_way{") == 0.0
    });
    assert!(mecha.metric("mecha_tls_handshakes_total{listener=\"resp\",result=\"timed_out\"}") >= 300.0);
    assert_eq!(mecha.metric("mecha_tls_handshakes_total{listener=\"resp\",result=\"invalid\"}"), 200.0);
    drop(stuck);
}

#[test]
fn a_tls_client_that_never_reads_costs_little_and_harms_nobody() {
    let folder = Folder::new("deaf");
    let mecha = folder.mecha("rediss", "", "embedded://");
    let config = folder.config(None);
    let mut client = TlsClient::new(&config, mecha.port);
    let value = vec![b'x'; 200_000];
    let bulk = [b"$200000\r\n".as_slice(), &value, b"\r\n"].concat();
    client.call(&[b"*3\r\n$3\r\nSET\r\n$3\r\nbig\r\n".as_slice(), &bulk].concat(), b"+OK\r\n");
    let mut deaf = TlsClient::new(&config, mecha.port);
    deaf.0.write_all(&b"GET big\r\n".repeat(300)).unwrap();
    for _ in 0..200 {
        client.call(b"PING\r\n", b"+PONG\r\n");
    }
    assert!(mecha.metric("process_resident_memory_bytes") < 80e6);
}

#[test]
fn a_thousand_tls_clients_get_their_own_answers() {
    let folder = Folder::new("thousand");
    // They all connect before the first one shakes hands, and the machine may be busy.
    let mecha = folder.mecha("rediss", ", handshake_timeout: 60s", "embedded://");
    let config = folder.config(None);
    let mut clients: Vec<_> = (0..1000).map(|_| TlsClient::new(&config, mecha.port)).collect();
    for (number, client) in clients.iter_mut().enumerate() {
        client.call(format!("SET key:{number} value:{number:04}\r\n").as_bytes(), b"+OK\r\n");
    }
    for (number, client) in clients.iter_mut().enumerate() {
        let expected = format!("$10\r\nvalue:{number:04}\r\n");
        client.call(format!("GET key:{number}\r\n").as_bytes(), expected.as_bytes());
    }
    drop(clients);
    eventually("connections are leaked", || {
        mecha.metric("mecha_client_connections{listener=\"resp\",protocol=\"resp\"}") == 0.0
    });
}

#[test]
fn mecha_logs_in_and_a_wrong_password_is_a_clear_error() {
    let Some((_redis, port)) = redis() else { return };
    let mut direct = Client::new(port);
    assert_eq!(direct.call("CONFIG SET requirepass geheim-7"), "+OK\r\n");
    let folder = Folder::new("login");
    std::fs::write(folder.file("password"), "geheim-7\n").unwrap();
    let text = |password: &str| {
        format!(
            "listeners: [ {{ listen: \"redis://127.0.0.1:0\", to: back }} ]\nclusters:\n  back:\n    \
             to: redis://127.0.0.1:{port}\n    auth: {{ {password} }}\n    db: 3\nworkers: 1\n"
        )
    };
    let start = |password: &str| {
        let file = folder.path.join("login.yaml");
        std::fs::write(&file, text(password)).unwrap();
        Mecha::from_file(&file)
    };
    let mecha = start(&format!("password_file: {}", folder.file("password")));
    let mut client = mecha.client();
    assert_eq!(client.call("SET where three"), "+OK\r\n");
    // A dedicated connection and one of the other protocol version log in as well.
    assert_eq!([client.call("MULTI"), client.call("GET where")].concat(), "+OK\r\n+QUEUED\r\n");
    assert_eq!(client.call("EXEC"), "*1\r\n$5\r\nthree\r\n");
    let mut third = mecha.client();
    third.send(b"HELLO 3\r\nGET where\r\n");
    eventually("no answer in RESP3", || third.line().contains("three"));
    let all = [mecha.get("/config"), mecha.get("/metrics"), mecha.get("/clusters")].concat();
    assert!(!all.contains("geheim"), "the password is shown");
    assert_eq!(direct.call("SELECT 3"), "+OK\r\n");
    assert_eq!(direct.call("GET where"), "$5\r\nthree\r\n");

    let wrong = start("password: geheim-8");
    let mut client = wrong.client();
    for _ in 0..50 {
        let answer = client.call("SET where else");
        assert_eq!(answer, "-ERR mecha: backend refused mecha's login, the command was not sent (set)\r\n");
    }
    assert_eq!(direct.call("GET where"), "$5\r\nthree\r\n");
    assert!(wrong.metric("mecha_upstream_connects_total{") <= 10.0, "a storm of logins");
}

/// Options that make a server speak TLS on a second port, and know a user of its own for mecha.
fn private(folder: &Folder) -> Vec<String> {
    let file = |name: &str| folder.file(name);
    [
        ["--tls-port", "{free}"],
        ["--tls-cert-file", &file("server.pem")],
        ["--tls-key-file", &file("server.key")],
        ["--tls-ca-cert-file", &file("ca.pem")],
        ["--tls-auth-clients", "optional"],
    ]
    .concat()
    .iter()
    .map(ToString::to_string)
    .chain(["--user", "mecha", "on", ">secret", "~*", "&*", "+@all"].map(Into::into))
    .collect()
}

/// Ports of this server that somebody who is called `mecha` is connected to.
fn ports_in_use(port: u16) -> Vec<u16> {
    let list = Client::new(port).call("CLIENT LIST");
    let ours = list.lines().filter(|line| line.contains("user=mecha"));
    let local =
        ours.filter_map(|line| line.split(" laddr=127.0.0.1:").nth(1)?.split(' ').next()?.parse().ok());
    local.collect()
}

#[test]
fn servers_of_a_cluster_are_found_and_used_with_tls_and_a_login() {
    let folder = Folder::new("cluster");
    let options = private(&folder);
    let bus = ["--tls-cluster", "yes", "--tls-replication", "yes", "--cluster-port", "{bus}"];
    let options: Vec<_> = options.iter().map(String::as_str).chain(bus).collect();
    let Some(cluster) = RedisCluster::start_with(&options) else { return };
    let tls_port = |at: usize| -> u16 {
        let told = Client::new(cluster.port(at)).call("CONFIG GET tls-port");
        told.lines().nth(4).unwrap().parse().unwrap()
    };
    let ca = folder.file("ca.pem");
    let login = "auth: { username: mecha, password: secret }";
    let mecha = Mecha::configured(&format!(
        "listeners: [ {{ listen: \"redis://127.0.0.1:0\", to: back }} ]\n\
         clusters: {{ back: {{ to: \"rediss-cluster://127.0.0.1:{}\", tls: {{ ca: {ca} }}, {login} }} }}\n",
        tls_port(1)
    ));
    let mut client = mecha.client();
    for key in 0..60 {
        assert_eq!(client.call(&format!("SET key:{key} {key}")), "+OK\r\n");
    }
    assert!(client.call("ACL WHOAMI").ends_with("mecha\r\n"));
    for at in 0..3 {
        let used = ports_in_use(cluster.port(at));
        assert!(!used.is_empty() && used.iter().all(|port| *port == tls_port(at)), "{used:?}");
    }
    // A redirect names the port for TLS to who speaks TLS.
    cluster.move_slot(12182, 2, 0);
    assert_eq!([client.call("SET foo 1"), client.call("GET foo")], ["+OK\r\n", "$1\r\n1\r\n"]);
}

#[test]
fn sentinels_have_a_login_of_their_own_and_servers_tls_and_a_database() {
    let folder = Folder::new("sentinel");
    let options = private(&folder);
    let options: Vec<_> = options.iter().map(String::as_str).collect();
    // The primary that sentinels name must be the port that speaks TLS: they reach it so themselves.
    let file = |name: &str| folder.file(name);
    let lines = format!(
        "tls-port {{free}}\ntls-cert-file {}\ntls-key-file {}\ntls-ca-cert-file {}\ntls-auth-clients optional\n\
         user watcher on >own ~* &* +@all\n",
        file("server.pem"),
        file("server.key"),
        file("ca.pem")
    );
    let Some(all) = Sentinels::start_with(&options, &lines) else { return };
    let tls_port = |port: u16| -> u16 {
        Client::new(port).call("CONFIG GET tls-port").lines().nth(4).unwrap().parse().unwrap()
    };
    let seeds: Vec<_> = all.sentinels.iter().map(|(_, port)| format!("127.0.0.1:{port}")).collect();
    let (plain, tls) = (all.servers[0].1, tls_port(all.servers[0].1));
    // To the sentinels the primary is its plain port: they are told otherwise.
    for (_, port) in &all.sentinels {
        let mut sentinel = Client::new(*port);
        assert_eq!(sentinel.call(&format!("SENTINEL REMOVE {NAME}")), "+OK\r\n");
        assert_eq!(sentinel.call(&format!("SENTINEL MONITOR {NAME} 127.0.0.1 {tls} 2")), "+OK\r\n");
        assert_eq!(sentinel.call("ACL SETUSER default off"), "+OK\r\n");
    }
    let ca = file("ca.pem");
    let mecha = Mecha::configured(&format!(
        "listeners: [ {{ listen: \"redis://127.0.0.1:0\", to: back }} ]\n\
         clusters:\n  back:\n    to: \"rediss-sentinel://{}/{NAME}\"\n    tls: {{ ca: {ca} }}\n    db: 3\n    \
         auth: {{ username: mecha, password: secret }}\n    \
         sentinels: {{ auth: {{ username: watcher, password: own }}, tls: false }}\n",
        seeds.join(",")
    ));
    let mut client = mecha.client();
    assert_eq!(client.call("SET k 1"), "+OK\r\n");
    let mut direct = Client::new(plain);
    assert_eq!([direct.call("SELECT 3"), direct.call("GET k")], ["+OK\r\n", "$1\r\n1\r\n"]);
    let used = ports_in_use(plain);
    assert!(!used.is_empty() && used.iter().all(|port| *port == tls), "{used:?}");
    drop((client, mecha));
    // Sentinels speak TLS too, unless told otherwise, to whoever trusts them.
    let ports = all.tls_ports();
    assert_eq!(ports.len(), 3);
    let seeds: Vec<_> = ports.iter().map(|port| format!("127.0.0.1:{port}")).collect();
    let mecha = |ca: &str| {
        Mecha::configured(&format!(
            "listeners: [ {{ listen: \"redis://127.0.0.1:0\", to: back }} ]\n\
             clusters:\n  back:\n    to: \"rediss-sentinel://{}/{NAME}\"\n    tls: {{ ca: {ca} }}\n    db: 3\n    \
             auth: {{ username: mecha, password: secret }}\n    \
             sentinels: {{ auth: {{ username: watcher, password: own }} }}\n",
            seeds.join(",")
        ))
    };
    let trusting = mecha(&ca);
    assert_eq!(trusting.client().call("GET k"), "$1\r\n1\r\n");
    let mut asked = 0;
    for ((_, port), tls) in all.sentinels.iter().zip(&ports) {
        let mut sentinel = Client::new(*port);
        assert_eq!(sentinel.call("AUTH watcher own"), "+OK\r\n");
        asked += sentinel.call("CLIENT LIST").matches(&format!("laddr=127.0.0.1:{tls} ")).count();
    }
    assert!(asked > 0, "no sentinel was asked in TLS");
    let other = Folder::new("sentinel-other");
    let wary = mecha(&other.file("ca.pem"));
    assert!(wary.client().call("GET k").starts_with("-ERR mecha: backend is unreachable"));
}

#[test]
fn bytes_that_nobody_looks_at_cross_tls_in_both_directions() {
    let folder = Folder::new("opaque");
    let server = Fake::start(|mut stream, _| {
        let mut all = Vec::new();
        // The end of what the client says has crossed TLS twice when this returns.
        let _ = stream.read_to_end(&mut all);
        let _ = stream.write_all(&all.iter().rev().copied().collect::<Vec<_>>());
    });
    let ends = folder.mecha("tls", "", &format!("{{ to: \"tcp://127.0.0.1:{}\" }}", server.port));
    let begins = Mecha::configured(&format!(
        "listeners:\n  - {{ listen: \"tcp://127.0.0.1:0\", to: back }}\nclusters:\n  back:\n    to: tls://localhost:{}\n    tls: {{ ca: {} }}\nworkers: 1\n",
        ends.port,
        folder.file("ca.pem")
    ));
    let sent: Vec<u8> = (0..600_000u32).flat_map(u32::to_le_bytes).collect();
    let mut stream = TcpStream::connect(("127.0.0.1", begins.port)).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(&sent).unwrap();
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    let mut heard = Vec::new();
    stream.read_to_end(&mut heard).unwrap();
    assert!(heard.iter().rev().eq(&sent), "{} of {} bytes, or others", heard.len(), sent.len());
    assert_eq!(ends.metric("mecha_client_bytes_total{"), 2.0 * sent.len() as f64);
}

#[test]
fn the_header_of_a_proxy_stands_before_the_handshake() {
    let folder = Folder::new("proxied");
    let (cert, key) = (folder.file("server.pem"), folder.file("server.key"));
    let last = Mecha::configured(&format!(
        "listeners:\n  - {{ listen: \"rediss://127.0.0.1:0\", to: \"embedded://\", proxy_protocol: required, tls: {{ cert: {cert}, key: {key} }} }}\nworkers: 1\n"
    ));
    let first = Mecha::configured(&format!(
        "listeners:\n  - {{ listen: \"tcp://127.0.0.1:0\", to: back }}\nclusters:\n  back:\n    to: tls://localhost:{}\n    proxy_protocol: v2\n    tls: {{ ca: {} }}\nworkers: 1\n",
        last.port,
        folder.file("ca.pem")
    ));
    let mut client = first.client();
    assert_eq!(client.call("PING"), "+PONG\r\n");
    let source = client.writer.local_addr().unwrap().to_string();
    assert!(last.get("/connections").contains(&source));
    assert_eq!(last.metric("mecha_tls_handshakes_total{"), 1.0);
}

#[test]
fn errors_of_tls_and_login_come_with_line_and_hint_and_without_secrets() {
    let folder = Folder::new("errors");
    folder.issue("other", "other.test");
    let text = format!(
        "listeners:\n  - listen: rediss://127.0.0.1:0\n    to: back\n  - listen: rediss://127.0.0.1:1\n    to: back\n    \
         tls:\n      cert: {}\n      key: {}\nclusters:\n  back:\n    to: rediss://localhost:1\n    \
         tls: {{ ca: /no/such.pem }}\n    auth: {{ password: geheim-9, bogus: 1 }}\n",
        folder.file("server.pem"),
        folder.file("other.key")
    );
    let file = folder.path.join("wrong.yaml");
    std::fs::write(&file, text).unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_mecha")).arg("check").arg(&file).output().unwrap();
    let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert!(!output.status.success());
    for part in [
        "wrong.yaml has 4 errors",
        "`tls` is missing, which this scheme needs",
        "wrong.yaml:8:12 at listeners[1].tls.key",
        "the key does not belong to the certificate",
        "cannot read `/no/such.pem`",
        "there is no key `bogus` here",
    ] {
        assert!(text.contains(part), "{part}\n{text}");
    }
    assert!(!text.contains("geheim"), "{text}");
}

#[test]
fn the_example_is_fine_once_its_files_are_there() {
    let folder = Folder::new("example");
    folder.issue("other", "other.test");
    std::fs::copy(folder.file("ca.pem"), folder.file("clients.pem")).unwrap();
    std::fs::copy(folder.file("ca.pem"), folder.file("servers.pem")).unwrap();
    std::fs::write(folder.file("cache"), "secret\n").unwrap();
    let example = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/examples/tls.yaml")).unwrap();
    let check = |text: &str| {
        let file = folder.path.join("example.yaml");
        std::fs::write(&file, text).unwrap();
        let output = Command::new(env!("CARGO_BIN_EXE_mecha")).arg("check").arg(&file).output().unwrap();
        String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()
    };
    let here = folder.path.display().to_string();
    let text = check(&example.replace("/etc/mecha/tls", &here).replace("/run/secrets", &here));
    assert!(text.starts_with("the configuration is fine"), "{text}");
    // Without them, every one is named.
    let text = check(&example);
    assert!(text.contains("has 7 errors") && text.contains("/etc/mecha/tls/servers.pem"), "{text}");
}
