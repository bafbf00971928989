//! A cluster of real servers: three primaries, each with a replica, on free ports.

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use super::servers::free_port;
use super::{Client, PATIENCE, Process, eventually, frame};

/// Milliseconds after which the servers give one of them up.
const NODE_TIMEOUT: &str = "2000";

/// The servers; a folder of their own ends with them.
pub(crate) struct RedisCluster {
    pub(crate) nodes: Vec<(Process, u16)>,
    folder: PathBuf,
    /// Further options of each server; `{free}` is a port of its own, `{bus}` the one for the cluster.
    options: Vec<String>,
}

impl Drop for RedisCluster {
    fn drop(&mut self) {
        self.nodes.clear();
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

impl RedisCluster {
    /// Three primaries with a replica each; `None`, with a note, where there is no server.
    pub(crate) fn start() -> Option<Self> {
        Self::start_with(&[])
    }

    /// As [`RedisCluster::start`], with further options, in which `{free}` is a free port, and `{bus}` the one that
    /// the others expect.
    pub(crate) fn start_with(options: &[&str]) -> Option<Self> {
        let has_server = Command::new("redis-server").arg("--version").stdout(Stdio::null()).status().is_ok();
        if !has_server {
            assert!(std::env::var_os("MECHA_REQUIRE_SERVERS").is_none(), "no redis-server");
            eprintln!("skipped: no redis-server");
            return None;
        }
        let folder =
            std::env::temp_dir().join(format!("mecha-cluster-{}-{}", std::process::id(), free_port()));
        let options = options.iter().map(ToString::to_string).collect();
        let mut cluster = Self { nodes: Vec::new(), folder, options };
        for _ in 0..6 {
            cluster.add_node();
        }
        let last = [5460, 10922, 16383];
        for (at, last) in last.into_iter().enumerate() {
            let first = if at == 0 { 0 } else { [5460, 10922][at - 1] + 1 };
            cluster.tell(at, &format!("CLUSTER ADDSLOTSRANGE {first} {last}"));
        }
        for at in 1..6 {
            cluster.meet(at);
        }
        eventually("six servers know each other", || (0..6).all(|at| cluster.known(at) == 6));
        for at in 3..6 {
            let primary = cluster.id(at - 3);
            eventually("a replica follows its primary", || {
                Client::new(cluster.port(at)).call(&format!("CLUSTER REPLICATE {primary}")) == "+OK\r\n"
            });
        }
        eventually("the cluster is ready", || {
            (0..6).all(|at| {
                let info = Client::new(cluster.port(at)).call("CLUSTER INFO");
                let nodes = Client::new(cluster.port(at)).call("CLUSTER NODES");
                info.contains("cluster_state:ok")
                    && nodes.matches(" connected").count() == 6
                    && nodes.matches("slave").count() == 3
            }) && (3..6)
                .all(|at| Client::new(cluster.port(at)).call("INFO replication").contains("link_status:up"))
        });
        Some(cluster)
    }

    /// Another server, which knows nobody.
    pub(crate) fn add_node(&mut self) -> usize {
        let port = loop {
            // The cluster's own port lies 10,000 above.
            let port = free_port();
            if port < 55_000 && std::net::TcpListener::bind(("127.0.0.1", port + 10_000)).is_ok() {
                break port;
            }
        };
        std::fs::create_dir_all(self.folder.join(port.to_string())).unwrap();
        self.nodes.push((self.serve(port), port));
        self.nodes.len() - 1
    }

    /// Starts server `at`, which has ended, with what it knew.
    pub(crate) fn start_again(&mut self, at: usize) {
        let _ = self.nodes[at].0.wait(Duration::from_secs(5));
        self.nodes[at].0 = self.serve(self.port(at));
    }

    fn serve(&self, port: u16) -> Process {
        let folder = self.folder.join(port.to_string());
        let child = Command::new("redis-server")
            .args(["--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--cluster-enabled", "yes"])
            .args(["--cluster-node-timeout", NODE_TIMEOUT, "--repl-diskless-sync-delay", "0"])
            .args(["--port", &port.to_string(), "--dir", folder.to_str().unwrap()])
            .args(self.options.iter().map(|option| {
                let bus = (port + 10_000).to_string();
                option.replace("{free}", &free_port().to_string()).replace("{bus}", &bus)
            }))
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        eventually("a server listens", || Client::try_new(port).is_some());
        Process(child)
    }

    /// The slots that server `at` says that it holds.
    pub(crate) fn slots_of(&self, at: usize) -> Vec<u16> {
        let nodes = Client::new(self.port(at)).call("CLUSTER NODES");
        let own = nodes.lines().find(|line| line.contains("myself")).unwrap_or_default();
        let ranges = own.split(' ').skip(8).filter(|word| !word.starts_with('['));
        let number = |text: &str| text.parse::<u16>().ok();
        ranges
            .filter_map(|range| {
                let (first, last) = range.split_once('-').unwrap_or((range, range));
                Some(number(first)?..=number(last)?)
            })
            .flatten()
            .collect()
    }

    /// Makes server `at` a member.
    pub(crate) fn meet(&self, at: usize) {
        self.tell(at, &format!("CLUSTER MEET 127.0.0.1 {}", self.port(0)));
    }

    pub(crate) fn port(&self, at: usize) -> u16 {
        self.nodes[at].1
    }

    pub(crate) fn to(&self) -> String {
        format!("redis-cluster://127.0.0.1:{}", self.port(0))
    }

    pub(crate) fn id(&self, at: usize) -> String {
        Client::new(self.port(at)).call("CLUSTER MYID").lines().nth(1).unwrap().to_string()
    }

    /// How many servers `at` knows.
    pub(crate) fn known(&self, at: usize) -> usize {
        let nodes = Client::new(self.port(at)).call("CLUSTER NODES");
        nodes.lines().filter(|line| line.contains('@') && !line.contains("handshake")).count()
    }

    fn tell(&self, at: usize, command: &str) {
        assert_eq!(Client::new(self.port(at)).call(command), "+OK\r\n", "{command}");
    }

    /// Moves one slot with its keys, as `redis-cli --cluster reshard` does.
    pub(crate) fn move_slot(&self, slot: u16, from: usize, to: usize) {
        self.begin_move(slot, from, to);
        let target = self.id(to);
        self.tell(to, &format!("CLUSTER SETSLOT {slot} NODE {target}"));
        // One that has given its last slot away has become a replica already.
        Client::new(self.port(from)).call(&format!("CLUSTER SETSLOT {slot} NODE {target}"));
    }

    /// Waits until all servers have heard of the last move: where slots move on before that, servers that contradict each
    /// other may drop one.
    pub(crate) fn agrees(&self) {
        let view = |at: usize| {
            let nodes = Client::new(self.port(at)).call("CLUSTER NODES");
            let mut lines: Vec<String> = nodes
                .lines()
                .filter(|line| line.contains("master"))
                .map(|line| {
                    let words: Vec<_> = line.split(' ').collect();
                    let slots = words.iter().skip(8).filter(|word| !word.starts_with('['));
                    words.iter().take(1).chain(slots).copied().collect::<Vec<_>>().join(" ")
                })
                .collect();
            lines.sort();
            lines
        };
        eventually("all servers agree", || (1..3).all(|at| view(at) == view(0)));
    }

    /// As [`RedisCluster::move_slot`], up to where the slot itself would change hands.
    pub(crate) fn begin_move(&self, slot: u16, from: usize, to: usize) {
        let (source, target) = (self.id(from), self.id(to));
        self.tell(to, &format!("CLUSTER SETSLOT {slot} IMPORTING {source}"));
        self.tell(from, &format!("CLUSTER SETSLOT {slot} MIGRATING {target}"));
        let (mut client, since) = (Client::new(self.port(from)), std::time::Instant::now());
        loop {
            let found = client.call(&format!("CLUSTER GETKEYSINSLOT {slot} 3"));
            let keys: Vec<_> = found
                .split("\r\n")
                .filter(|line| !line.is_empty() && !line.starts_with(['*', '$']))
                .collect();
            if keys.is_empty() {
                break;
            }
            let port = self.port(to).to_string();
            let mut words = vec!["MIGRATE", "127.0.0.1", &port, "", "0", "5000", "KEYS"];
            words.extend(&keys);
            client.send(&frame(&words));
            let reply = client.reply();
            // On a busy machine the target may have lost sight of the others for a moment.
            let is_later = reply.contains("CLUSTERDOWN") && since.elapsed() < PATIENCE;
            assert!(is_later || reply == "+OK\r\n" || reply == "+NOKEY\r\n", "{reply}");
        }
    }
}
