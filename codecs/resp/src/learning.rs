//! Requests whose command the table lacks: how a server is asked what it is, and what becomes of them then.

use mecha_core::{Batch, OpId};

use crate::ops::{facts, learned};
use crate::{Request, Resp, Value, args, normalise, write_request};

/// See [`mecha_core::Framed::unknown`].
pub(crate) fn unknown(batch: &mut Batch<'_, Resp>, index: usize, name: &mut Vec<u8>) -> bool {
    if batch.heads.get(index).is_none_or(|head| head.op != OpId::UNKNOWN) {
        return false;
    }
    normalise(batch, index);
    let Some(word) = args(batch.frame(index)).next() else { return false };
    // What has other bytes is no name, and would be taken for one in the server's answer at best.
    let is_name = word.len() <= learned::MAX_NAME && word.iter().all(u8::is_ascii_graphic);
    if is_name {
        name.clear();
        name.extend_from_slice(word);
        name.make_ascii_lowercase();
    }
    is_name
}

/// See [`mecha_core::Framed::ask_about`].
pub(crate) fn ask_about(names: &[Box<[u8]>], out: &mut Vec<u8>) {
    let mut words = vec![b"COMMAND".as_slice(), b"INFO"];
    words.extend(names.iter().map(|name| &**name));
    write_request(words.into_iter(), out);
}

/// See [`mecha_core::Framed::learn`].
pub(crate) fn learn(names: &[Box<[u8]>], answer: &[u8]) -> Vec<Option<OpId>> {
    let answer = Value::parse(answer);
    let described = answer.as_ref().map_or(&[][..], Value::items);
    let row = |at: usize| {
        let name = std::str::from_utf8(names.get(at)?).ok()?;
        let is_named = |entry: &&Value| {
            let own = entry.items().first().and_then(Value::text);
            own.is_some_and(|own| own.eq_ignore_ascii_case(name))
        };
        // In the order of the question, which also finds those that have another name by birth; or in any, from a server that
        // tells of all its commands.
        let in_order = described.get(at).filter(|_| described.len() == names.len());
        learned::learn(name, described.iter().find(is_named).or(in_order)?)
    };
    (0..names.len()).map(row).collect()
}

/// See [`mecha_core::Framed::recognise`].
pub(crate) fn recognise(batch: &mut Batch<'_, Resp>, index: usize, op: OpId) {
    let frame = batch.frame(index);
    let op = match args(frame).nth(1) {
        Some(sub) => learned::sub(op, sub),
        None => op,
    };
    let facts = facts(op);
    let key = match facts.first_key {
        0 => None,
        first => args(frame).nth(usize::from(first)),
    };
    let place = key.map(|key| (key.as_ptr() as usize - frame.as_ptr() as usize, key.len()));
    let (key_at, key_len) = place.unwrap_or_default();
    let (Some(head), Some(call)) = (batch.heads.get_mut(index), batch.calls.get_mut(index)) else { return };
    *head = Request { op, key_at: key_at as u32, key_len: key_len as u32, ..*head };
    let fresh = <Resp as mecha_core::Protocol>::call(head, call.ticket);
    (call.op, call.class, call.affinity) = (fresh.op, fresh.class, fresh.affinity);
}

#[cfg(test)]
mod tests {
    use mecha_core::{Affinity, Call, Framed, Keys, OpClass, Protocol, Ticket};

    use super::*;
    use crate::{Session, head_of};

    fn frame(line: &str) -> Vec<u8> {
        let mut frame = Vec::new();
        write_request(line.split(' ').map(str::as_bytes).collect::<Vec<_>>().into_iter(), &mut frame);
        frame
    }

    /// What becomes of a request of which the server says `answer`.
    fn check(line: &str, answer: &str) -> (Call, Keys, Vec<String>) {
        let wire = frame(line);
        let mut heads = [head_of(&wire).unwrap()];
        let mut calls = [Resp::call(&heads[0], Ticket::default())];
        let (mut local, mut session, mut name) = (Vec::new(), Session::default(), Vec::new());
        let mut batch = Batch {
            wire: &wire,
            local: &mut local,
            heads: &mut heads,
            calls: &mut calls,
            session: &mut session,
        };
        assert!(unknown(&mut batch, 0, &mut name));
        let answer = answer.replace(' ', "\r\n");
        let op = learn(&[name.as_slice().into()], answer.as_bytes())[0];
        recognise(&mut batch, 0, op.expect("nothing is learned"));
        let mut keys = Vec::new();
        let known =
            Resp::keys(&heads[0], &wire, &mut |key| keys.push(String::from_utf8_lossy(key).into_owned()));
        assert_eq!(
            Resp::key(&heads[0], &wire).map(<[u8]>::to_vec),
            keys.first().map(|key| key.clone().into_bytes())
        );
        (calls[0], known, keys)
    }

