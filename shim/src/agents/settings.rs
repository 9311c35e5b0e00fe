//! What is set in an agent's JSON files before its first start.

use serde_json::{Map, Value};

/// Puts `more` into `object`: objects are merged key by key, everything else is replaced.
pub(crate) fn merge(object: &mut Value, more: &Value) {
    match (object, more) {
        (Value::Object(object), Value::Object(more)) => {
            for (key, value) in more {
                merge(object.entry(key.clone()).or_insert(Value::Null), value);
            }
        }
        (object, more) => object.clone_from(more),
    }
}

/// Of an object, these keys alone.
pub(crate) fn only(object: &Map<String, Value>, keys: &[String]) -> Map<String, Value> {
    object
        .iter()
        .filter(|(key, _)| keys.contains(key))
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn objects_are_merged_and_the_rest_is_replaced() {
        let mut object = json!({ "a": { "b": 1, "c": [1] }, "d": 1 });
        merge(&mut object, &json!({ "a": { "c": [2], "e": null }, "d": { "f": 1 } }));
        assert_eq!(object, json!({ "a": { "b": 1, "c": [2], "e": null }, "d": { "f": 1 } }));
        let mut nothing = Value::Null;
        merge(&mut nothing, &json!({ "a": 1 }));
        assert_eq!(nothing, json!({ "a": 1 }));
    }

    #[test]
    fn of_a_file_only_what_is_listed_stays() {
        let object = json!({ "theme": "dark", "projects": { "/secret": {} } });
        let kept = only(object.as_object().unwrap(), &["theme".to_owned(), "absent".to_owned()]);
        assert_eq!(Value::Object(kept), json!({ "theme": "dark" }));
    }
}
