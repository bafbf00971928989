//! The schema of a route of an HTTP listener.

use serde_json::{Value, json};

use super::option;

/// One entry of `routes`. `target` is what `to` takes, `filters` a list of filters.
pub(super) fn route(target: &Value, filters: &Value) -> Value {
    let about = |mut schema: Value, description: &str| {
        schema["description"] = description.into();
        schema
    };
    let text = |description: &str| json!({ "type": "string", "description": description });
    let words = |description: &str| json!({ "anyOf": [ { "type": "string" }, { "type": "array", "items": { "type": "string" } } ], "description": description });
    let pairs = |description: &str| json!({ "type": "object", "additionalProperties": { "type": ["string", "number", "boolean"] }, "description": description });
    let count = |description: &str| about(option::count(1), description);
    let duration = |description: &str| about(option::duration(), description);
    let map = |description: &str, properties: Value| json!({ "type": "object", "additionalProperties": false, "description": description, "properties": properties });
    let edit = |description: &str| {
        let properties = json!({ "set": pairs("Replace what is there."), "add": pairs("Stand beside what is there."), "remove": words("Go.") });
        map(description, properties)
    };
    let statuses = words(
        "connect, reset, gateway (502 to 504), 5xx, or a status; one text, or a list (connect, gateway, reset).",
    );
    json!({ "type": "object", "additionalProperties": false, "properties": {
        "name": text("Unique name, used in metrics (its first condition)."),
        "host": words("Hosts without ports; `*.example.com` for all below; one text, or a list."),
        "path": words("Whole paths; `{name}` stands for a segment, `{*rest}` for all that follows; one text, or a list."),
        "prefix": words("Beginnings of paths, by whole segments; one text, or a list."),
        "regex": words("Regular expressions that the whole path matches; one text, or a list."),
        "grpc": words("gRPC services, or service/method; one text, or a list."),
        "method": words("Methods; one text, or a list."),
        "headers": pairs("Fields and their values, with `*` at one end or alone for any."),
        "query": pairs("Parameters of the query and their values, as `headers`."),
        "to": target,
        "split": { "type": "array", "description": "Several targets, each with a share.", "items": {
            "type": "object", "additionalProperties": false, "required": ["to"],
            "properties": { "to": target, "weight": count("Its share (1).") },
        } },
        "rewrite": map("What the server hears in place of what the client said.", json!({
            "prefix": text("In place of the prefix that has matched."),
            "path": text("In place of the whole path."),
            "host": text("In place of the host."),
        })),
        "timeout": duration("For the head of the answer, all attempts together (none)."),
        "max_duration": duration("For a request and its answer to their ends (as the listener says)."),
        "retry": map("When a request is sent again.", json!({
            "attempts": count("How often at most (1)."),
            "on": statuses,
            "per_try_timeout": duration("For the head of one answer (none)."),
            "hedge_after": duration("When another server is asked too, although the first one may yet answer; the first answer counts (never)."),
            "backoff": duration("The first wait; it doubles, and half of it is left to chance (25ms)."),
            "max_body": about(option::size(), "Bodies up to this size are held to be sent again (64KiB)."),
            "budget": count("Of a hundred requests, so many may be sent again (20)."),
        })),
        "redirect": map("Sends the client elsewhere; what is missing stays.", json!({
            "status": { "enum": [301, 302, 303, 307, 308], "description": "Which redirect (308)." },
            "scheme": { "enum": ["http", "https"], "description": "The scheme." },
            "host": text("Host and maybe port."),
            "path": text("The whole path."),
            "prefix": text("In place of the prefix that has matched."),
        })),
        "respond": map("Answers without a server.", json!({
            "status": { "type": "integer", "minimum": 200, "maximum": 599, "description": "The status (200)." },
            "body": text("The body (none)."),
        })),
        "filters": filters,
        "request": edit("Fields of requests that change."),
        "response": edit("Fields of answers that change."),
    } })
}
