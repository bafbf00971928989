//! Requests to produce that pass: what is before their records is awaited, and what follows passes as it comes.
//!
//! There it stands whether the request will have an answer; and who wants to know no more than who has sent it, and how much of it
//! there is, has seen enough. So records are neither gathered nor copied.

use mecha_filters::kafka::{Body, Wants};
use mecha_kafka::frame::{Head, RequestHead};
use mecha_kafka::pending::beginning;
use mecha_telemetry::CloseReason;

use super::{Asked, KEPT, Outcome, Stage, What};
use crate::session::kafka::conversation::Passing;

/// Bytes within which a beginning has to be there: two names, as long as names can be.
const MAX_BEGINNING: usize = 72 << 10;

/// The beginning of a request, as far as it is there.
pub(super) struct Beginning {
    head: RequestHead,
    since_micros: u64,
    /// Where the head is in what has come last, if it has come with that.
    at: Option<usize>,
    /// What came before that.
    bytes: Vec<u8>,
}

impl Beginning {
    pub(super) fn new(head: RequestHead, since_micros: u64, at: usize) -> Self {
        Self { head, since_micros, at: Some(at), bytes: Vec::new() }
    }

    /// What has come is over, and more will come.
    pub(super) fn is_apart(&mut self) {
        self.at = None;
    }
}

impl Stage {
    /// A piece of a request to produce comes, that is at a place of what has come. If its beginning is there now, it passes.
    pub(super) fn begin(
        &mut self,
        mut begun: Beginning,
        (at, piece): (usize, &[u8]),
        is_last: bool,
        passing: &mut Passing<'_>,
    ) -> Result<(), CloseReason> {
        let (version, size) = (begun.head.version, begun.head.body);
        let is_first = begun.bytes.is_empty();
        let found = if is_first {
            beginning(version, size, piece)
        } else {
            begun.bytes.extend_from_slice(piece);
            beginning(version, size, &begun.bytes)
        };
        let Some((len, acks)) = found.map_err(|_| CloseReason::Protocol)? else {
            if is_first {
                begun.bytes.extend_from_slice(piece);
            }
            if is_last || begun.bytes.len() > MAX_BEGINNING {
                return Err(CloseReason::Protocol);
            }
            self.beginning = Some(begun);
            return Ok(());
        };
        let came = if is_first { piece } else { &begun.bytes };
        let came = came.get(..len).unwrap_or_default();
        let what = self.show_beginning(&begun.head, came)?;
        match begun.at {
            // All of it is in what was given, one behind the other.
            Some(head) if is_first && self.body == came => {
                passing.pass(head, RequestHead::SIZE + piece.len())
            }
            _ => {
                let body = (size as usize - len + self.body.len()) as u32;
                let out = passing.write();
                RequestHead { body, ..begun.head }.write(out);
                out.extend_from_slice(&self.body);
                // What follows is the end of this piece.
                let follows = if is_first { piece.len() } else { begun.bytes.len() } - len;
                passing.pass(at + piece.len() - follows, follows);
            }
        }
        self.produces(begun, acks != 0, what);
        Ok(())
    }

    /// Shows filters the beginning, which then is in `body`.
    fn show_beginning(&mut self, head: &RequestHead, came: &[u8]) -> Result<What, CloseReason> {
        let RequestHead { key, version, body: size, .. } = *head;
        self.body.clear();
        self.body.shrink_to(KEPT);
        self.room.shrink_to(KEPT);
        self.body.extend_from_slice(came);
        if self.wants(key, version) == Wants::Nothing {
            return Ok(What::Passes);
        }
        let (now_micros, mut wait) = (self.clock.micros(), 0);
        for filter in &mut self.filters {
            let (bytes, room) = (&mut self.body, &mut self.room);
            let mut request = Body { key, version, bytes, size, room, note: 0, now_micros, wait_micros: 0 };
            if filter.wants(key, version) != Wants::Nothing && filter.on_request(&mut request).is_err() {
                tracing::warn!("a client sends names that it cannot have");
                return Err(CloseReason::Protocol);
            }
            self.notes.push_back(request.note);
            wait = wait.max(request.wait_micros);
        }
        self.pause.extend(wait, now_micros);
        Ok(What::Seen)
    }

