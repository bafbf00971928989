//! Commands of servers newer than the one that the table is generated from: hand-kept, from the servers' published
//! command reference. Name, arity, flags, first key, last key, step.

/// One command: name, arity, flags, first key, last key, step.
pub(crate) type Newer = (&'static str, i64, &'static str, i64, i64, i64);

/// Alphabetical.
pub(crate) const NEWER: &[Newer] = &[
    ("client|capa", -3, "noscript", 0, 0, 0),
    ("client|import-source", 3, "admin noscript", 0, 0, 0),
    ("client|no-touch", 3, "noscript", 0, 0, 0),
    ("client|setinfo", 4, "noscript", 0, 0, 0),
    ("cluster|links", 2, "", 0, 0, 0),
    ("cluster|myshardid", 2, "", 0, 0, 0),
    ("cluster|slot-stats", -4, "", 0, 0, 0),
    ("commandlog", -2, "admin", 0, 0, 0),
    ("delex", -2, "write fast", 1, 1, 1),
    ("delifeq", 3, "write fast", 1, 1, 1),
    ("digest", 2, "readonly fast", 1, 1, 1),
    ("hexpire", -6, "write fast", 1, 1, 1),
    ("hexpireat", -6, "write fast", 1, 1, 1),
    ("hexpiretime", -5, "readonly fast", 1, 1, 1),
    ("hgetdel", -5, "write fast", 1, 1, 1),
    ("hgetex", -5, "write fast", 1, 1, 1),
    ("hpersist", -5, "write fast", 1, 1, 1),
    ("hpexpire", -6, "write fast", 1, 1, 1),
    ("hpexpireat", -6, "write fast", 1, 1, 1),
    ("hpexpiretime", -5, "readonly fast", 1, 1, 1),
    ("hpttl", -5, "readonly fast", 1, 1, 1),
    ("hsetex", -6, "write fast", 1, 1, 1),
    ("httl", -5, "readonly fast", 1, 1, 1),
    ("vadd", -5, "write", 1, 1, 1),
    ("vcard", 2, "readonly fast", 1, 1, 1),
    ("vdim", 2, "readonly fast", 1, 1, 1),
    ("vemb", -3, "readonly fast", 1, 1, 1),
    ("vgetattr", 3, "readonly fast", 1, 1, 1),
    ("vinfo", 2, "readonly fast", 1, 1, 1),
    ("vismember", 3, "readonly fast", 1, 1, 1),
    ("vlinks", -3, "readonly fast", 1, 1, 1),
    ("vrandmember", -2, "readonly", 1, 1, 1),
    ("vrange", -4, "readonly", 1, 1, 1),
    ("vrem", 3, "write", 1, 1, 1),
    ("vsetattr", 4, "write fast", 1, 1, 1),
    ("vsim", -4, "readonly", 1, 1, 1),
    ("waitaof", 4, "blocking noscript", 0, 0, 0),
    ("xackdel", -6, "write fast", 1, 1, 1),
    ("xdelex", -5, "write fast", 1, 1, 1),
];
