//! The rules in the words of nftables: one table for both families, replaced as a whole.

use std::fmt::Write as _;

use super::{Families, KEPT_MARK, LED_MARK, Mode, OWN_MARK, Rules, Step};

/// What makes the rules.
pub(super) fn made(rules: &Rules) -> Vec<Step> {
    // An empty table first, so that there is one to delete.
    let mut text = String::from("table inet mecha\ndelete table inet mecha\ntable inet mecha {\n");
    for (is_wanted, is_inbound) in
        [(rules.direction.is_outbound(), false), (rules.direction.is_inbound(), true)]
    {
        if is_wanted {
            chain(rules, is_inbound, &mut text);
        }
    }
    if rules.mode == Mode::Tproxy {
        led(rules, &mut text);
    }
    if rules.keeps_source {
        kept(&mut text);
    }
    text.push_str("}\n");
    vec![Step::new("nft -f -", text)]
}

/// What takes them away.
pub(super) fn removed() -> Vec<Step> {
    vec![Step::undo("nft delete table inet mecha")]
}

/// What prints them.
pub(super) fn told() -> Vec<Step> {
    vec![Step::undo("nft list table inet mecha")]
}

fn chain(rules: &Rules, is_inbound: bool, text: &mut String) {
    let name = if is_inbound { "inbound" } else { "outbound" };
    let hook = match (rules.mode, is_inbound) {
        (Mode::Redirect, false) => "type nat hook output priority -100",
        (Mode::Redirect, true) => "type nat hook prerouting priority -100",
        (Mode::Tproxy, false) => "type route hook output priority mangle",
        (Mode::Tproxy, true) => "type filter hook prerouting priority mangle",
    };
    let _ = writeln!(text, "  chain {name} {{\n    {hook}; policy accept;");
    left_alone(rules, is_inbound, text);
    let verdict = |port: u16| match rules.mode {
        Mode::Redirect => format!("redirect to :{port}"),
        // What is led here as it is gets its mark first, and meets the rules below when it comes in.
        Mode::Tproxy => format!("meta mark set {LED_MARK:#x}"),
    };
    for lead in &rules.leads {
        let _ = writeln!(text, "    tcp dport {} counter {}", lead.from, verdict(lead.to));
    }
    if let Some(rest) = rules.rest {
        let unmarked =
            if rules.mode == Mode::Tproxy { format!("meta mark != {LED_MARK:#x} ") } else { String::new() };
        let _ = writeln!(text, "    meta l4proto tcp {unmarked}counter {}", verdict(rest));
    }
    text.push_str("  }\n");
}

/// What has the mark goes to the listeners as it is.
fn led(rules: &Rules, text: &mut String) {
    text.push_str("  chain led {\n    type filter hook prerouting priority mangle + 1; policy accept;\n");
    let _ = writeln!(text, "    meta mark != {LED_MARK:#x} return");
    let families = [(rules.families.has_ipv4(), "ip", "ipv4"), (rules.families.has_ipv6(), "ip6", "ipv6")];
    for (_, tproxy, family) in families.into_iter().filter(|(has, ..)| *has) {
        for lead in &rules.leads {
            let (from, to) = (lead.from, lead.to);
            let _ =
                writeln!(text, "    meta nfproto {family} tcp dport {from} tproxy {tproxy} to :{to} accept");
        }
        if let Some(rest) = rules.rest {
            let _ = writeln!(
                text,
                "    meta nfproto {family} meta l4proto tcp tproxy {tproxy} to :{rest} accept"
            );
        }
    }
    // Nobody listens: left alone, it would go past mecha.
    text.push_str("    meta l4proto tcp reject with tcp reset\n  }\n");
}

/// What servers answer to an address that mecha has spoken from is for mecha, whether it comes from elsewhere or is made here.
fn kept(text: &mut String) {
    let answers = format!("ct direction reply ct mark {KEPT_MARK:#x} meta mark set {KEPT_MARK:#x}");
    let _ = writeln!(
        text,
        "  chain kept_in {{\n    type filter hook prerouting priority mangle - 1; policy accept;\n    {answers}\n  }}\n  \
           chain kept_out {{\n    type route hook output priority mangle - 1; policy accept;\n    {answers}\n    \
           meta mark {OWN_MARK:#x} fib saddr type != local ct mark set {KEPT_MARK:#x}\n  }}"
    );
}

fn left_alone(rules: &Rules, is_inbound: bool, text: &mut String) {
    let mut leave = |what: String| {
        let _ = writeln!(text, "    {what} return");
    };
    leave(format!("meta mark {OWN_MARK:#x}"));
    match rules.families {
        Families::Both => {}
        Families::Ipv4 => leave("meta nfproto ipv6".into()),
        Families::Ipv6 => leave("meta nfproto ipv4".into()),
    }
    if rules.mode == Mode::Tproxy {
        // What the other end says. An address that is changed is changed for the first packet alone.
        leave("ct direction reply".into());
        if is_inbound {
            leave("fib daddr type local meta iifname \"lo\"".into());
        }
    }
    if !is_inbound {
        for (what, numbers) in [("meta skuid", &rules.uids), ("meta skgid", &rules.gids)] {
            numbers.iter().for_each(|number| leave(format!("{what} {number}")));
        }
    }
    let interface = if is_inbound { "iifname" } else { "oifname" };
    rules.interfaces.iter().for_each(|name| leave(format!("{interface} \"{name}\"")));
    for network in &rules.networks {
        leave(format!("{} daddr {network}", if network.address.is_ipv4() { "ip" } else { "ip6" }));
    }
    rules.ports.iter().for_each(|port| leave(format!("tcp dport {port}")));
}
