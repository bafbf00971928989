//! The generator: templates, and what their blanks are filled with.

pub(super) struct Dice(u64);

/// Gives the keys of other types something to hold.
pub(super) const SETUP: &[&str] = &[
    "rpush l0|l1 <num> <num> <num>",
    "rpush l0|l1 <val> <val>",
    "sadd s0|s1 <num> <num> <val>",
    "sadd s0|s1 <num> <num>",
    "zadd z0 1 <num> 2 <val> 3 <num>",
    "hset h0 <val> <val>",
    "del l0|l1|s0|s1|z0|h0",
    "set <k> <val>",
    "set <k> <num>",
    "append|set|incrby|getset w0|w1 <num>",
    "set|del w2 1",
    "mset k0 foobar k1 ohmytext k2 mynewtext",
];

/// About all keys and the connection.
pub(super) const ALONE: &[&str] = &[
    "keys *|k*|?0|[ks]1|nothing",
    // Not of type none: a server counts keys that have expired unnoticed among those.
    "scan 0 count 1000 [match *|k*|*0] [type string|list|set|zset|hash|STRING|nosuch]",
    "scan 0 count 1000 [match] [type] [x y]",
    "scan 0 count 0|-1|x|1.5|01",
    "scan x|-|1.5",
    "randomkey",
    "dbsize",
    "flushall [async|sync|x] [x]",
    "flushdb [async|sync]",
    "client setname a|b|<empty>|d",
    "client getname [x]",
    "reset",
    "hello [2|3|4|x|-1]",
    "hello 2|3 setname",
    "hello 3 auth default x",
    "hello 3 auth other x setname y",
    "auth x",
    "auth default x",
    "auth other x",
    "auth a b c",
];