    const KEYNUM: &str = "*1 *6 +flags *1 +RW +begin_search *4 +type +keyword +spec *4 +keyword +KEYS +startfrom :1 \
                          +find_keys *4 +type +keynum +spec *6 +keynumidx :0 +firstkey :1 +keystep :1 ";

    #[test]
    fn a_described_command_has_its_keys_its_class_and_its_way() {
        let (call, known, keys) =
            check("JSON.MGET a b c $", "*1 *6 $9 json.mget :-3 *1 +readonly :1 :-2 :1 ");
        assert_eq!((call.class, call.affinity, known), (OpClass::Read, Affinity::Shared, Keys::Known));
        assert_eq!(keys, ["a", "b", "c"]);
        assert!(Resp::is_reading(call.op));
        let (call, _, keys) = check("x.take q 0", "*1 *6 +X.TAKE :3 *2 +write +blocking :1 :1 :1 ");
        assert_eq!((call.class, call.affinity, keys), (OpClass::Write, Affinity::Pin, vec!["q".to_string()]));
        assert!(!Resp::is_reading(call.op));
        let (call, known, keys) = check("ft.search idx *", "*1 *6 +FT.SEARCH :-3 *1 +readonly :0 :0 :0 ");
        assert_eq!((call.class, known, keys.len()), (OpClass::Read, Keys::Known, 0));
    }

    #[test]
    fn keys_behind_a_word_and_a_number_are_found() {
        let answer = format!("*1 *10 +X.MANY :-3 *2 +write +movablekeys :0 :0 :0 *0 *0 {KEYNUM}*0 ");
        let (_, known, keys) = check("X.MANY opt KEYS 2 a b opt", &answer);
        assert_eq!((known, keys), (Keys::Known, vec!["a".to_string(), "b".to_string()]));
        // Keys that only code of the server's finds are not guessed.
        let (_, known, _) = check("X.CODE 1 a", "*1 *6 +X.CODE :-2 *2 +write +movablekeys :1 :1 :1 ");
        assert_eq!(known, Keys::Unknown);
    }

    #[test]
    fn subcommands_have_rows_of_their_own() {
        let sub = "*10 +x.box|put :4 *1 +write :2 :2 :1 *0 *0 *0 *0 ";
        let answer = format!("*1 *10 +x.box :-2 *0 :0 :0 :0 *0 *0 *0 *1 {sub}");
        let (call, _, keys) = check("X.BOX PUT k v", &answer);
        assert_eq!((crate::op_info(call.op).name, keys), ("x.box|put", vec!["k".to_string()]));
        let (call, _, keys) = check("X.BOX other k", &answer);
        assert_eq!((crate::op_info(call.op).name, keys.len()), ("x.box", 0));
    }

    #[test]
    fn one_is_found_among_all_commands_of_a_server_and_under_a_name_that_it_was_given() {
        let all = "*2 *6 +get :2 *1 +readonly :1 :1 :1 *6 +y.one :2 *1 +write :1 :1 :1 ";
        let names: [Box<[u8]>; 1] = [b"y.one".as_slice().into()];
        assert!(learn(&names, all.replace(' ', "\r\n").as_bytes())[0].is_some());
        let (call, _, keys) = check("fetch k", "*1 *6 +get :2 *2 +readonly +fast :1 :1 :1 ");
        assert_eq!((crate::op_info(call.op).name, keys), ("fetch", vec!["k".to_string()]));
        for nothing in ["*1 *-1 ", "*1 $-1 ", "-NOPERM no ", "*0 ", ""] {
            assert_eq!(learn(&names, nothing.replace(' ', "\r\n").as_bytes()), [None], "{nothing}");
        }
    }
}
