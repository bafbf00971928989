//! Commands that none of the servers at hand tells enough about: those newer than all of them, and those of a module
//! (vector sets), which report no arity. Hand-kept, from the servers' published command reference.

/// One command: name, arity, flags, first key, last key, step.
pub(crate) type Newer = (&'static str, i64, &'static str, i64, i64, i64);

/// Alphabetical. Redis 8.4: CLUSTER MIGRATION, DELEX, DIGEST; 8.6: HOTKEYS, XCFGSET.
pub(crate) const NEWER: &[Newer] = &[
    ("cluster|migration", -4, "admin noscript", 0, 0, 0),
    ("delex", -2, "write fast", 1, 1, 1),
    ("digest", 2, "readonly fast", 1, 1, 1),
    ("hotkeys", -2, "admin noscript", 0, 0, 0),
    ("hotkeys|get", 2, "admin noscript", 0, 0, 0),
    ("hotkeys|reset", 2, "admin noscript", 0, 0, 0),
    ("hotkeys|start", -2, "admin noscript", 0, 0, 0),
    ("hotkeys|stop", 2, "admin noscript", 0, 0, 0),
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
    ("xcfgset", -2, "write fast", 1, 1, 1),
];
