//! A denial as a flat list, for sinks that know no objects in objects.

use serde_json::Value;

use crate::Denial;

/// What is known of it, each with its path in the JSON object: `workload.name`. What is null is left out.
pub(super) fn flat(denial: &Denial) -> Vec<(String, Value)> {
    let mut fields = Vec::with_capacity(32);
    let object = serde_json::to_value(denial)
        .unwrap_or_else(|error| unreachable!("only strings and numbers: {error}"));
    flatten(String::new(), object, &mut fields);
    fields
}

fn flatten(path: String, value: Value, fields: &mut Vec<(String, Value)>) {
    match value {
        Value::Null => {}
        Value::Object(object) => {
            for (key, value) in object {
                let path = if path.is_empty() { key } else { format!("{path}.{key}") };
                flatten(path, value, fields);
            }
        }
        value => fields.push((path, value)),
    }
}

/// A value where all are text. A list is one text with commas.
pub(super) fn text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Array(values) => values.iter().map(text).collect::<Vec<_>>().join(","),
        value => value.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sinks::testing::denial;

    #[test]
    fn what_is_known_has_its_path_and_what_is_not_is_left_out() {
        let fields = flat(&denial());
        let value =
            |wanted: &str| fields.iter().find(|(path, _)| path == wanted).map(|(_, value)| text(value));
        assert_eq!(value("workload.name").as_deref(), Some("ci"));
        assert_eq!(value("peer.port").as_deref(), Some("5432"));
        assert_eq!(value("nearest_rule.differs").as_deref(), Some("from,ports"));
        assert_eq!(value("time").as_deref(), Some("2026-11-21T20:15:03.123456Z"));
        assert!(fields.iter().all(|(path, _)| !path.starts_with("rule")), "{fields:?}");
    }
}
