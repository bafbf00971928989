//! Refuses commands by name or class.
//!
//! Written once for every protocol, since the operation tables tell all that it needs; registered by each.

use mecha_config::{ConfigError, FilterOption, Options, Takes, Without};
use mecha_core::{Batch, Cx, Filter, Framed, OpId, Refusal, Verdict};
use serde::Deserialize;

use crate::select::{Foreign, Selection};
use crate::{BuildCx, FilterFactory, FilterKind, Help};

/// The kind, for protocol `P`.
pub(crate) const fn kind<P: Framed>() -> FilterKind<P> {
    FilterKind {
        name: "deny_commands",
        help: Help {
            summary: "Refuses commands by name or class.",
            options: &[
                FilterOption {
                    name: "commands",
                    takes: Takes::Texts,
                    without: Without::Nothing,
                    about: "what to refuse",
                },
                FilterOption {
                    name: "only",
                    takes: Takes::Flag,
                    without: Without::Default("false"),
                    about: "turns it round: everything else is refused",
                },
            ],
            docs: "A command is a name (flushall), a subcommand (config|set), a container with all its subcommands (config), or a\n\
                   class (@admin, @read, @session, @write). A command of a module, or of a server newer than mecha, is named as\n\
                   clients name it (json.set).",
            example: "- deny_commands: { commands: [flushall, \"@admin\"] }",
        },
        build: |options, cx| build(options, cx).map(|deny| Box::new(deny) as Box<dyn FilterFactory<P>>),
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawDeny {
    commands: Vec<String>,
    #[serde(default)]
    only: bool,
}

#[derive(Clone)]
struct DenyCommands {
    selection: Selection,
    is_allow_list: bool,
}

fn build(options: &Options, cx: &BuildCx<'_>) -> Result<DenyCommands, Vec<ConfigError>> {
    let mut selection = Selection::default();
    let raw: RawDeny = options.check(|raw: &RawDeny, errors| {
        if raw.commands.is_empty() {
            errors.push(
                options
                    .error("commands", "names no command")
                    .hint("as in `commands: [flushall, \"@admin\"]`"),
            );
        }
        selection = Selection::read(&raw.commands, cx.ops, options, "commands", Foreign::Named, errors);
    })?;
    Ok(DenyCommands { selection, is_allow_list: raw.only })
}

impl<P: Framed> FilterFactory<P> for DenyCommands {
    fn open(&self) -> Box<dyn Filter<P>> {
        Box::new(Instance { deny: self.clone(), name: Vec::new() })
    }
}

struct Instance {
    deny: DenyCommands,
    /// Reused.
    name: Vec<u8>,
}

impl Instance {
    /// Whether call `index`, whose operation may be none of the table's, is one of those that are named.
    fn is_named<P: Framed>(&mut self, batch: &mut Batch<'_, P>, index: usize) -> bool {
        let Some(op) = batch.calls.get(index).map(|call| call.op) else { return false };
        if op != OpId::UNKNOWN {
            return usize::from(op.0) >= P::ops().len() && self.deny.selection.has_named(P::op_name(op));
        }
        let is_name = P::unknown(batch, index, &mut self.name);
        is_name && std::str::from_utf8(&self.name).is_ok_and(|name| self.deny.selection.has_named(name))
    }
}

impl<P: Framed> Filter<P> for Instance {
    fn on_requests(&mut self, batch: &mut Batch<'_, P>, _cx: &Cx<'_>) {
        let has_foreign = self.deny.selection.has_foreign();
        for index in 0..batch.calls.len() {
            let is_named = has_foreign && self.is_named(batch, index);
            let Some(call) = batch.calls.get_mut(index) else { break };
            // What mecha answers itself is denied too: the client asked for it.
            let is_open = !matches!(call.verdict, Verdict::Refuse(_));
            if is_open && (is_named || self.deny.selection.has(call)) != self.deny.is_allow_list {
                call.verdict = Verdict::Refuse(Refusal::Denied);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use mecha_resp::Resp;
    use mecha_telemetry::Registry;

    use super::*;
    use crate::testing::{batch_of, cx, options, with_cx};

    fn verdicts(example: &str, lines: &[&str]) -> Vec<bool> {
        let kind = kind::<Resp>();
        let built = with_cx(&Registry::new(), |cx| (kind.build)(&options(example), cx));
        let mut filter = built.unwrap_or_else(|errors| panic!("{errors:?}")).open();
        let judge = |line: &&str| {
            batch_of(&[*line], |batch| {
                filter.on_requests(batch, &cx(0));
                batch.calls[0].verdict == Verdict::Refuse(Refusal::Denied)
            })
        };
        lines.iter().map(judge).collect()
    }

    #[test]
    fn names_containers_and_classes_are_denied() {
        let example = "- deny_commands: { commands: [FLUSHALL, config, \"client|kill\", \"@session\"] }";
        let lines = ["flushall", "CONFIG SET a b", "CLIENT KILL x", "CLIENT LIST", "GET a", "AUTH x"];
        assert_eq!(verdicts(example, &lines), [true, true, true, true, false, true]);
    }

    #[test]
    fn an_allow_list_denies_the_rest_and_what_is_unknown() {
        let lines = ["GET a", "SET a b", "NOSUCH"];
        assert_eq!(
            verdicts("- deny_commands: { commands: [\"@read\"], only: true }", &lines),
            [false, true, true]
        );
    }

    #[test]
    fn commands_that_the_table_lacks_are_named_as_clients_name_them() {
        let example = "- deny_commands: { commands: [JSON.SET, flushall, \"ft.config\"] }";
        let lines =
            ["json.set k $ 1", "JSON.GET k", "Ft.Config GET x", "FT.CONFIGURE x", "FLUSHALL", "GET a"];
        assert_eq!(verdicts(example, &lines), [true, false, true, false, true, false]);
        let example = "- deny_commands: { commands: [json.get, get], only: true }";
        assert_eq!(
            verdicts(example, &["JSON.GET k", "JSON.SET k $ 1", "GET a", "SET a b"]),
            [false, true, false, true]
        );
    }

    #[test]
    fn what_is_close_to_a_name_of_the_table_is_taken_for_a_mistake() {
        let build = |example: &str| {
            with_cx(&Registry::new(), |cx| (kind::<Resp>().build)(&options(example), cx)).map(|_| ())
        };
        let errors = build("- deny_commands: { commands: [flushal] }").unwrap_err();
        assert!(format!("{errors:?}").contains("flushall"), "{errors:?}");
        assert!(build("- deny_commands: { commands: [x.y, \"@nosuch\"] }").is_err());
    }
}
