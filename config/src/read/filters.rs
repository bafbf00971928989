//! Chains: lists of filters, whose options are left to the filters.

use std::sync::Arc;

use super::Reader;
use super::fields::Found;
use crate::error::suggestion;
use crate::node::{Kind, Node, Place};
use crate::options::join;
use crate::{FilterSpec, Options};

impl Reader<'_> {
    pub(super) fn filters(&mut self, found: Found<'_>, protocol: Option<&str>) -> Vec<FilterSpec> {
        let mut filters = Vec::new();
        for (node, path) in self.items(found) {
            let (name, options) = match &node.kind {
                Kind::Scalar(name, _) => (name.clone(), Node { place: node.place, kind: Kind::Null }),
                Kind::Map(pairs) => match pairs.as_slice() {
                    [(name, _, options)] => (name.clone(), options.clone()),
                    _ => {
                        let hint = "one `- ` for each filter, as in `- timeout: { after: 1s }`";
                        self.error(node.place, &path, "each entry names one filter", Some(hint.into()));
                        continue;
                    }
                },
                _ => {
                    self.error(
                        node.place,
                        &path,
                        format!("expected a filter, got {}", node.describe()),
                        Some("its name, or as in `- timeout: { after: 1s }`".into()),
                    );
                    continue;
                }
            };
            let path = join(&path, &name);
            if !self.known.filters.contains(&name.as_str()) {
                let hint = suggestion(&name, &self.known.filters);
                self.error(node.place, &path, format!("there is no filter `{name}`"), Some(hint));
                continue;
            }
            let mut options = Options { node: options, path, origin: Arc::clone(&self.origin) };
            if options.node.place == Place::default() {
                options.node.place = node.place;
            }
            let spec = FilterSpec { name, options };
            self.errors.extend((self.known.check_filter)(&spec, protocol));
            filters.push(spec);
        }
        filters
    }
}
