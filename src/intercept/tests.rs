//! What the rules say; that they do it, tests/it/intercept.rs tries.

use super::rules::{interface, lead, network};
use super::*;

fn rules(mode: Mode, direction: Direction) -> Rules {
    Rules {
        leads: vec![lead("6379=16379").unwrap()],
        rest: Some(15001),
        direction,
        mode,
        families: Families::Both,
        uids: if direction == Direction::Inbound { Vec::new() } else { vec![7] },
        gids: Vec::new(),
        ports: vec![22],
        networks: vec![network("10.0.0.0/8").unwrap(), network("fd00::/8").unwrap()],
        interfaces: vec!["eth1".into()],
        keeps_source: false,
    }
    .checked()
    .unwrap()
}

fn text(steps: &[Step]) -> String {
    steps.iter().map(Step::shown).collect()
}

#[test]
fn what_is_excluded_stands_before_what_is_led() {
    for direction in [Direction::Outbound, Direction::Inbound, Direction::Both] {
        for mode in [Mode::Redirect, Mode::Tproxy] {
            for text in
                [text(&nft::made(&rules(mode, direction))), text(&iptables::made(&rules(mode, direction)))]
            {
                let last_exclusion = text.rfind("dport 16379").expect("mecha's own port is led somewhere");
                let first_lead = text.find("dport 6379 ").expect("nothing is led");
                if direction != Direction::Both
                    && mode == Mode::Redirect
                    && !text.contains("*nat\n:MECHA_OUTBOUND - [0:0]\n:")
                {
                    // Of iptables there is one table for each family.
                    let table = text.find("ip6tables-restore").unwrap_or(text.len());
                    let first_table = text.get(..table).unwrap();
                    let exclusion = first_table.rfind("dport 16379").unwrap();
                    assert!(exclusion < first_table.find("dport 6379 ").unwrap(), "{text}");
                }
                assert!(last_exclusion > 0 && first_lead > 0);
                assert!(text.contains("10.0.0.0/8") && text.contains("fd00::/8"), "{text}");
                assert!(text.contains("dport 22"), "{text}");
            }
        }
    }
}

#[test]
fn what_makes_no_sense_is_refused_with_a_hint() {
    for bad in ["6379", "6379=", "=1", "0=1", "1=1", "70000=1", "a=b"] {
        assert!(lead(bad).is_err(), "{bad}");
    }
    for bad in ["10.0.0.0/33", "10.0.0", "fd00::/129", "x", "10.0.0.0/8; drop"] {
        assert!(network(bad).is_err(), "{bad}");
    }
    for bad in ["", "-x", "eth0; drop", "a\"b", "much-too-long-a-name"] {
        assert!(interface(bad).is_err(), "{bad}");
    }
    let nothing = Rules { leads: Vec::new(), rest: None, ..rules(Mode::Redirect, Direction::Outbound) };
    assert!(nothing.checked().unwrap_err().contains("hint"));
    let twice = [lead("1=2").unwrap(), lead("1=3").unwrap()].to_vec();
    let twice = Rules { leads: twice, ..rules(Mode::Redirect, Direction::Outbound) };
    assert!(twice.checked().unwrap_err().contains("port 1 "));
    let inbound = Rules { uids: vec![1], ..rules(Mode::Redirect, Direction::Inbound) };
    assert!(inbound.checked().is_err());
}

#[test]
fn removing_needs_nothing_to_be_there() {
    assert!(removed().iter().all(|step| step.may_fail));
}

#[test]
fn answers_to_addresses_that_are_kept_come_here_with_either_mode_and_alone() {
    for mode in [Mode::Redirect, Mode::Tproxy] {
        let kept = Rules { keeps_source: true, ..rules(mode, Direction::Inbound) };
        let (nft, iptables) = (text(&nft::made(&kept)), text(&iptables::made(&kept)));
        assert!(
            nft.contains("ct mark set 0x6d67") && nft.contains("ct direction reply ct mark 0x6d67"),
            "{nft}"
        );
        for (what, count) in [("-j CONNMARK --set-mark 0x6d67", 2), ("-j MARK --set-mark 0x6d67", 4)] {
            assert_eq!(iptables.matches(what).count(), count, "{what}: {iptables}");
        }
        // It stands before what leaves answers alone.
        let table = iptables.split("*mangle").nth(1).unwrap();
        let alone = table.find("--ctdir REPLY -j RETURN").unwrap_or(table.len());
        assert!(table.find("--ctdir REPLY -m connmark").unwrap() < alone, "{table}");
        let routes = text(&kept.routes());
        assert_eq!(routes.contains("add fwmark 0x6d66"), mode == Mode::Tproxy, "{routes}");
        assert!(routes.contains("add fwmark 0x6d67") && routes.contains("del fwmark 0x6d67"), "{routes}");
    }
    let nothing = Rules {
        leads: Vec::new(),
        rest: None,
        keeps_source: true,
        ..rules(Mode::Redirect, Direction::Inbound)
    };
    assert!(nothing.checked().is_ok());
}
