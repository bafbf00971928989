//! Adds headers to records that are produced.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use mecha_config::{ConfigError, FilterOption, Options, Takes, Without};
use mecha_core::Peer;
use mecha_kafka::batch::{BatchError, Batches, Header, Writer};
use mecha_kafka::errors::Code;
use mecha_kafka::guard;
use mecha_kafka::messages::ProduceRequest;
use mecha_kafka::table::ApiKey;
use serde::Deserialize;

use super::{Body, KafkaFactory, KafkaFilter, KafkaKind, Refused, Wants, who};
use crate::Help;

pub(super) static KIND: KafkaKind = KafkaKind {
    name: "headers",
    help: Help {
        summary: "Adds headers to records that are produced.",
        options: &[
            FilterOption {
                name: "set",
                takes: Takes::Texts,
                without: Without::Means("none"),
                about: "name=value, in which $(user) is the client's user, or the name in its certificate",
            },
            FilterOption {
                name: "traceparent",
                takes: Takes::Flag,
                without: Without::Default("false"),
                about: "begins a trace (W3C Trace Context) for records that have none",
            },
        ],
        docs: "Headers of the same name that a record has stay before it. Batches are written anew in their own compression.",
        example: "- headers: { set: [\"source=shop\", \"producer=$(user)\"], traceparent: true }",
    },
    build: |options, _| build(options).map(|headers| Box::new(headers) as Box<dyn KafkaFactory>),
};

/// Bytes of a batch's records when inflated.
const MAX_INFLATED: usize = 64 << 20;

const USER: &str = "$(user)";
const TRACEPARENT: &[u8] = b"traceparent";

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawHeaders {
    #[serde(default)]
    set: Vec<String>,
    #[serde(default)]
    traceparent: bool,
}

#[derive(Clone)]
struct Headers {
    set: Arc<[(String, String)]>,
    has_trace: bool,
}

fn build(options: &Options) -> Result<Headers, Vec<ConfigError>> {
    let raw: RawHeaders = options.check(|raw: &RawHeaders, errors| {
        if raw.set.is_empty() && !raw.traceparent {
            errors.push(options.error("", "adds nothing").hint("as in `{ set: [\"source=shop\"] }`"));
        }
        for text in raw.set.iter().filter(|text| text.split_once('=').is_none_or(|(name, _)| name.is_empty()))
        {
            errors.push(options.error("set", format!("`{text}` is no header")).hint("as in `source=shop`"));
        }
    })?;
    let pair =
        |text: &String| text.split_once('=').map(|(name, value)| (name.to_string(), value.to_string()));
    Ok(Headers { set: raw.set.iter().filter_map(pair).collect(), has_trace: raw.traceparent })
}

impl KafkaFactory for Headers {
    fn open(&self, peer: &Peer) -> Box<dyn KafkaFilter> {
        let user = who(peer).unwrap_or_default();
        let set = self.set.iter().map(|(name, value)| (name.clone(), value.replace(USER, user))).collect();
        Box::new(Adding { set, has_trace: self.has_trace, room: Vec::new(), writer: Writer::new() })
    }
}

struct Adding {
    set: Vec<(String, String)>,
    has_trace: bool,
    /// For records that are inflated.
    room: Vec<u8>,
    writer: Writer,
}

impl Adding {
    /// The same batches, whose records have more headers.
    fn added(&mut self, records: &[u8]) -> Result<Bytes, BatchError> {
        let mut out = Vec::with_capacity(records.len() + 64);
        for batch in Batches::new(records) {
            let batch = batch?;
            for record in batch.records(MAX_INFLATED, &mut self.room)? {
                let record = record?;
                let mut more: Vec<Header<'_>> = self
                    .set
                    .iter()
                    .map(|(name, value)| Header { key: name.as_bytes(), value: Some(value.as_bytes()) })
                    .collect();
                let (trace, parent) = (fastrand::u128(1..), fastrand::u64(1..));
                let trace = format!("00-{trace:032x}-{parent:016x}-01");
                if self.has_trace && !record.headers.clone().any(|header| header.key == TRACEPARENT) {
                    more.push(Header { key: TRACEPARENT, value: Some(trace.as_bytes()) });
                }
                self.writer.push(&batch.head, &record, &more);
            }
            self.writer.finish(&batch.head, &mut out)?;
        }
        Ok(out.into())
    }
}

impl KafkaFilter for Adding {
    fn wants(&self, key: ApiKey, _version: i16) -> Wants {
        if key == ApiKey::PRODUCE { Wants::Request } else { Wants::Nothing }
    }

    fn on_request(&mut self, request: &mut Body<'_>) -> Result<(), Refused> {
        if request.key != ApiKey::PRODUCE {
            return Ok(());
        }
        let read = guard::request::<ProduceRequest>(request.version, Bytes::copy_from_slice(request.bytes));
        let (client, mut produce) = read.map_err(|_| Refused::Malformed)?;
        for partition in produce.topic_data.iter_mut().flat_map(|topic| &mut topic.partition_data) {
            let Some(records) = partition.records.take() else { continue };
            let added = self.added(&records);
            // A broker would say so too.
            let corrupt = |_| Refused::With(Code::CORRUPT_MESSAGE, "a batch is not sound");
            partition.records = Some(added.map_err(corrupt)?);
        }
        let mut anew = BytesMut::new();
        guard::encode_request(client.as_deref(), &produce, request.version, &mut anew)
            .map_err(|_| Refused::Malformed)?;
        request.bytes.clear();
        request.bytes.extend_from_slice(&anew);
        Ok(())
    }
}
