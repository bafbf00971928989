//! What is wanted of the packet filter, whatever its words.

use std::net::IpAddr;

use clap::ValueEnum;

use super::{KEPT_MARK, LED_MARK, Step};

/// Connections to one port go to another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Lead {
    pub(crate) from: u16,
    pub(crate) to: u16,
}

/// Addresses that begin alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Network {
    pub(crate) address: IpAddr,
    pub(crate) bits: u8,
}

impl std::fmt::Display for Network {
    fn fmt(&self, to: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(to, "{}/{}", self.address, self.bits)
    }
}

/// Which connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Direction {
    Both,
    Inbound,
    Outbound,
}

/// How they are led.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Mode {
    Redirect,
    Tproxy,
}

/// Which addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Families {
    Both,
    Ipv4,
    Ipv6,
}

/// What is wanted.
#[derive(Clone, Debug)]
pub(crate) struct Rules {
    pub(crate) leads: Vec<Lead>,
    pub(crate) rest: Option<u16>,
    pub(crate) direction: Direction,
    pub(crate) mode: Mode,
    pub(crate) families: Families,
    pub(crate) uids: Vec<u32>,
    pub(crate) gids: Vec<u32>,
    pub(crate) ports: Vec<u16>,
    pub(crate) networks: Vec<Network>,
    pub(crate) interfaces: Vec<String>,
    /// What servers answer to addresses that mecha has spoken from comes to mecha.
    pub(crate) keeps_source: bool,
}

impl Direction {
    pub(crate) fn is_inbound(self) -> bool {
        self != Self::Outbound
    }

    pub(crate) fn is_outbound(self) -> bool {
        self != Self::Inbound
    }
}

impl Families {
    pub(crate) fn has_ipv4(self) -> bool {
        self != Self::Ipv6
    }

    pub(crate) fn has_ipv6(self) -> bool {
        self != Self::Ipv4
    }
}

impl Rules {
    /// These, if they make sense.
    pub(crate) fn checked(mut self) -> Result<Self, String> {
        if self.leads.is_empty() && self.rest.is_none() && !self.keeps_source {
            return Err("nothing is to be led here\n  hint: `--port 6379=16379` for one port, `--rest 15001` for all others".into());
        }
        let twice = self
            .leads
            .iter()
            .enumerate()
            .find(|(at, lead)| self.leads.iter().take(*at).any(|earlier| earlier.from == lead.from));
        if let Some((_, lead)) = twice {
            return Err(format!("port {} is led to two places\n  hint: name it once", lead.from));
        }
        if self.direction == Direction::Inbound && !(self.uids.is_empty() && self.gids.is_empty()) {
            return Err("nobody knows which user a connection from elsewhere belongs to\n  hint: exclude addresses or interfaces".into());
        }
        // Who comes to mecha's own ports means them.
        let own = self.leads.iter().map(|lead| lead.to).chain(self.rest);
        self.ports.extend(own);
        self.ports.sort_unstable();
        self.ports.dedup();
        Ok(self)
    }

    /// Packets that are led here as they are go to this machine, whatever their address.
    pub(super) fn routes(&self) -> Vec<Step> {
        let mut steps = routes_removed();
        for (has, option) in [(self.families.has_ipv4(), "-4"), (self.families.has_ipv6(), "-6")] {
            if has {
                let wanted = [(self.mode == Mode::Tproxy, LED_MARK), (self.keeps_source, KEPT_MARK)];
                for (_, mark) in wanted.into_iter().filter(|(is_wanted, _)| *is_wanted) {
                    let words = format!("ip {option} rule add fwmark {mark:#x} lookup {LED_MARK}");
                    steps.push(Step::new(&words, String::new()));
                }
                steps.push(Step::new(
                    &format!("ip {option} route replace local default dev lo table {LED_MARK}"),
                    String::new(),
                ));
            }
        }
        steps
    }
}

/// What takes away what [`Rules::routes`] makes.
pub(super) fn routes_removed() -> Vec<Step> {
    let of = |option| {
        let rule =
            |mark: u32| Step::undo(&format!("ip {option} rule del fwmark {mark:#x} lookup {LED_MARK}"));
        [rule(LED_MARK), rule(KEPT_MARK), Step::undo(&format!("ip {option} route flush table {LED_MARK}"))]
    };
    ["-4", "-6"].into_iter().flat_map(of).collect()
}

/// Reads `6379=16379`.
pub(super) fn lead(text: &str) -> Result<Lead, String> {
    let number = |text: &str| text.parse::<u16>().ok().filter(|port| *port > 0);
    let read = || {
        let (from, to) = text.split_once('=')?;
        Some(Lead { from: number(from)?, to: number(to)? })
    };
    let lead = read().ok_or("the port that is dialled and one of mecha's, as in 6379=16379")?;
    if lead.from == lead.to { Err("a port leads to itself already".into()) } else { Ok(lead) }
}

/// Reads an address, or `10.0.0.0/8`.
pub(super) fn network(text: &str) -> Result<Network, String> {
    let read = || {
        let (address, bits) =
            text.split_once('/').map_or((text, None), |(address, bits)| (address, Some(bits)));
        let address: IpAddr = address.parse().ok()?;
        let most = if address.is_ipv4() { 32 } else { 128 };
        let bits = bits.map_or(Some(most), |bits| bits.parse().ok())?;
        (bits <= most).then_some(Network { address, bits })
    };
    read().ok_or_else(|| "an address, or some, as in 10.0.0.0/8".into())
}

/// Reads the name of an interface. It becomes part of what a program reads.
pub(super) fn interface(text: &str) -> Result<String, String> {
    let is_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | '@' | ':');
    if !text.is_empty() && text.len() < 16 && !text.starts_with('-') && text.chars().all(is_name) {
        Ok(text.into())
    } else {
        Err("an interface's name, as in eth0".into())
    }
}
