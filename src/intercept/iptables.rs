//! The rules in the words of iptables: chains of our own in the system's tables, replaced as a whole in each family.

use std::fmt::Write as _;

use super::{KEPT_MARK, LED_MARK, Mode, OWN_MARK, Rules, Step};

/// What the names of our chains begin with.
pub(super) const PREFIX: &str = "MECHA_";

const PROGRAMS: [&str; 2] = ["iptables", "ip6tables"];
const TABLES: [&str; 2] = ["nat", "mangle"];
const CHAINS: [(&str, &str); 2] = [("OUTPUT", "MECHA_OUTBOUND"), ("PREROUTING", "MECHA_INBOUND")];

/// What makes the rules. Those that are there are taken away first: no packet is led to the wrong place in between, only
/// left alone for a moment.
pub(super) fn made(rules: &Rules) -> Vec<Step> {
    let mut steps = removed();
    for (has, program) in [(rules.families.has_ipv4(), "iptables"), (rules.families.has_ipv6(), "ip6tables")]
    {
        if has {
            let words = format!("{program}-restore --noflush");
            let mut text = table(rules, program == "iptables");
            if rules.keeps_source && rules.mode == Mode::Redirect {
                text += &kept_table();
            }
            steps.push(Step::new(&words, text));
        }
    }
    steps
}

/// What takes them away.
pub(super) fn removed() -> Vec<Step> {
    let mut steps = Vec::new();
    for program in PROGRAMS {
        for table in TABLES {
            for (hook, chain) in CHAINS {
                for what in
                    [format!("-D {hook} -p tcp -j {chain}"), format!("-F {chain}"), format!("-X {chain}")]
                {
                    steps.push(Step::undo(&format!("{program} -t {table} {what}")));
                }
            }
        }
    }
    steps
}

/// What prints them.
pub(super) fn told() -> Vec<Step> {
    let of = |program: &str| TABLES.map(|table| Step::undo(&format!("{program}-save -c -t {table}")));
    PROGRAMS.iter().flat_map(|program| of(program)).collect()
}

fn table(rules: &Rules, is_ipv4: bool) -> String {
    let is_led = rules.mode == Mode::Tproxy;
    let mut text = format!("*{}\n", if is_led { "mangle" } else { "nat" });
    // What is led here as it is must be looked at when it comes in, wherever it was made.
    let keeps = is_led && rules.keeps_source;
    let wanted = [rules.direction.is_outbound() || keeps, rules.direction.is_inbound() || is_led];
    for ((hook, chain), _) in CHAINS.iter().zip(wanted).filter(|(_, is_wanted)| *is_wanted) {
        let _ = writeln!(text, ":{chain} - [0:0]");
        let is_inbound = *hook == "PREROUTING";
        let mut rule = |what: String| {
            let _ = writeln!(text, "-A {chain} {what}");
        };
        if is_led && rules.keeps_source {
            kept(is_inbound, &mut rule);
        }
        if is_inbound && is_led && rules.direction.is_outbound() {
            to_listeners(rules, &format!("-m mark --mark {LED_MARK:#x} "), &mut rule);
        }
        let is_direction =
            if is_inbound { rules.direction.is_inbound() } else { rules.direction.is_outbound() };
        if is_direction {
            left_alone(rules, is_inbound, is_ipv4, &mut rule);
            if is_led && !is_inbound {
                let mark = |port: u16| format!("-p tcp --dport {port} -j MARK --set-mark {LED_MARK:#x}");
                rules.leads.iter().for_each(|lead| rule(mark(lead.from)));
                if rules.rest.is_some() {
                    rule(format!("-p tcp -j MARK --set-mark {LED_MARK:#x}"));
                }
            } else {
                to_listeners(rules, "", &mut rule);
            }
        }
        let _ = writeln!(text, "-A {hook} -p tcp -j {chain}");
    }
    text.push_str("COMMIT\n");
    text
}

/// Where addresses are changed, packets are marked in a table besides.
fn kept_table() -> String {
    let mut text = String::from("*mangle\n");
    for (hook, chain) in CHAINS {
        let _ = writeln!(text, ":{chain} - [0:0]");
        kept(hook == "PREROUTING", &mut |what| {
            let _ = writeln!(text, "-A {chain} {what}");
        });
        let _ = writeln!(text, "-A {hook} -p tcp -j {chain}");
    }
    text.push_str("COMMIT\n");
    text
}

/// What servers answer to an address that mecha has spoken from is for mecha, whether it comes from elsewhere or is made here.
fn kept(is_inbound: bool, rule: &mut dyn FnMut(String)) {
    rule(format!(
        "-m conntrack --ctdir REPLY -m connmark --mark {KEPT_MARK:#x} -j MARK --set-mark {KEPT_MARK:#x}"
    ));
    if !is_inbound {
        let foreign = format!("-m mark --mark {OWN_MARK:#x} -m addrtype ! --src-type LOCAL");
        rule(format!("{foreign} -j CONNMARK --set-mark {KEPT_MARK:#x}"));
    }
}

fn to_listeners(rules: &Rules, only: &str, rule: &mut dyn FnMut(String)) {
    let target = |port: u16| match rules.mode {
        Mode::Redirect => format!("-j REDIRECT --to-ports {port}"),
        Mode::Tproxy => format!("-j TPROXY --on-port {port} --tproxy-mark {LED_MARK:#x}"),
    };
    for lead in &rules.leads {
        rule(format!("-p tcp {only}--dport {} {}", lead.from, target(lead.to)));
    }
    if let Some(rest) = rules.rest {
        rule(format!("-p tcp {only}{}", target(rest)));
    }
}

fn left_alone(rules: &Rules, is_inbound: bool, is_ipv4: bool, rule: &mut dyn FnMut(String)) {
    let mut leave = |what: String| rule(format!("{what} -j RETURN"));
    leave(format!("-m mark --mark {OWN_MARK:#x}"));
    if rules.mode == Mode::Tproxy {
        // What the other end says. An address that is changed is changed for the first packet alone.
        leave("-m conntrack --ctdir REPLY".into());
        if is_inbound {
            leave("-i lo -m addrtype --dst-type LOCAL".into());
        }
    }
    if !is_inbound {
        for (what, numbers) in [("uid", &rules.uids), ("gid", &rules.gids)] {
            numbers.iter().for_each(|number| leave(format!("-m owner --{what}-owner {number}")));
        }
    }
    let interface = if is_inbound { "-i" } else { "-o" };
    rules.interfaces.iter().for_each(|name| leave(format!("{interface} {name}")));
    let own = rules.networks.iter().filter(|network| network.address.is_ipv4() == is_ipv4);
    own.for_each(|network| leave(format!("-d {network}")));
    rules.ports.iter().for_each(|port| leave(format!("-p tcp --dport {port}")));
}
