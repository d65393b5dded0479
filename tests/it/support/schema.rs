//! The JSON Schema that `msb-sync schema output` prints, and whether a document or an event is what it says.
//!
//! All that any test reads of `--json` goes through here: a key that the schema does not know fails the test. Only the
//! keywords that the schema uses are understood, any other one ends the test; Debian's validator says the same of the
//! same documents in `tests/it/json.rs`.

use std::collections::BTreeMap;
use std::process::Command;
use std::sync::OnceLock;

use regex::Regex;
use serde_json::Value;

/// The schema, read once.
pub(crate) struct Schema {
    root: Value,
    patterns: BTreeMap<String, Regex>,
}

/// The schema of the binary under test.
pub(crate) fn output() -> &'static Schema {
    static SCHEMA: OnceLock<Schema> = OnceLock::new();
    SCHEMA.get_or_init(|| {
        let printed =
            Command::new(env!("CARGO_BIN_EXE_msb-sync")).args(["schema", "output"]).output().unwrap();
        let root: Value = serde_json::from_slice(&printed.stdout).expect("the schema is JSON");
        let mut patterns = BTreeMap::new();
        collect_patterns(&root, &mut patterns);
        Schema { root, patterns }
    })
}

fn collect_patterns(value: &Value, patterns: &mut BTreeMap<String, Regex>) {
    if let Some(pattern) = value.get("pattern").and_then(Value::as_str) {
        patterns.entry(pattern.to_owned()).or_insert_with(|| Regex::new(pattern).unwrap());
    }
    match value {
        Value::Object(fields) => fields.values().for_each(|value| collect_patterns(value, patterns)),
        Value::Array(values) => values.iter().for_each(|value| collect_patterns(value, patterns)),
        _ => {}
    }
}

impl Schema {
    /// The schema itself.
    pub(crate) fn root(&self) -> &Value {
        &self.root
    }

    /// Fails unless `value` is one of the documents or events.
    #[track_caller]
    pub(crate) fn assert(&self, value: &Value) {
        // The message about one kind of event says more than one about all kinds.
        let event = value.get("event").and_then(Value::as_str).map(|event| format!("{event}-event"));
        let known = event.filter(|name| self.root["$defs"].get(name).is_some());
        match known {
            Some(name) => self.assert_as(&name, value),
            None => self.check(&self.root, value, "").unwrap_or_else(|error| panic!("{error}\n{value:#}")),
        }
    }

    /// Fails unless `value` is what the schema calls `name`.
    #[track_caller]
    pub(crate) fn assert_as(&self, name: &str, value: &Value) {
        let schema = self.root["$defs"].get(name).unwrap_or_else(|| panic!("the schema has no {name}"));
        self.check(schema, value, "").unwrap_or_else(|error| panic!("no {name}: {error}\n{value:#}"));
    }

    /// The names among the definitions that `value` fits.
    pub(crate) fn names_of(&self, value: &Value) -> Vec<&str> {
        let all = self.root["anyOf"].as_array().unwrap().iter();
        let all = all.chain(self.root["$defs"]["event"]["anyOf"].as_array().unwrap());
        let names = all.filter_map(|one| one["$ref"].as_str()?.strip_prefix("#/$defs/"));
        names
            .filter(|name| *name != "event" && self.check(&self.root["$defs"][name], value, "").is_ok())
            .collect()
    }

    fn check(&self, schema: &Value, value: &Value, at: &str) -> Result<(), String> {
        let rules = schema.as_object().expect("a schema is an object");
        for (keyword, rule) in rules {
            let holds = match keyword.as_str() {
                "$schema" | "$id" | "$defs" | "title" | "description" | "additionalProperties" => true,
                "$ref" => {
                    let path = rule.as_str().and_then(|path| path.strip_prefix('#')).unwrap();
                    self.check(self.root.pointer(path).expect("a definition"), value, at)?;
                    true
                }
                "anyOf" => self.any(rule.as_array().unwrap(), value, at)?,
                "type" => types(rule).any(|name| is_of_type(value, name)),
                "const" => value == rule,
                "enum" => rule.as_array().unwrap().contains(value),
                "minimum" => value.as_u64().is_none_or(|number| number >= rule.as_u64().unwrap()),
                "pattern" => {
                    value.as_str().is_none_or(|text| self.patterns[rule.as_str().unwrap()].is_match(text))
                }
                "format" => {
                    assert_eq!(rule, "date-time");
                    value.as_str().is_none_or(|text| text.parse::<jiff::Timestamp>().is_ok())
                }
                "required" => match value.as_object() {
                    Some(fields) => {
                        let missing = rule.as_array().unwrap().iter().map(|key| key.as_str().unwrap());
                        let missing: Vec<&str> = missing.filter(|key| !fields.contains_key(*key)).collect();
                        if !missing.is_empty() {
                            return Err(format!("{at}/ lacks {missing:?}"));
                        }
                        true
                    }
                    None => true,
                },
                "properties" => {
                    self.properties(rules, value, at)?;
                    true
                }
                "items" => {
                    for (index, item) in value.as_array().into_iter().flatten().enumerate() {
                        self.check(rule, item, &format!("{at}/{index}"))?;
                    }
                    true
                }
                other => panic!("the schema uses {other:?}, which the tests do not understand"),
            };
            if !holds {
                return Err(format!("{at}/ is {value}, against {keyword} {rule}"));
            }
        }
        if !rules.contains_key("properties") {
            self.properties(rules, value, at)?;
        }
        Ok(())
    }

    /// Each property by its schema; others by `additionalProperties`.
    fn properties(
        &self,
        rules: &serde_json::Map<String, Value>,
        value: &Value,
        at: &str,
    ) -> Result<(), String> {
        for (key, field) in value.as_object().into_iter().flatten() {
            let here = format!("{at}/{key}");
            match (
                rules.get("properties").and_then(|known| known.get(key)),
                rules.get("additionalProperties"),
            ) {
                (Some(schema), _) | (None, Some(schema @ Value::Object(_))) => {
                    self.check(schema, field, &here)?;
                }
                (None, Some(Value::Bool(false))) => return Err(format!("{here} is unknown to the schema")),
                (None, _) => {}
            }
        }
        Ok(())
    }

    fn any(&self, schemas: &[Value], value: &Value, at: &str) -> Result<bool, String> {
        let mut errors = Vec::new();
        for schema in schemas {
            match self.check(schema, value, at) {
                Ok(()) => return Ok(true),
                Err(error) => errors.push(error),
            }
        }
        Err(format!("{at}/ is none of these:\n  {}", errors.join("\n  ")))
    }
}

/// The names that `type` gives.
fn types(rule: &Value) -> impl Iterator<Item = &str> {
    let many = rule.as_array().into_iter().flatten().filter_map(Value::as_str);
    rule.as_str().into_iter().chain(many)
}

fn is_of_type(value: &Value, name: &str) -> bool {
    match name {
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "boolean" => value.is_boolean(),
        "integer" => value.is_i64() || value.is_u64(),
        "null" => value.is_null(),
        other => panic!("the schema uses the type {other:?}"),
    }
}