pub(super) const TEMPLATES: &[&str] = &[
    "get|strlen|getdel <any>",
    "get|GET|Get <k> [x]",
    "set <any> <val> [<setopt>] [<setopt>] [<setopt>]",
    "set <any> <num> [get] [keepttl]",
    "set <k> <val> ex|px|exat|pxat|EX <ttl> [nx|xx] [get] [keepttl]",
    "set <k> <val> [nx|xx] [nx|xx] [x]",
    "setnx|getset|append <any> <val> [x]",
    "setex|psetex <any> <ttl> <val>",
    "getex <any> [<setopt>] [persist]",
    "getex <any> ex|px|exat|pxat|PERSIST <ttl>",
    "getex <any> persist",
    "mget {<any>}",
    "mset {<any> <val>} [x]",
    "msetnx {<any> <val>} [x]",
    "getrange|substr <any> <int> <int>",
    "setrange <any> <small> <val>",
    "setrange <any> <int> <empty>|x",
    "setrange <k> 600000000|536870912|9223372036854775807 x",
    "incr|decr <any>",
    "incrby|decrby <any> <int>",
    "incrbyfloat <any> <float>",
    "lcs <any> <any> [len|idx|x] [withmatchlen] [minmatchlen <int>]",
    "lcs k0 k1|k2 idx [withmatchlen] [minmatchlen 0|1|2|4]",
    "lcs k0 k1 len idx",
    "setbit <any> <bit> 0|1|1|2|x|-1",
    "getbit <any> <bit>",
    "bitcount <any> [<int> <int>] [bit|byte|BIT|x]",
    "bitcount <any> <int> <int> [bit|byte]",
    "bitcount <any> <int>",
    "bitpos <any> 0|1|2|x [<int>] [<int>] [bit|byte|x]",
    "bitpos <any> 0|1 <int> <int> bit|byte",
    "bitop and|or|xor|not|AND|nand <k> {<any>}",
    "bitop and|or|xor <k> {<k>}",
    "bitop not <k> <any>",
    "bitfield <any> {get <ftype> <foff>}",
    "bitfield <any> [overflow wrap|sat|fail|x] {set <ftype> <foff> <fint>} {incrby <ftype> <foff> <int>}",
    "bitfield <k> [overflow sat|fail] incrby i8|u8|i64|u63|i1|u1|i5 <foff> <int> [get u8 0]",
    "bitfield <k> [overflow sat|fail] set i8|u8|i64|u63|i1|u1|i5 <foff> <fint> [overflow wrap] incrby u7 3 100",
    "bitfield_ro <any> {get <ftype> <foff>} [set u8 0 1]",
    "bitfield <any> [get u8] [set u8 0] [overflow] [x]",
    "del|unlink|exists|touch {<any>}",
    "del|unlink|exists|touch|type|strlen <any>",
    // GT and LT only with absolute times: the others depend on the very millisecond.
    "expireat|pexpireat <any> <ttl> [nx|xx|gt|lt|x] [nx|xx|gt|lt]",
    "expire|pexpire <any> <ttl> [nx|xx|x] [nx|xx]",
    "expire none|<k> 100|200|300 nx gt|lt",
    "expireat <any> 4000000000|4000000001|1 [gt|lt]",
    "ttl|pttl|expiretime|pexpiretime|persist <any>",
    "rename|renamenx <any> <k>",
    "copy <any> <k> [replace] [x]",
    "copy <any> <k> [db 0|16|x|99999999999] [replace]",
    "sort <any> [alpha] [desc|asc] [limit <int> <int>]",
    "sort l0|l1|s0|s1|z0 [alpha] [desc] [limit <int> <int>] store <any>",
    "sort l0|l1|z0 by nosort [desc] [limit 0|1|2 1|2|-1]",
    "sort l0|z0 alpha [get #] [get #]",
    "sort l0 alpha [get x] [store l1] [x]",
    "sort_ro <any> [alpha] [desc] [limit <int> <int>] [store l1]",
    "mset W1 3 W2 1 W10 <num> W-5 x W3 5 W7 <num> W100 -1",
    "hset H1 f <num> g <val>",
    "hset H2 f <num>",
    "sort l0|l1|s0|s1|z0|none by W* [desc] [limit <int> <int>]",
    "sort l0|z0 by W*|nosort|H*->f [get W*] [get #] [get H*->f] [get x] [desc] [limit 0 <int>] [store <any>]",
    "sort_ro l0|z0 by W*|H*->g|H*->|*|W [get *] [get H*->g] [desc] [store l1]",
    "object encoding|refcount|freq nothere",
    "object|memory|slowlog|latency|acl|module|cluster nosuch",
    "object encoding",
    "memory usage nothere [samples <int>] [x]",
    "slowlog get [<int>]",
    "slowlog len|reset",
    "latency latest|reset",
    "latency history x",
    "acl whoami|users",
    "cluster info|slots|nodes|shards|myid",
    "readonly|readwrite|role",
    "module list",
    "config resetstat",
    "client getredir|trackinginfo",
    "wait 0 0|x|-1|<empty>",
    "wait x 0",
    "lrange l0|l1 0 -1",
    "smembers s0|s1",
    "hget h0 <val>",
    "zscore z0 <val>",
    "ping [a] [b]",
    "echo <val> [x]",
    "select 0|16|99|x|-1|<empty>",
    "nosuchcommand {<val>}",
    "getx|foo",
    "get|set|mset|setex|expire|bitop|bitcount|sort|copy|rename",
    "client|config|command nosuch",
    "client|object|config",
    "client getname x",
    "client setname",
    "command getkeys <getkeys>",
    "command getkeys",
    "time x",
];

const KEYS: &[&str] = &["k0", "k1", "k2", "k3"];
const OTHERS: &[&str] = &["l0", "l1", "s0", "s1", "z0", "h0", "none", ""];
const VALUES: &[&str] = &[
    "a",
    "b",
    "foobar",
    "ohmytext",
    "mynewtext",
    "",
    "10",
    "5.5",
    "x y",
    "ab\0c",
    "\u{ff}\u{f0}",
    "aabbaabb",
];
const NUMBERS: &[&str] = &["1", "2", "3", "10", "-5", "7", "100", "1.5"];
const INTS: &[&str] = &["0", "1", "2", "3", "-1", "-2", "-3", "5", "10", "-10", "100", "255", "-128", "7"];
const EDGES: &[&str] = &[
    "x",
    "",
    "1.5",
    " 1",
    "01",
    "+1",
    "9223372036854775807",
    "-9223372036854775808",
    "9223372036854775808",
    "-0",
    "4611686018427387904",
    "-9223372036854775807",
];
const FLOATS: &[&str] =
    &["0.1", "1", "-3.14", "1e3", "1e17", "0", "5.0e3", "3.0e-18", "123456789.123456789", "-0.5"];
