//! What a set of descriptors says of requests (`google.api.http`).

use std::sync::Arc;

use http::{Method, Uri};
use prost_reflect::{
    DescriptorPool, DynamicMessage, FieldDescriptor, MessageDescriptor, MethodDescriptor, Value,
};

use super::template::{Bound, Template};

/// A method of a service.
#[derive(Debug)]
pub(super) struct Call {
    /// `/package.Service/Method`.
    pub(super) path: Uri,
    pub(super) input: MessageDescriptor,
    pub(super) output: MessageDescriptor,
    /// Whether clients send several messages.
    pub(super) streams_in: bool,
    /// Whether the server does.
    pub(super) streams_out: bool,
}

/// How requests become calls of a method.
#[derive(Debug)]
pub(super) struct Rule {
    pub(super) method: Method,
    pub(super) template: Template,
    pub(super) body: Body,
    /// The field of the answer that is its body; `None` is all of it.
    pub(super) answer: Option<FieldDescriptor>,
    pub(super) call: Arc<Call>,
}

/// What the body of a request is.
#[derive(Clone, Debug)]
pub(super) enum Body {
    /// The message.
    All,
    /// A field of the message.
    Field(FieldDescriptor),
    /// Nothing.
    None,
}

/// Everything that requests can call.
#[derive(Debug)]
pub(super) struct Rules {
    all: Vec<Rule>,
    pub(super) pool: DescriptorPool,
}

/// The extension that tells how requests call a method.
const HTTP: &str = "google.api.http";

impl Rules {
    /// Those of `services`, or of all if none is named. With `is_auto`, methods of which nothing is said can be called by their
    /// names.
    ///
    /// # Errors
    /// What is wrong with the set, for people.
    pub(super) fn new(set: &[u8], services: &[String], is_auto: bool) -> Result<Self, String> {
        let pool =
            DescriptorPool::decode(set).map_err(|error| format!("this is no set of descriptors: {error}"))?;
        let mut all = Vec::new();
        if let Some(missing) = services.iter().find(|name| pool.get_service_by_name(name).is_none()) {
            let names: Vec<_> = pool.services().map(|service| service.full_name().to_string()).collect();
            return Err(format!("there is no service `{missing}`; there is {}", names.join(", ")));
        }
        let is_meant = |name: &str| services.is_empty() || services.iter().any(|wanted| wanted == name);
        for service in pool.services().filter(|service| is_meant(service.full_name())) {
            for method in service.methods() {
                let path = format!("/{}/{}", service.full_name(), method.name());
                let call = Arc::new(Call {
                    path: Uri::try_from(path.as_str()).map_err(|_| format!("`{path}` is no path"))?,
                    input: method.input(),
                    output: method.output(),
                    streams_in: method.is_client_streaming(),
                    streams_out: method.is_server_streaming(),
                });
                let before = all.len();
                if let Some(rule) = http_rule(&pool, &method) {
                    add(&rule, &call, &mut all).map_err(|why| format!("{}: {why}", method.full_name()))?;
                }
                if all.len() == before && is_auto {
                    let template = Template::parse(&path).ok_or_else(|| format!("`{path}` is no path"))?;
                    let (method, body) = (Method::POST, Body::All);
                    all.push(Rule { method, template, body, answer: None, call });
                }
            }
        }
        if all.is_empty() {
            return Err(format!("no method has the option `{HTTP}`; was it made with `--include_imports`?"));
        }
        all.sort_by_key(|rule| rule.template.rank());
        Ok(Self { all, pool })
    }

    /// The rule for such a request, and what its path says.
    pub(super) fn find(&self, method: &Method, path: &str) -> Option<(&Rule, Bound<'_>)> {
        let fits = |rule: &&Rule| rule.method == *method;
        self.all.iter().filter(fits).find_map(|rule| Some((rule, rule.template.bind(path)?)))
    }
}

fn http_rule(pool: &DescriptorPool, method: &MethodDescriptor) -> Option<DynamicMessage> {
    let extension = pool.get_extension_by_name(HTTP)?;
    let options = method.options();
    if !options.has_extension(&extension) {
        return None;
    }
    match options.get_extension(&extension).into_owned() {
        Value::Message(rule) => Some(rule),
        _ => None,
    }
}

/// Adds what a rule says, and what stands beside it.
fn add(rule: &DynamicMessage, call: &Arc<Call>, all: &mut Vec<Rule>) -> Result<(), String> {
    let text = |message: &DynamicMessage, name: &str| {
        let value = message.get_field_by_name(name)?;
        value.as_str().filter(|text| !text.is_empty()).map(ToString::to_string)
    };
    let usual = ["get", "put", "post", "delete", "patch"];
    let known = usual.iter().find_map(|name| Some((name.to_ascii_uppercase(), text(rule, name)?)));
    let custom = || {
        let custom = rule.get_field_by_name("custom")?.into_owned();
        let custom = custom.as_message()?;
        Some((text(custom, "kind")?, text(custom, "path")?))
    };
    let (method, path) = known.or_else(custom).ok_or("its rule has no method and path")?;
    let method = Method::try_from(method.as_str()).map_err(|_| format!("`{method}` is no method"))?;
    let template = Template::parse(&path).ok_or_else(|| format!("`{path}` is no template of a path"))?;
    for field in template.fields() {
        resolve(&call.input, field).ok_or_else(|| format!("there is no field `{field}`"))?;
    }
    let field = |of: &MessageDescriptor, name: &str| {
        of.get_field_by_name(name).ok_or_else(|| format!("there is no field `{name}`"))
    };
    let body = match text(rule, "body") {
        None => Body::None,
        Some(all) if all == "*" => Body::All,
        Some(name) => Body::Field(field(&call.input, &name)?),
    };
    if call.streams_in && !matches!(body, Body::All) {
        return Err("a stream of messages can only be the whole body".into());
    }
    let answer = text(rule, "response_body").map(|name| field(&call.output, &name)).transpose()?;
    all.push(Rule { method, template, body, answer, call: Arc::clone(call) });
    let more = rule.get_field_by_name("additional_bindings").map(std::borrow::Cow::into_owned);
    for more in
        more.as_ref().and_then(Value::as_list).unwrap_or_default().iter().filter_map(Value::as_message)
    {
        // They have none of their own.
        if more
            .get_field_by_name("additional_bindings")
            .is_none_or(|value| value.as_list().is_none_or(<[_]>::is_empty))
        {
            add(more, call, all)?;
        }
    }
    Ok(())
}

/// The field that a path with dots leads to, through single messages.
pub(super) fn resolve(message: &MessageDescriptor, path: &str) -> Option<FieldDescriptor> {
    let (name, rest) = path.split_once('.').map_or((path, None), |(name, rest)| (name, Some(rest)));
    let field = named(message, name)?;
    match rest {
        None => Some(field),
        Some(_) if field.is_list() || field.is_map() => None,
        Some(rest) => resolve(field.kind().as_message()?, rest),
    }
}

/// The field with this name, as JSON or its definition spells it.
pub(super) fn named(message: &MessageDescriptor, name: &str) -> Option<FieldDescriptor> {
    message.get_field_by_name(name).or_else(|| message.get_field_by_json_name(name))
}
