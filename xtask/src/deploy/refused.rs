//! What an API server refuses and the schemas of its objects do not say: names, and parts of a pod that have to fit each other.

use std::collections::BTreeSet;

use anyhow::{Context, Result, anyhow, ensure};
use serde_json::Value;

/// Judges a rendered chart.
pub(crate) fn judge(objects: &str) -> Result<()> {
    let objects: Vec<Value> =
        serde_saphyr::from_multiple(objects).map_err(|error| anyhow!("no YAML: {error}"))?;
    let mut seen = BTreeSet::new();
    for object in &objects {
        let kind = text(object, "/kind")?;
        let name = text(object, "/metadata/name").with_context(|| kind.to_owned())?;
        ensure!(
            seen.insert((
                kind,
                object.pointer("/metadata/namespace").map(Value::to_string),
                name
            )),
            "{kind} {name:?} is there twice"
        );
        one(object, kind, name).with_context(|| format!("{kind} {name:?}"))?;
    }
    Ok(())
}

fn one(object: &Value, kind: &str, name: &str) -> Result<()> {
    if kind == "Service" {
        ensure!(
            is_label(name) && name.starts_with(|first: char| first.is_ascii_lowercase()),
            "no name of a Service: a letter first, then at most 62 of a-z, 0-9 and -"
        );
    } else {
        ensure!(
            name.len() <= 253 && name.split('.').all(is_part),
            "no name of an object: at most 253 of a-z, 0-9, - and ."
        );
    }
    for path in ["/metadata/labels", "/spec/template/metadata/labels"] {
        let labels = object.pointer(path).and_then(Value::as_object);
        for (key, value) in labels.into_iter().flatten() {
            let value = value.as_str().unwrap_or_default();
            ensure!(
                is_label_value(value),
                "label {key} {value:?}: no value of a label"
            );
        }
    }
    if let Some(template) = object.pointer("/spec/template") {
        let labels = template.pointer("/metadata/labels").and_then(Value::as_object);
        let selector = object
            .pointer("/spec/selector/matchLabels")
            .and_then(Value::as_object);
        let (labels, selector) = labels
            .zip(selector)
            .context("no labels, or nothing that selects them")?;
        for (key, value) in selector {
            ensure!(
                labels.get(key) == Some(value),
                "selects {key} {value}, and its pods have another"
            );
        }
        pod(template.pointer("/spec").context("no pod")?)?;
    }
    Ok(())
}

fn pod(spec: &Value) -> Result<()> {
    let mut volumes = BTreeSet::new();
    for volume in list(spec, "volumes") {
        let name = text(volume, "/name")?;
        ensure!(
            is_label(name),
            "volume {name:?}: no name of a volume: at most 63 of a-z, 0-9 and -"
        );
        ensure!(volumes.insert(name), "volume {name:?} is there twice");
    }
    let mut mounted = BTreeSet::new();
    for container in list(spec, "containers") {
        let mut paths = BTreeSet::new();
        for mount in list(container, "volumeMounts") {
            let (name, path) = (text(mount, "/name")?, text(mount, "/mountPath")?);
            ensure!(volumes.contains(name), "{path}: there is no volume {name:?}");
            ensure!(paths.insert(path), "two volumes at {path}");
            mounted.insert(name);
        }
    }
    let idle: Vec<_> = volumes.difference(&mounted).collect();
    ensure!(idle.is_empty(), "mounted nowhere: {idle:?}");
    Ok(())
}

fn list<'a>(of: &'a Value, key: &str) -> &'a [Value] {
    of.get(key).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

fn text<'a>(of: &'a Value, pointer: &str) -> Result<&'a str> {
    of.pointer(pointer)
        .and_then(Value::as_str)
        .with_context(|| format!("no {pointer}"))
}

/// RFC 1123 label.
fn is_label(name: &str) -> bool {
    name.len() <= 63 && is_part(name)
}

/// A part of an RFC 1123 subdomain, which has no length of its own.
fn is_part(name: &str) -> bool {
    let plain = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let bytes = name.as_bytes();
    bytes.first().is_some_and(plain)
        && bytes.last().is_some_and(plain)
        && bytes.iter().all(|byte| plain(byte) || *byte == b'-')
}

fn is_label_value(value: &str) -> bool {
    let bytes = value.as_bytes();
    let ends = [bytes.first(), bytes.last()];
    value.len() <= 63
        && ends.iter().all(|end| end.is_none_or(u8::is_ascii_alphanumeric))
        && bytes
            .iter()
            .all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(byte))
}

#[cfg(test)]
mod tests {
    use super::judge;

    const WHOLE: &str = "
kind: Deployment
metadata: {name: a.b, namespace: n, labels: {app: a}}
spec:
  selector: {matchLabels: {app: a}}
  template:
    metadata: {labels: {app: a}}
    spec:
      containers:
        - volumeMounts: [{name: v-0, mountPath: /v}, {name: w, mountPath: /w}]
      volumes: [{name: v-0}, {name: w}]
---
kind: Service
metadata: {name: s, namespace: n}
";

    #[test]
    fn what_an_api_server_refuses_is_named() {
        judge(WHOLE).expect("nothing is wrong with it");
        let long = "v".repeat(64);
        let name = format!("name: {}", "n".repeat(254));
        let label = format!("labels: {{app: {long}}}}}");
        for (old, new, named) in [
            ("name: a.b", "name: A", "\"A\""),
            ("name: a.b", "name: a..b", "\"a..b\""),
            ("name: a.b", &*name, "253"),
            ("name: s", "name: 1s", "\"1s\""),
            ("labels: {app: a}}\nspec", "labels: {app: a b}}\nspec", "\"a b\""),
            (
                "metadata: {labels: {app: a}}",
                &*format!("metadata: {{{label}"),
                &*long,
            ),
            (
                "metadata: {labels: {app: a}}",
                "metadata: {labels: {app: b}}",
                "selects app",
            ),
            ("v-0", &*long, &*long),
            ("v-0", "v.0", "\"v.0\""),
            (
                "volumes: [{name: v-0}",
                "volumes: [{name: x}",
                "no volume \"v-0\"",
            ),
            ("{name: w}]", "{name: w}, {name: x}]", "mounted nowhere: [\"x\"]"),
            ("{name: w}]", "{name: v-0}]", "\"v-0\" is there twice"),
            ("/w}", "/v}", "two volumes at /v"),
            (
                "kind: Service\nmetadata: {name: s",
                "kind: Deployment\nmetadata: {name: a.b",
                "twice",
            ),
        ] {
            let wrong = WHOLE.replace(old, new);
            assert_ne!(wrong, WHOLE, "{old}");
            let error = judge(&wrong).expect_err(new);
            assert!(format!("{error:#}").contains(named), "{new}: {error:#}");
        }
    }
}