const ODD_FLOATS: &[&str] = &["x", "", "inf", "-inf", "nan", " 1", "1 ", "1e400", "1e5000", "0x10"];
const TTLS: &[&str] = &["100000", "200000", "4000000000", "4000000000000"];
const ODD_TTLS: &[&str] = &[
    "0",
    "-1",
    "x",
    "1.5",
    "9223372036854775807",
    "-9223372036854775808",
    "9223372036854775",
    "-9223372036854775",
    "9223372036854776",
    "-9223372036854776",
];

impl Dice {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub(super) fn roll(&mut self, sides: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        ((self.0 >> 16) % sides as u64) as usize
    }

    pub(super) fn pick<'a>(&mut self, from: &[&'a str]) -> &'a str {
        from[self.roll(from.len())]
    }

    /// From the first list, now and then from the second.
    fn mostly<'a>(&mut self, usual: &[&'a str], odd: &[&'a str]) -> &'a str {
        if self.roll(10) == 0 { self.pick(odd) } else { self.pick(usual) }
    }

    fn word(&mut self, kind: &str) -> Vec<String> {
        let one = match kind {
            "<k>" => self.pick(KEYS),
            "<any>" => match self.roll(8) {
                0 => self.pick(OTHERS),
                _ => self.pick(KEYS),
            },
            "<val>" => self.pick(VALUES),
            "<num>" => self.pick(NUMBERS),
            "<int>" => self.mostly(INTS, EDGES),
            "<fint>" => self.mostly(INTS, EDGES),
            "<small>" => self.mostly(&["0", "1", "2", "5", "10", "40"], &["-1", "x", "01"]),
            "<bit>" => self.mostly(
                &["0", "1", "7", "8", "15", "100", "1000"],
                &["-1", "x", "#1", "4294967296", "9223372036854775807", "01", ""],
            ),
            "<ftype>" => self.mostly(
                &["u8", "i8", "u1", "i1", "u16", "i16", "u63", "i64", "i5", "u5", "u32", "i33"],
                &["u64", "i65", "u0", "x8", "8", "", "U8", "i-1", "u08"],
            ),
            "<foff>" => self.mostly(
                &["0", "1", "3", "8", "#0", "#1", "#2", "17", "100"],
                &["-1", "x", "#x", "##1", "4294967296", "#9223372036854775", "#-1"],
            ),
            "<float>" => self.mostly(FLOATS, ODD_FLOATS),
            "<ttl>" => match self.roll(4) {
                0 => self.pick(ODD_TTLS),
                _ => self.pick(TTLS),
            },
            "<setopt>" => match self.roll(4) {
                0 => {
                    let unit = self.pick(&["ex", "px", "exat", "pxat", "EXAT"]).to_owned();
                    return vec![unit, self.pick(TTLS).to_owned()];
                }
                _ => self.pick(&["nx", "xx", "get", "keepttl", "NX", "x", "ex", "persist"]),
            },
            "<getkeys>" => {
                let line = self.pick(&[
                    "get a",
                    "mset a 1 b 2",
                    "ping",
                    "nosuch a",
                    "get",
                    "sort a by b",
                    "bitop and a b c",
                    "eval x 2 a b c",
                    "zunionstore d 2 a b",
                    "zunionstore d x a",
                    "set a",
                    "lmpop 2 a b left",
                    "mget a a b",
                    "eval x 0",
                    "copy a b db 1",
                    "client setname a",
                    "georadius a 1 2 3 m store b",
                ]);
                return line.split(' ').map(str::to_owned).collect();
            }
            "<empty>" => "",
            literal => literal,
        };
        vec![one.to_owned()]
    }

    /// Fills a template in: words, `[optional words]`, `{repeated words}`.
    pub(super) fn fill(&mut self, template: &str) -> Vec<String> {
        let (mut words, mut rest) = (Vec::new(), template.trim());
        while !rest.is_empty() {
            let (group, more, times) = if let Some(inner) = rest.strip_prefix('[') {
                let (group, more) = inner.split_once(']').expect("closed");
                (group, more, usize::from(self.roll(3) == 0))
            } else if let Some(inner) = rest.strip_prefix('{') {
                let (group, more) = inner.split_once('}').expect("closed");
                (group, more, 1 + self.roll(4))
            } else {
                let (word, more) = rest.split_once(' ').unwrap_or((rest, ""));
                let choices: Vec<_> = word.split('|').collect();
                let word = self.pick(&choices).to_owned();
                words.extend(self.word(&word));
                rest = more.trim_start();
                continue;
            };
            for _ in 0..times {
                words.extend(self.fill(group));
            }
            rest = more.trim_start();
        }
        words
    }
}
