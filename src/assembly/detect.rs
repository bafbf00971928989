//! Doors that lead their clients to others, by what those speak.

use std::collections::HashMap;

use mecha_config::ListenerSpec;
use mecha_core::Begins;
use mecha_telemetry::Registry;

use super::PlannedDoor;
use crate::acceptor::{DetectDoor, Lead, Speaks};
use crate::catalog;

/// What is counted of clients that are led by the port that they have dialled, that speak nothing that is known here, and
/// that say nothing in time.
const OTHERS: [&str; 3] = ["port", "unknown", "silent"];

/// How the clients of `listener` are led to `doors`; `None` where they are its own.
pub(super) fn door(
    listener: &ListenerSpec,
    doors: &[PlannedDoor],
    registry: &Registry,
) -> Option<DetectDoor> {
    let detect = listener.detect.as_ref()?;
    let lead = |name: &str| {
        let door = doors.iter().find(|door| door.listener().name == name)?;
        Some(Lead { door: door.id, prelude: door.prelude(), protocol: door.listener().protocol.clone() })
    };
    let help = "Clients by what their first bytes say, of listeners that lead them to others.";
    let spoken = catalog::PROTOCOLS.iter().map(|entry| entry.name()).filter(|name| *name != catalog::TCP);
    let counted = |what: &str| {
        let scope = format!("listener:{} says:{what}", listener.name);
        Some((what.to_string(), registry.counter("mecha_detected_total", help, &scope)?))
    };
    let counters: HashMap<_, _> = spoken.chain(OTHERS).chain(["tls"]).filter_map(counted).collect();
    Some(DetectDoor {
        wait: detect.wait,
        ports: detect.ports.iter().filter_map(|(port, name)| Some((*port, lead(name)?))).collect(),
        names: detect.names.iter().filter_map(|(host, name)| Some((host.clone(), lead(name)?))).collect(),
        leads: detect.to.iter().filter_map(|name| lead(name)).collect(),
        speaks: |bytes| {
            let mut may = false;
            for entry in catalog::PROTOCOLS {
                match entry.begins(bytes) {
                    Begins::Yes => return Speaks::Protocol(entry.name()),
                    Begins::Maybe => may = true,
                    Begins::No => {}
                }
            }
            if may { Speaks::Unclear } else { Speaks::Nothing }
        },
        counters,
    })
}
