//! Says what records must be like.

use std::sync::Arc;

use mecha_config::units::ByteSize;
use mecha_config::{ConfigError, FilterOption, Options, Takes, Without};
use mecha_core::Peer;
use mecha_kafka::batch::{Batches, Record};
use mecha_kafka::errors::Code;
use mecha_kafka::guard;
use mecha_kafka::messages::ProduceRequest;
use mecha_kafka::table::ApiKey;
use serde::Deserialize;
use serde::de::IgnoredAny;

use super::{Body, KafkaFactory, KafkaFilter, KafkaKind, Refused, Wants};
use crate::Help;

pub(super) static KIND: KafkaKind = KafkaKind {
    name: "produce_limit",
    help: Help {
        summary: "Says what records must be like.",
        options: &[
            FilterOption {
                name: "max_record",
                takes: Takes::Size,
                without: Without::Means("no bound"),
                about: "the largest key and value together",
            },
            FilterOption {
                name: "key",
                takes: Takes::Flag,
                without: Without::Default("false"),
                about: "whether each must have a key",
            },
            FilterOption {
                name: "headers",
                takes: Takes::Texts,
                without: Without::Means("none"),
                about: "headers that each must have",
            },
            FilterOption {
                name: "value",
                takes: Takes::Word(&["any", "json", "utf8"]),
                without: Without::Default("any"),
                about: "what values must be; none at all (a tombstone) is always right",
            },
        ],
        docs: "A request with one record that is not so gets INVALID_RECORD or MESSAGE_TOO_LARGE, and none of it is written.",
        example: "- produce_limit: { max_record: 64KiB, key: true, headers: [content-type], value: json }",
    },
    build: |options, _| build(options).map(|limit| Box::new(limit) as Box<dyn KafkaFactory>),
};

/// Bytes of a batch's records when inflated.
const MAX_INFLATED: usize = 64 << 20;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawLimit {
    max_record: Option<ByteSize>,
    #[serde(default)]
    key: bool,
    #[serde(default)]
    headers: Vec<String>,
    #[serde(default)]
    value: Format,
}

#[derive(Clone, Copy, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
enum Format {
    #[default]
    Any,
    Json,
    Utf8,
}

#[derive(Clone)]
struct ProduceLimit(Arc<Rule>);

struct Rule {
    max_record: usize,
    needs_key: bool,
    headers: Vec<String>,
    format: Format,
}

fn build(options: &Options) -> Result<ProduceLimit, Vec<ConfigError>> {
    let raw: RawLimit = options.check(|raw: &RawLimit, errors| {
        if raw.max_record.is_none() && !raw.key && raw.headers.is_empty() && raw.value == Format::Any {
            errors.push(options.error("", "asks for nothing").hint("as in `{ max_record: 64KiB }`"));
        }
    })?;
    Ok(ProduceLimit(Arc::new(Rule {
        max_record: raw.max_record.map_or(usize::MAX, |size| u64::from(size) as usize),
        needs_key: raw.key,
        headers: raw.headers,
        format: raw.value,
    })))
}

impl KafkaFactory for ProduceLimit {
    fn open(&self, _peer: &Peer) -> Box<dyn KafkaFilter> {
        Box::new(Judge { rule: Arc::clone(&self.0), room: Vec::new() })
    }
}

struct Judge {
    rule: Arc<Rule>,
    /// For records that are inflated.
    room: Vec<u8>,
}

impl Rule {
    fn judge(&self, record: &Record<'_>) -> Result<(), Refused> {
        let size = record.key.map_or(0, <[u8]>::len) + record.value.map_or(0, <[u8]>::len);
        if size > self.max_record {
            return Err(Refused::With(Code::MESSAGE_TOO_LARGE, "a record is larger than mecha lets it be"));
        }
        let invalid = |message| Err(Refused::With(Code::INVALID_RECORD, message));
        if self.needs_key && record.key.is_none() {
            return invalid("a record has no key");
        }
        let has = |name: &String| record.headers.clone().any(|header| header.key == name.as_bytes());
        if !self.headers.iter().all(has) {
            return invalid("a record lacks a header that it must have");
        }
        match (self.format, record.value) {
            (Format::Any, _) | (_, None) => Ok(()),
            (Format::Json, Some(value)) if serde_json::from_slice::<IgnoredAny>(value).is_err() => {
                invalid("a value is no JSON")
            }
            (Format::Utf8, Some(value)) if std::str::from_utf8(value).is_err() => {
                invalid("a value is no UTF-8")
            }
            (Format::Json | Format::Utf8, Some(_)) => Ok(()),
        }
    }
}

impl KafkaFilter for Judge {
    fn wants(&self, key: ApiKey, _version: i16) -> Wants {
        if key == ApiKey::PRODUCE { Wants::Request } else { Wants::Nothing }
    }

    fn on_request(&mut self, request: &mut Body<'_>) -> Result<(), Refused> {
        if request.key != ApiKey::PRODUCE {
            return Ok(());
        }
        let bytes = bytes::Bytes::from(std::mem::take(request.bytes));
        let read = guard::request::<ProduceRequest>(request.version, bytes.clone());
        let judged = read.map_err(|_| Refused::Malformed).and_then(|(_, produce)| {
            let partitions = produce.topic_data.iter().flat_map(|topic| &topic.partition_data);
            for records in partitions.filter_map(|partition| partition.records.as_ref()) {
                for batch in Batches::new(records) {
                    // A broker would say so too.
                    let corrupt = |_| Refused::With(Code::CORRUPT_MESSAGE, "a batch is not sound");
                    let batch = batch.map_err(corrupt)?;
                    for record in batch.records(MAX_INFLATED, &mut self.room).map_err(corrupt)? {
                        self.rule.judge(&record.map_err(corrupt)?)?;
                    }
                }
            }
            Ok(())
        });
        // Nobody else has them: they are taken back without a copy.
        *request.bytes = bytes.into();
        judged
    }
}
