use std::collections::BTreeMap;

use super::*;
use mecha_transport::Address;

/// Servers of which some are down, and one is busy.
#[derive(Default)]
struct World {
    down: Vec<usize>,
    busy: Option<usize>,
}

impl Look for World {
    fn is_down(&self, at: usize) -> bool {
        self.down.contains(&at)
    }

    fn load(&self, at: usize) -> usize {
        if self.busy == Some(at) { 9 } else { 0 }
    }
}

fn listed(port: u16, priority: u32, zone: &str, weight: u32) -> Listed {
    let address = Address::Tcp(([127, 0, 0, 1], port).into());
    Listed { weight, priority, zone: Some(zone.into()), ..Listed::at(address) }
}

fn choice(balance: Balance) -> Choice {
    let sharding = Sharding { balance, ..Sharding::default() };
    Choice { sharding, zone: None, spill_below: 0.7, slow_start: None }
}

/// How often each comes first of a thousand times.
fn spread(roster: &Roster, world: &World, now_micros: u64) -> BTreeMap<usize, usize> {
    let mut counts = BTreeMap::new();
    for number in 0..1000u32 {
        let at = roster.first(&number.to_be_bytes(), world, now_micros).unwrap();
        *counts.entry(at).or_default() += 1;
    }
    counts
}

#[test]
fn the_next_level_gets_what_the_first_cannot_take() {
    let list: Vec<_> = (0..8).map(|port| listed(port + 1, u32::from(port / 4), "a", 1)).collect();
    for balance in [Balance::RoundRobin, Balance::Random, Balance::LeastRequest, Balance::Maglev] {
        let roster = Roster::new(choice(balance), &list);
        let second = |down: &[usize]| {
            let world = World { down: down.to_vec(), busy: None };
            let counts = spread(&roster, &world, 0);
            counts.range(4..).map(|(_, count)| count).sum::<usize>()
        };
        assert_eq!((second(&[]), second(&[0])), (0, 0), "{balance:?}");
        // Two of four are 0.5, of 0.7 that are needed: two sevenths go on.
        let spilt = second(&[0, 1]);
        assert!((180..400).contains(&spilt), "{balance:?}: {spilt}");
        assert_eq!(second(&[0, 1, 2, 3]), 1000, "{balance:?}");
        assert_eq!(second(&[4, 5, 6, 7]), 0, "{balance:?}");
    }
    let roster = Roster::new(choice(Balance::RoundRobin), &list);
    // Where nobody is well somebody is tried all the same.
    assert!(roster.first(b"", &World { down: (0..8).collect(), busy: None }, 0).is_some());
    assert_eq!(Roster::new(choice(Balance::RoundRobin), &[]).first(b"", &World::default(), 0), None);
}

#[test]
fn who_takes_over_is_near_first_and_down_last() {
    let list: Vec<_> = (0..4).map(|port| listed(port + 1, u32::from(port / 2), "a", 1)).collect();
    let roster = Roster::new(choice(Balance::RoundRobin), &list);
    assert_eq!(roster.others(0, &World::default()), [1, 2, 3]);
    assert_eq!(roster.others(2, &World::default()), [3, 0, 1]);
    assert_eq!(roster.others(0, &World { down: vec![1], busy: None }), [2, 3, 1]);
}

#[test]
fn the_own_zone_is_used_alone_while_enough_of_it_is_well() {
    let list: Vec<_> = (0..6).map(|port| listed(port + 1, 0, if port < 3 { "a" } else { "b" }, 1)).collect();
    let near = Choice { zone: Some("b".into()), ..choice(Balance::RoundRobin) };
    let roster = Roster::new(near, &list);
    let counts = spread(&roster, &World::default(), 0);
    assert_eq!(counts.keys().copied().collect::<Vec<_>>(), [3, 4, 5]);
    assert!(counts.values().all(|count| (330..=340).contains(count)), "{counts:?}");
    let counts = spread(&roster, &World { down: vec![3, 4], busy: None }, 0);
    let home = counts[&5];
    assert!((400..560).contains(&home), "{counts:?}");
    let counts = spread(&roster, &World { down: vec![3, 4, 5], busy: None }, 0);
    assert_eq!(counts.keys().copied().collect::<Vec<_>>(), [0, 1, 2]);
}

#[test]
fn weights_count_for_every_policy_and_a_server_that_is_down_leaves_an_even_rest() {
    let list = [listed(1, 0, "a", 1), listed(2, 0, "a", 3), listed(3, 0, "a", 6)];
    for balance in [Balance::RoundRobin, Balance::Random] {
        let counts = spread(&Roster::new(choice(balance), &list), &World::default(), 0);
        assert!(
            (60..150).contains(&counts[&0]) && (540..660).contains(&counts[&2]),
            "{balance:?} {counts:?}"
        );
    }
    let roster = Roster::new(choice(Balance::LeastRequest), &list);
    // Nine of six are as much as one and a half of one.
    assert_eq!(roster.first(b"", &World { down: vec![], busy: Some(2) }, 0), Some(1));
    let list: Vec<_> = (0..4).map(|port| listed(port + 1, 0, "a", 1)).collect();
    for balance in [Balance::RoundRobin, Balance::Random, Balance::LeastRequest] {
        let world = World { down: vec![1], busy: None };
        let counts = spread(&Roster::new(choice(balance), &list), &world, 0);
        assert!(counts.values().all(|count| (240..600).contains(count)), "{balance:?} {counts:?}");
        assert_eq!(counts.len(), 3);
    }
}

#[test]
fn a_new_server_gets_more_and_more() {
    let list: Vec<_> = (0..2).map(|port| listed(port + 1, 0, "a", 1)).collect();
    for balance in [Balance::RoundRobin, Balance::Random] {
        let slow = Choice { slow_start: Some(Duration::from_secs(10)), ..choice(balance) };
        let roster = Roster::new(slow, &list);
        roster.warm(1, 1_000_000);
        let part = |now_micros| spread(&roster, &World::default(), now_micros).get(&1).copied().unwrap_or(0);
        let (first, middle, last) = (part(1_000_000), part(6_000_000), part(11_000_000));
        // 0.1 of 1.1, 0.5 of 1.5, all of two.
        assert!((60..130).contains(&first), "{balance:?}: {first}");
        assert!((280..390).contains(&middle), "{balance:?}: {middle}");
        assert!((430..570).contains(&last), "{balance:?}: {last}");
    }
}
