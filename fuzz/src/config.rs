//! Configuration: any text is a snapshot or a list of errors.

use mecha::catalog;

pub(crate) const SEEDS: &[&str] = &[
    include_str!("../../examples/demo.yaml"),
    include_str!("../../examples/filters.yaml"),
    include_str!("../../examples/sharded.yaml"),
    include_str!("../../examples/redis-to-memcached.yaml"),
    "listeners: &a [*a]\n",
    "{listeners: [{name: x, listen: 'redis://[::1]:1', to: {{}}}], clusters: {x: {to: 'redis://a,b'}}}",
];

pub(crate) fn any_text(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    if let Err(errors) = mecha_config::load(&text, "fuzz.yaml", &catalog::known()) {
        assert!(!errors.is_empty(), "refused without a word");
        errors.iter().for_each(|error| assert!(!error.to_string().is_empty()));
    }
}
