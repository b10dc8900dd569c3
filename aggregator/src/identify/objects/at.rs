//! A place in an object: what stands there, and the way to it for errors.

use std::collections::BTreeMap;
use std::net::IpAddr;

use partywall_aggregator_core::identity::{Protocol, is_namespace_name};
use partywall_aggregator_core::quantity::QuantityError;

use super::super::yaml::{Value, Yaml, YamlError};

pub(super) fn error(at: &Yaml, what: &str, problem: &str) -> YamlError {
    YamlError {
        line: at.line,
        message: format!("{what}: {problem}"),
    }
}

/// A node within an object, and the way to it.
pub(super) struct At<'a> {
    /// "Pod blue/web"
    object: String,
    pub(super) yaml: &'a Yaml,
    pub(super) path: String,
}

impl<'a> At<'a> {
    pub(super) fn new(kind: &str, yaml: &'a Yaml) -> Result<Self, YamlError> {
        let metadata = yaml.get("metadata");
        let part = |key| {
            metadata
                .and_then(|m| m.get(key))
                .and_then(Yaml::text)
                .unwrap_or_default()
        };
        let (namespace, name) = (part("namespace"), part("name"));
        let object = match namespace {
            "" => format!("{kind} {name:?}"),
            namespace => format!("{kind} {:?}", format!("{namespace}/{name}")),
        };
        Ok(Self {
            object,
            yaml,
            path: String::new(),
        })
    }

    pub(super) fn wrong<T>(&self, problem: &str) -> Result<T, YamlError> {
        Err(self.wrong_here(problem))
    }

    pub(super) fn wrong_here(&self, problem: &str) -> YamlError {
        error(self.yaml, &format!("{} {}", self.object, self.path), problem)
    }

    pub(super) fn get(&self, key: &str) -> Option<Self> {
        let yaml = self.yaml.get(key)?;
        let path = if self.path.is_empty() {
            key.to_owned()
        } else {
            format!("{}.{key}", self.path)
        };
        Some(Self {
            object: self.object.clone(),
            yaml,
            path,
        })
    }

    /// A mapping, or nothing.
    pub(super) fn map(&self, key: &str) -> Result<Option<Self>, YamlError> {
        match self.get(key) {
            Some(at) if !matches!(at.yaml.value, Value::Map(_)) => {
                at.wrong(&format!("is {}, not a mapping", at.yaml.shown()))
            }
            at => Ok(at),
        }
    }

    /// The items of a list, or nothing.
    pub(super) fn list(&self, key: &str) -> Result<Vec<Self>, YamlError> {
        let Some(at) = self.get(key) else {
            return Ok(Vec::new());
        };
        let Value::List(items) = &at.yaml.value else {
            return at.wrong(&format!("is {}, not a list", at.yaml.shown()));
        };
        let item = |(i, yaml)| Self {
            object: self.object.clone(),
            yaml,
            path: format!("{}[{i}]", at.path),
        };
        Ok(items.iter().enumerate().map(item).collect())
    }

    pub(super) fn text(&self, key: &str) -> Result<Option<&'a str>, YamlError> {
        let Some(at) = self.get(key) else { return Ok(None) };
        match at.yaml.text() {
            Some(text) => Ok(Some(text)),
            None => at.wrong(&format!("is {}, not a text", at.yaml.shown())),
        }
    }

    /// A text that must be there and pass a check.
    pub(super) fn name(
        &self,
        key: &str,
        what: &str,
        check: impl Fn(&str) -> bool,
    ) -> Result<String, YamlError> {
        match (self.text(key)?, self.get(key)) {
            (Some(text), _) if check(text) => Ok(text.to_owned()),
            (Some(text), Some(at)) => at.wrong(&format!(
                "{:?} is no {what}",
                text.chars().take(80).collect::<String>()
            )),
            _ => self.wrong(&format!("{key} is absent")),
        }
    }

    pub(super) fn quantity<T>(
        &self,
        key: &str,
        parse: impl Fn(&str) -> Result<T, QuantityError>,
    ) -> Result<Option<T>, YamlError> {
        let Some(at) = self.get(key) else { return Ok(None) };
        let Some(text) = at.yaml.text() else {
            return at.wrong(&format!("is {}, not a quantity", at.yaml.shown()));
        };
        match parse(text) {
            Ok(value) => Ok(Some(value)),
            Err(problem) => at.wrong(&problem.to_string()),
        }
    }
}

/// Readers of what several kinds of objects have.
impl At<'_> {
    /// The entries of a mapping as texts; a label without a value has the empty one.
    pub(super) fn texts(&self, key: &str) -> Result<BTreeMap<String, String>, YamlError> {
        let Some(map) = self.map(key)? else {
            return Ok(BTreeMap::new());
        };
        let Value::Map(entries) = &map.yaml.value else {
            return Ok(BTreeMap::new());
        };
        let entry = |(key, value): &(String, Yaml)| match &value.value {
            Value::Null => Ok((key.clone(), String::new())),
            _ => Ok((key.clone(), map.text(key)?.unwrap_or_default().to_owned())),
        };
        entries.iter().map(entry).collect()
    }

    /// An address, or nothing.
    pub(super) fn address(&self, key: &str) -> Result<Option<IpAddr>, YamlError> {
        let Some(text) = self.text(key)? else {
            return Ok(None);
        };
        match text.parse::<IpAddr>() {
            Ok(address) => Ok(Some(address)),
            Err(_) => self.wrong_at(key, &format!("{text:?} is no IP address")),
        }
    }

    /// A list of texts that are addresses.
    pub(super) fn addresses(&self, key: &str) -> Result<Vec<IpAddr>, YamlError> {
        let mut out = Vec::new();
        for item in self.list(key)? {
            match item.yaml.text().map(|text| (text, text.parse::<IpAddr>())) {
                Some((_, Ok(address))) => out.push(address),
                _ => return item.wrong(&format!("{} is no IP address", item.yaml.shown())),
            }
        }
        Ok(out)
    }

    /// A port from 1 to 65535, or nothing.
    pub(super) fn port(&self, key: &str) -> Result<Option<u16>, YamlError> {
        let Some(text) = self.text(key)? else {
            return Ok(None);
        };
        match partywall_aggregator_core::fence::number(text) {
            Some(port) => Ok(Some(port)),
            None => self.wrong_at(key, &format!("{text:?} is no port, from 1 to 65535")),
        }
    }

    /// TCP where none is named, as the API server puts it.
    pub(super) fn protocol(&self) -> Result<Protocol, YamlError> {
        let Some(text) = self.text("protocol")? else {
            return Ok(Protocol::Tcp);
        };
        match Protocol::from_object(text) {
            Some(protocol) => Ok(protocol),
            None => self.wrong_at("protocol", &format!("{text:?} is none of TCP, UDP, SCTP")),
        }
    }

    /// What is wrong with the value under `key`.
    pub(super) fn wrong_at<T>(&self, key: &str, problem: &str) -> Result<T, YamlError> {
        self.get(key).as_ref().unwrap_or(self).wrong(problem)
    }
}

pub(super) fn metadata<'a>(object: &At<'a>) -> Result<At<'a>, YamlError> {
    match object.map("metadata")? {
        Some(metadata) => Ok(metadata),
        None => object.wrong("metadata is absent"),
    }
}

pub(super) fn namespace_of(metadata: &At<'_>) -> Result<String, YamlError> {
    match metadata.get("namespace") {
        // As the API server would put it.
        None => Ok("default".to_owned()),
        Some(_) => metadata.name("namespace", "namespace name", is_namespace_name),
    }
}