    /// It is known whether there will be an answer.
    fn produces(&mut self, begun: Beginning, is_answered: bool, what: What) {
        let Beginning { head: RequestHead { key, version, correlation, .. }, since_micros, .. } = begun;
        if is_answered {
            self.asked.push_back(Asked { key, version, correlation, what, since_micros });
            return;
        }
        if matches!(what, What::Seen) {
            let before = self.notes.len().saturating_sub(self.filters.len());
            self.unanswered((key, version), before);
        }
        self.ended(key, since_micros, Outcome::Ok);
    }
}

#[cfg(test)]
mod tests {
    use mecha_filters::kafka::{KafkaFilter, Refused};
    use mecha_kafka::errors::NAMES;
    use mecha_kafka::table::ApiKey;
    use mecha_transport::Clock;

    use super::*;
    use crate::session::kafka::OPS;
    use crate::session::opaque::Goes;

    /// Wants to see beginnings, and puts something before the client's name if it is told to.
    struct Named(bool);

    impl KafkaFilter for Named {
        fn wants(&self, key: ApiKey, _: i16) -> Wants {
            if key == ApiKey::PRODUCE { Wants::Beginning } else { Wants::Nothing }
        }

        fn on_request(&mut self, request: &mut Body<'_>) -> Result<(), Refused> {
            assert_eq!(
                (request.size as usize, request.bytes.len()),
                (BODY.len(), BODY.len() - RECORDS.len())
            );
            if self.0 {
                request.bytes.splice(..5, *b"\x00\x05my-cl");
            }
            Ok(())
        }
    }

    fn staged(is_changed: bool) -> Stage {
        let apis = mecha_telemetry::Registry::new().apis("test", &OPS, &NAMES);
        Stage::new(vec![Box::new(Named(is_changed))], None, (1 << 20, Clock::start()), apis)
    }

    const RECORDS: &[u8] = b"whatever follows";
    /// A client, no tags, a transactional id, the acknowledgements of all, and the rest.
    const BODY: &[u8] = b"\x00\x03cli\x00\x03tx\xff\xffwhatever follows";

    fn frames(body: &[u8]) -> Vec<u8> {
        let mut frames = Vec::new();
        for correlation in 0..3 {
            let (key, body_len) = (ApiKey::PRODUCE, body.len() as u32);
            RequestHead { key, version: 13, correlation, body: body_len }.write(&mut frames);
            frames.extend_from_slice(body);
            // Something that nobody wants to see.
            RequestHead { key: ApiKey::METADATA, version: 1, correlation, body: 6 }.write(&mut frames);
            frames.extend_from_slice(&[0xff, 0xff, 0, 0, 0, 0]);
        }
        frames
    }

    #[test]
    fn beginnings_are_seen_and_what_follows_passes_in_any_pieces() {
        for is_changed in [false, true] {
            let sent = frames(BODY);
            let changed = [b"\x00\x05my-cl", BODY.get(5..).unwrap()].concat();
            let expected = frames(if is_changed { &changed } else { BODY });
            for size in 1..sent.len() {
                let mut stage = staged(is_changed);
                let mut came = Vec::new();
                for piece in sent.chunks(size) {
                    let mut out = Vec::new();
                    match stage.up(piece, &mut out).unwrap() {
                        Goes::AsIs(len) => came.extend_from_slice(&piece[..len]),
                        Goes::Written => came.extend(out),
                    }
                }
                assert!(came == expected, "pieces of {size}, {is_changed}: {came:?}");
                assert_eq!((stage.asked.len(), stage.notes.len()), (6, 3));
            }
            // What comes at once and stays as it is is not copied.
            let mut stage = staged(false);
            assert_eq!(stage.up(&sent, &mut Vec::new()), Ok(Goes::AsIs(sent.len())));
        }
    }

    #[test]
    fn what_wants_no_answer_is_not_waited_for() {
        let body = [&BODY[..9], &[0, 0], RECORDS].concat();
        let mut stage = staged(false);
        stage.up(&frames(&body), &mut Vec::new()).unwrap();
        assert_eq!((stage.asked.len(), stage.notes.len()), (3, 0));
        // A beginning that does not end is none.
        let mut stage = staged(false);
        let endless = frames(&[&[0x7f, 0xff][..], &[b'x'; 100_000]].concat());
        assert!(stage.up(&endless, &mut Vec::new()).is_err());
        let cut = frames(b"\x00\x03cli\x00\x03tx");
        let mut stage = staged(false);
        assert_eq!(stage.up(&cut, &mut Vec::new()), Err(CloseReason::Protocol));
    }
}
