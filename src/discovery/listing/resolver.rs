//! Asks name servers, as a stub does (RFC 1034, section 5.3.1): they find out, and it believes them.
//!
//! Each question goes over UDP from a port of its own, with a number that nobody can guess, to one server after the other,
//! twice; what does not fit is asked for again over TCP. Short names are tried with the system's search list. hickory-resolver
//! would be 54 crates more; this needs four kinds of records, and no cache but the servers that it finds.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use mecha_config::{DnsFamily, DnsSpec};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};

use super::dns::{self, Answer, Data, Kind, MAX_UDP};

/// Where the system says whom to ask.
const SYSTEM: &str = "/etc/resolv.conf";
/// How often each server is asked.
const ROUNDS: usize = 2;
/// Aliases of aliases.
const MAX_ALIASES: usize = 8;
/// Whom the system means that says nothing.
const LOCAL: SocketAddr = SocketAddr::new(IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 53);

/// Whom to ask, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Resolver {
    servers: Vec<SocketAddr>,
    /// What short names may be short for.
    search: Vec<String>,
    /// Names with so many dots are tried as they are first.
    dots: usize,
    timeout: Duration,
    family: DnsFamily,
}

/// Addresses, and for how many seconds they hold.
pub(super) type Addresses = (Vec<IpAddr>, u32);

/// A server of a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Service {
    pub(super) priority: u16,
    pub(super) weight: u16,
    pub(super) port: u16,
    pub(super) host: String,
    pub(super) addresses: Vec<IpAddr>,
}

/// Why there is no answer.
enum Failure {
    /// Nobody has this name, or it has no such record.
    Nothing,
    /// Anything else, for people.
    Failed(String),
}

impl Failure {
    fn of(self, name: &str) -> String {
        match self {
            Self::Nothing => format!("`{name}` has no such record"),
            Self::Failed(why) => format!("`{name}`: {why}"),
        }
    }
}

impl Resolver {
    /// As the configuration says, and the system where that says nothing.
    pub(super) fn new(spec: &DnsSpec) -> Self {
        // Read each time: it changes when machines move.
        let system = std::fs::read_to_string(SYSTEM).unwrap_or_default();
        Self::with(spec, &system)
    }

    fn with(spec: &DnsSpec, system: &str) -> Self {
        let mut resolver = Self {
            servers: spec.servers.clone(),
            search: Vec::new(),
            dots: 1,
            timeout: spec.timeout,
            family: spec.family,
        };
        let is_own = !resolver.servers.is_empty();
        for line in system.lines() {
            let mut words = line.split_whitespace();
            match words.next() {
                Some("nameserver") if !is_own => {
                    let ip = words.next().and_then(|ip| ip.parse::<IpAddr>().ok());
                    resolver.servers.extend(ip.map(|ip| SocketAddr::new(ip, 53)));
                }
                Some("search" | "domain") => resolver.search = words.take(6).map(dns::absolute).collect(),
                Some("options") => {
                    let dots = words.find_map(|word| word.strip_prefix("ndots:")?.parse().ok());
                    resolver.dots = dots.unwrap_or(resolver.dots);
                }
                _ => {}
            }
        }
        if resolver.servers.is_empty() {
            resolver.servers.push(LOCAL);
        }
        resolver
    }

    /// The names that `name` may stand for, in the order in which they are tried.
    fn candidates(&self, name: &str) -> Vec<String> {
        if name.ends_with('.') {
            return vec![dns::absolute(name)];
        }
        let searched = self.search.iter().map(|end| format!("{}{end}", dns::absolute(name)));
        let own = dns::absolute(name);
        if name.matches('.').count() >= self.dots {
            [own].into_iter().chain(searched).collect()
        } else {
            searched.chain([own]).collect()
        }
    }

    /// All addresses of a host, in no order.
    ///
    /// # Errors
    /// What went wrong, for people. That there is no such name is an error like any other.
    pub(super) async fn addresses(&self, host: &str) -> Result<Addresses, String> {
        if let Ok(ip) = host.parse() {
            return Ok((vec![ip], u32::MAX));
        }
        let mut failure = Failure::Nothing;
        for name in self.candidates(host) {
            match self.addresses_of(&name).await {
                Err(Failure::Nothing) => {}
                // Another name might be another host.
                Err(failed) => {
                    failure = failed;
                    break;
                }
                Ok(found) => return Ok(found),
            }
        }
        Err(failure.of(host))
    }

