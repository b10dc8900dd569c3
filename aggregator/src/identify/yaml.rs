//! YAML (and JSON, which is YAML) as a tree that knows its lines, so that an error about a value can name file, line and field.

use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_saphyr::Spanned;
use serde_saphyr::options::{DuplicateKeyPolicy, NonFiniteFloatPolicy};

/// One node.
#[derive(Clone, Debug, PartialEq)]
pub struct Yaml {
    /// From 1.
    pub line: u64,
    pub value: Value,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    Null,
    /// Any scalar, as text.
    Text(String),
    Map(Vec<(String, Yaml)>),
    List(Vec<Yaml>),
}

/// What is wrong with a file.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {message}")]
pub struct YamlError {
    pub line: u64,
    pub message: String,
}

/// Large parts of what `kubectl get -o yaml` writes that nobody here looks at: emptied while reading. Scalars of that name stay:
/// `env` is what many label their pods with.
const SKIPPED: &[&str] = &[
    "managedFields",
    "conditions",
    "ephemeralContainerStatuses",
    "env",
    "envFrom",
    "volumes",
    "volumeMounts",
    "affinity",
    "data",
    "binaryData",
];

/// Every document of a text.
///
/// # Errors
/// The text is no YAML, has a key twice, or goes beyond the limits.
pub fn read(text: &str) -> Result<Vec<Yaml>, YamlError> {
    // Ten thousand pods as kubectl writes them are some 100 MB and 10 million nodes.
    let budget = serde_saphyr::budget! {
        max_events: 60_000_000,
        max_nodes: 30_000_000,
        max_documents: 100_000,
        max_depth: 64,
        max_total_scalar_bytes: 512 * 1024 * 1024,
        max_aliases: 1_000,
    };
    let options = serde_saphyr::options! {
        budget: budget,
        with_snippet: false,
        duplicate_keys: DuplicateKeyPolicy::Error,
        non_finite_float_policy: NonFiniteFloatPolicy::AsString,
        underscored_numbers_as_strings: true,
        leading_zero_numbers_as_strings: true,
        strict_booleans: true,
    };
    let documents: Result<Vec<Spanned<Value>>, _> = serde_saphyr::from_multiple_with_options(text, options);
    match documents {
        Ok(documents) => Ok(documents.into_iter().map(Yaml::from).collect()),
        Err(error) => {
            let message = error.render_with_formatter(&serde_saphyr::UserMessageFormatter);
            let message = message
                .lines()
                .next()
                .unwrap_or_default()
                .split(" at line ")
                .next()
                .unwrap_or_default();
            let line = error.location().map_or(0, |l| l.line());
            let typed = usize::try_from(line)
                .ok()
                .and_then(|n| text.lines().nth(n.checked_sub(1)?))
                .map_or("", str::trim);
            let typed: String = typed.chars().take(120).filter(|c| !c.is_control()).collect();
            Err(YamlError {
                line,
                message: format!("{} (`{typed}`)", message.trim_start_matches("error: ")),
            })
        }
    }
}

impl Yaml {
    /// The value under `key`; `None` where this is no mapping, the key is absent, or its value is null.
    pub fn get(&self, key: &str) -> Option<&Self> {
        let Value::Map(entries) = &self.value else {
            return None;
        };
        entries
            .iter()
            .find(|(k, _)| k == key)
            .map(|(_, v)| v)
            .filter(|v| v.value != Value::Null)
    }

    pub fn text(&self) -> Option<&str> {
        match &self.value {
            Value::Text(text) => Some(text),
            _ => None,
        }
    }

    /// What stands here, for an error.
    pub fn shown(&self) -> String {
        match &self.value {
            Value::Null => "null".to_owned(),
            Value::Text(text) => format!("{:?}", text.chars().take(80).collect::<String>()),
            Value::Map(_) => "a mapping".to_owned(),
            Value::List(_) => "a list".to_owned(),
        }
    }
}

/// JSON that has no lines: what an API server answers. What is large and not looked at is emptied here too.
impl From<serde_json::Value> for Yaml {
    fn from(json: serde_json::Value) -> Self {
        use serde_json::Value as Json;
        let value = match json {
            Json::Null => Value::Null,
            Json::Bool(value) => Value::Text(value.to_string()),
            Json::Number(number) => Value::Text(match number.as_f64().filter(|_| number.is_f64()) {
                Some(float) => format!("{float:?}"),
                None => number.to_string(),
            }),
            Json::String(text) => Value::Text(text),
            Json::Array(items) => Value::List(items.into_iter().map(Self::from).collect()),
            Json::Object(entries) => {
                let entry = |(key, value): (String, Json)| {
                    let value = match value {
                        Json::Array(_) if SKIPPED.contains(&key.as_str()) => Json::Array(Vec::new()),
                        Json::Object(_) if SKIPPED.contains(&key.as_str()) => {
                            Json::Object(serde_json::Map::new())
                        }
                        value => value,
                    };
                    (key, Self::from(value))
                };
                Value::Map(entries.into_iter().map(entry).collect())
            }
        };
        Self { line: 0, value }
    }
}

impl From<Spanned<Value>> for Yaml {
    fn from(spanned: Spanned<Value>) -> Self {
        Self {
            line: spanned.referenced.line(),
            value: spanned.value,
        }
    }
}

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ValueVisitor { hollow: false })
    }
}

struct ValueVisitor {
    /// Maps and lists come out empty.
    hollow: bool,
}

