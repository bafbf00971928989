//! What people and monitors who look after a server ask it. There is one node without replicas, and nothing is logged,
//! monitored or kept on disk; so most answers are short.

use mecha_core::OpId;
use mecha_resp::op;
use mecha_resp::reply::Writer;

use super::super::aggregate::{Error, write_error};
use super::super::hash::content::{integer, is, long};
use super::super::spelled;

const NO_CLUSTER: &str = "ERR This instance has cluster support disabled";

/// Whether it was one of these commands. `words` are its arguments, the name first.
pub(super) fn answer(op: OpId, words: &[Vec<u8>], proto: u8, out: &mut Vec<u8>) -> bool {
    let mut writer = Writer::new(out, proto);
    match op {
        op::ACL_USERS => {
            writer.array(1);
            writer.bulk(b"default");
        }
        op::ACL_WHOAMI => writer.bulk(b"default"),
        op::CLIENT_GETREDIR => writer.int(-1),
        op::CLIENT_TRACKINGINFO => {
            writer.map(3);
            writer.bulk(b"flags");
            writer.set(1);
            writer.bulk(b"off");
            writer.bulk(b"redirect");
            writer.int(-1);
            writer.bulk(b"prefixes");
            writer.array(0);
        }
        op::CONFIG_RESETSTAT | op::SLOWLOG_RESET => writer.ok(),
        // Nobody can have loaded any.
        op::FUNCTION_FLUSH | op::SCRIPT_FLUSH => match words.get(2..).unwrap_or_default() {
            [] => writer.ok(),
            [mode] if is(mode, "sync") || is(mode, "async") => writer.ok(),
            _ if op == op::FUNCTION_FLUSH => {
                writer.error("ERR FUNCTION FLUSH only supports SYNC|ASYNC option");
            }
            _ => writer.error("ERR SCRIPT FLUSH only support SYNC|ASYNC option"),
        },
        op::FUNCTION_LIST => writer.array(0),
        op::SCRIPT_EXISTS => {
            writer.array(words.len().saturating_sub(2));
            words.iter().skip(2).for_each(|_| writer.int(0));
        }
        op::LATENCY_HISTORY | op::LATENCY_LATEST | op::MODULE_LIST => writer.array(0),
        op::LATENCY_RESET | op::SLOWLOG_LEN => writer.int(0),
        op::READONLY | op::READWRITE => writer.error(NO_CLUSTER),
        op::ROLE => {
            writer.array(3);
            writer.bulk(b"master");
            writer.int(0);
            writer.array(0);
        }
        op::SLOWLOG_GET => match words.get(2).map(|count| long(count)) {
            None | Some(Ok(-1..)) => writer.array(0),
            Some(_) => writer.error("ERR count should be greater than or equal to -1"),
        },
        op::WAIT => match wait(words) {
            // There is no replica that could ever acknowledge anything.
            Ok(()) => writer.int(0),
            Err(error) => drop(write_error(&error, "wait", &mut writer)),
        },
        _ if spelled(op).starts_with("CLUSTER ") => writer.error(NO_CLUSTER),
        _ => return false,
    }
    true
}

fn wait(words: &[Vec<u8>]) -> Result<(), Error> {
    let [_, replicas, timeout] = words else { return Err(Error::Arity) };
    long(replicas)?;
    match integer(timeout) {
        None => Err(Error::Text("ERR timeout is not an integer or out of range")),
        Some(..0) => Err(Error::Text("ERR timeout is negative")),
        Some(_) => Ok(()),
    }
}