    async fn addresses_of(&self, name: &str) -> Result<Addresses, Failure> {
        let (v4, v6) = match self.family {
            DnsFamily::Ipv4 => (self.records(name, Kind::A).await, Err(Failure::Nothing)),
            DnsFamily::Ipv6 => (Err(Failure::Nothing), self.records(name, Kind::Aaaa).await),
            DnsFamily::Both => tokio::join!(self.records(name, Kind::A), self.records(name, Kind::Aaaa)),
        };
        let mut found = (Vec::new(), u32::MAX);
        for one in [v4, v6] {
            match one {
                Ok((data, ttl)) => {
                    found.0.extend(data.into_iter().filter_map(|data| match data {
                        Data::Address(ip) => Some(ip),
                        Data::Alias(_) | Data::Server { .. } => None,
                    }));
                    found.1 = found.1.min(ttl);
                }
                Err(Failure::Nothing) => {}
                // Half of the servers must not look like all of them.
                Err(failed) => return Err(failed),
            }
        }
        found.0.sort_unstable();
        found.0.dedup();
        if found.0.is_empty() { Err(Failure::Nothing) } else { Ok(found) }
    }

    /// The servers of a service.
    ///
    /// # Errors
    /// As [`Resolver::addresses`].
    pub(super) async fn services(&self, name: &str) -> Result<(Vec<Service>, u32), String> {
        let mut failure = Failure::Nothing;
        let mut found = None;
        for candidate in self.candidates(name) {
            match self.records(&candidate, Kind::Srv).await {
                Ok(records) => {
                    found = Some(records);
                    break;
                }
                Err(Failure::Nothing) => {}
                Err(failed) => {
                    failure = failed;
                    break;
                }
            }
        }
        let (records, mut ttl) = found.ok_or_else(|| failure.of(name))?;
        let mut services = Vec::new();
        for record in records {
            let Data::Server { priority, weight, port, host } = record else { continue };
            // A single dot says that there is decidedly no such service (RFC 2782).
            if host == "." {
                continue;
            }
            let (addresses, more) = self.addresses_of(&host).await.map_err(|failure| failure.of(&host))?;
            ttl = ttl.min(more);
            services.push(Service { priority, weight, port, host, addresses });
        }
        if services.is_empty() { Err(Failure::Nothing.of(name)) } else { Ok((services, ttl)) }
    }

    /// Records of a name, through its aliases, and for how long they hold.
    async fn records(&self, name: &str, kind: Kind) -> Result<(Vec<Data>, u32), Failure> {
        let (mut name, mut ttl) = (name.to_string(), u32::MAX);
        let mut aliases = 0;
        while aliases <= MAX_ALIASES {
            let answer = self.ask(&name, kind).await?;
            let before = aliases;
            // Aliases that the same answer explains need no further question.
            let alias = |name: &str| {
                answer.records.iter().find_map(|record| match &record.data {
                    Data::Alias(to) if record.name == name => Some((to.clone(), record.ttl)),
                    _ => None,
                })
            };
            while let Some((to, its_ttl)) = alias(&name).filter(|_| aliases <= MAX_ALIASES) {
                (name, ttl) = (to, ttl.min(its_ttl));
                aliases += 1;
            }
            let is_wanted = |data: &Data| match data {
                Data::Address(ip) => kind == if ip.is_ipv4() { Kind::A } else { Kind::Aaaa },
                Data::Alias(_) => false,
                Data::Server { .. } => kind == Kind::Srv,
            };
            let wanted =
                answer.records.iter().filter(|record| record.name == name && is_wanted(&record.data));
            let least = wanted.clone().map(|record| record.ttl).min();
            if let Some(least) = least {
                return Ok((wanted.map(|record| record.data.clone()).collect(), ttl.min(least)));
            }
            if aliases == before || answer.code == 3 {
                return Err(Failure::Nothing);
            }
            // The alias leads to where the answer may not: one question more.
        }
        Err(Failure::Failed("its aliases lead nowhere".into()))
    }