impl<'de> Visitor<'de> for ValueVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_none<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Text(value.to_string()))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::Text(value.to_string()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(Value::Text(value.to_string()))
    }

    fn visit_i128<E>(self, value: i128) -> Result<Value, E> {
        Ok(Value::Text(value.to_string()))
    }

    fn visit_u128<E>(self, value: u128) -> Result<Value, E> {
        Ok(Value::Text(value.to_string()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        // The shortest text that reads back as the same number; large ones with an exponent.
        Ok(Value::Text(format!("{value:?}")))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::Text(value.to_owned()))
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(Value::Text(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        if self.hollow {
            while seq.next_element::<IgnoredAny>()?.is_some() {}
            return Ok(Value::List(list));
        }
        while let Some(item) = seq.next_element::<Spanned<Value>>()? {
            list.push(item.into());
        }
        Ok(Value::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let mut entries = Vec::new();
        if self.hollow {
            while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
            return Ok(Value::Map(entries));
        }
        while let Some(key) = map.next_key::<String>()? {
            if SKIPPED.contains(&key.as_str()) {
                let Spanned {
                    value: Hollow(value),
                    referenced,
                    ..
                } = map.next_value::<Spanned<Hollow>>()?;
                entries.push((
                    key,
                    Yaml {
                        line: referenced.line(),
                        value,
                    },
                ));
            } else {
                entries.push((key, map.next_value::<Spanned<Value>>()?.into()));
            }
        }
        Ok(Value::Map(entries))
    }
}

/// A value that loses what is inside.
struct Hollow(Value);

impl<'de> Deserialize<'de> for Hollow {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer
            .deserialize_any(ValueVisitor { hollow: true })
            .map(Self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_label_may_bear_the_name_of_what_is_skipped() {
        let pod = "metadata: {labels: {env: prod, data: 1}}\nspec: {env: [{name: a}], data: {k: [v]}, volumes: [{a: b}]}\n";
        let documents = read(pod).unwrap();
        let labels = documents[0]
            .get("metadata")
            .and_then(|m| m.get("labels"))
            .unwrap();
        assert_eq!(labels.get("env").and_then(Yaml::text), Some("prod"));
        assert_eq!(labels.get("data").and_then(Yaml::text), Some("1"));
        let spec = documents[0].get("spec").unwrap();
        assert_eq!(spec.get("env").map(|e| &e.value), Some(&Value::List(vec![])));
        assert_eq!(spec.get("data").map(|e| &e.value), Some(&Value::Map(vec![])));
    }

    #[test]
    fn lines_are_the_files_own_over_documents_and_lists() {
        let text = "a: 1\n---\n# a comment\nb:\n  - c: 500m\n  - {c: 0.5}\n---\n---\nd: ~\n";
        let documents = read(text).unwrap();
        let b = documents[1].get("b").unwrap();
        let Value::List(items) = &b.value else {
            panic!("{b:?}")
        };
        let c: Vec<_> = items
            .iter()
            .map(|i| i.get("c").unwrap())
            .map(|c| (c.line, c.text().unwrap()))
            .collect();
        assert_eq!(c, [(5, "500m"), (6, "0.5")]);
        assert_eq!(documents.last().unwrap().get("d"), None);
    }

    #[test]
    fn scalars_keep_their_text() {
        for (typed, text) in [
            ("1", "1"),
            ("\"1\"", "1"),
            ("1.5", "1.5"),
            ("1e3", "1000.0"),
            ("0755", "0755"),
            ("1_000", "1_000"),
            (".nan", ".nan"),
            ("yes", "yes"),
            ("true", "true"),
            ("64Mi", "64Mi"),
            ("9223372036854775808", "9223372036854775808"),
            ("-1", "-1"),
        ] {
            let documents = read(&format!("a: {typed}\n")).unwrap();
            assert_eq!(documents[0].get("a").unwrap().text(), Some(text), "{typed}");
        }
    }

    #[test]
    fn what_is_no_yaml_is_named_with_its_line() {
        for (text, line, needle) in [
            ("a: 1\nb: [1\n", 2, "b: [1"),
            ("a: 1\na: 2\n", 2, "a: 2"),
            ("ok: 1\n---\nx:\n  y: 1\n  y: 2\n", 5, "y: 2"),
            ("a: \"\n", 2, ""),
            ("a: b: c\n", 1, "a: b: c"),
        ] {
            let error = read(text).expect_err(text);
            assert_eq!(error.line, line, "{text}\n{error}");
            assert!(error.message.contains(needle), "{error}");
        }
        assert!(read("a: &a [x, x]\nb: [*a, *a]\n").is_ok());
        let mut bomb = "a0: &a0 [x, x]\n".to_owned();
        for i in 1..40 {
            let (b, a) = (i, i - 1);
            bomb += &format!("a{b}: &a{b} [*a{a}, *a{a}]\n");
        }
        assert!(read(&bomb).is_err());
        assert!(read(&"[".repeat(10_000)).is_err());
        assert!(read(&format!("{}x", "- ".repeat(200))).is_err());
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "\\PC{0,200}") {
            let _ = read(&text);
        }

        #[test]
        fn json_is_yaml(keys in prop::collection::btree_map("[a-z]{1,8}", "[a-zA-Z0-9 ]{0,12}", 0..6)) {
            let json = serde_json::to_string(&keys).unwrap();
            let documents = read(&json).unwrap();
            for (key, value) in &keys {
                prop_assert_eq!(documents[0].get(key).unwrap().text(), Some(value.as_str()));
            }
        }
    }
}