    /// Asks one server after the other.
    async fn ask(&self, name: &str, kind: Kind) -> Result<Answer, Failure> {
        let mut why = String::new();
        for _ in 0..ROUNDS {
            for server in &self.servers {
                let asked = tokio::time::timeout(self.timeout, ask(*server, name, kind)).await;
                match asked.unwrap_or_else(|_| Err("no answer in time".into())) {
                    Ok(answer) if answer.code == 0 => return Ok(answer),
                    Ok(answer) if answer.code == 3 => {
                        // An alias may lead to a name that nobody has.
                        return if answer.records.is_empty() { Err(Failure::Nothing) } else { Ok(answer) };
                    }
                    Ok(answer) => why = format!("{server} answers with code {}", answer.code),
                    Err(error) => why = format!("{server}: {error}"),
                }
            }
        }
        Err(Failure::Failed(why))
    }
}

/// Asks one server.
async fn ask(server: SocketAddr, name: &str, kind: Kind) -> Result<Answer, String> {
    let number = fastrand::u16(..);
    let question = dns::question(number, name, kind).ok_or("this is no name")?;
    let text = |error: std::io::Error| error.to_string();
    let own: SocketAddr = match server {
        SocketAddr::V4(_) => (std::net::Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (std::net::Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    let socket = UdpSocket::bind(own).await.map_err(text)?;
    // Only what comes from there is heard.
    socket.connect(server).await.map_err(text)?;
    socket.send(&question).await.map_err(text)?;
    let mut buffer = vec![0; usize::from(MAX_UDP) + 1];
    let answer = loop {
        let count = socket.recv(&mut buffer).await.map_err(text)?;
        match dns::answer(buffer.get(..count).unwrap_or_default(), number, name, kind) {
            // Somebody guesses, or it comes late.
            Err(dns::Broken::Stranger) => {}
            Err(broken) => return Err(broken.to_string()),
            Ok(answer) => break answer,
        }
    };
    if !answer.is_cut {
        return Ok(answer);
    }
    let mut stream = TcpStream::connect(server).await.map_err(text)?;
    let length = u16::try_from(question.len()).map_err(|_| "this is no name")?;
    stream.write_all(&[&length.to_be_bytes(), question.as_slice()].concat()).await.map_err(text)?;
    let mut length = [0; 2];
    stream.read_exact(&mut length).await.map_err(text)?;
    let mut message = vec![0; usize::from(u16::from_be_bytes(length))];
    stream.read_exact(&mut message).await.map_err(text)?;
    match dns::answer(&message, number, name, kind) {
        Ok(answer) if answer.is_cut => Err(dns::Broken::Cut.to_string()),
        Ok(answer) => Ok(answer),
        Err(broken) => Err(broken.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_system_says_whom_to_ask_and_what_short_names_mean() {
        let system = "# a comment\nnameserver 10.0.0.2\nnameserver fd00::2\nsearch shop.svc.cluster.local svc.cluster.local\noptions edns0 ndots:5\n";
        let resolver = Resolver::with(&DnsSpec::default(), system);
        let servers: Vec<_> = resolver.servers.iter().map(ToString::to_string).collect();
        assert_eq!(servers, ["10.0.0.2:53", "[fd00::2]:53"]);
        assert_eq!(
            resolver.candidates("cart"),
            ["cart.shop.svc.cluster.local.", "cart.svc.cluster.local.", "cart."]
        );
        assert_eq!(resolver.candidates("Cart.example."), ["cart.example."]);
        let own = DnsSpec { servers: vec!["10.0.0.9:5353".parse().unwrap()], ..DnsSpec::default() };
        let resolver = Resolver::with(&own, "nameserver 10.0.0.2\nsearch a.example");
        assert_eq!(resolver.servers, own.servers);
        assert_eq!(resolver.candidates("b.c"), ["b.c.", "b.c.a.example."]);
        assert_eq!(Resolver::with(&DnsSpec::default(), "").servers, [LOCAL]);
    }
}
