//! The table of the chart's values, made of the comments in values.yaml: a value without one is an error.

use std::fmt::Write as _;

use anyhow::{Result, bail};

const HEADER: &str = "\
# Values of the Helm chart

Made of `deploy/helm/partywall/values.yaml` by `cargo xtask deploy`; do not edit. `values.schema.json` beside it refuses what is not
listed here, by name.

| value | default | what |
|---|---|---|
";

/// One documented value.
#[derive(Debug, PartialEq, Eq)]
struct Value {
    /// `agent.spool.bytes`
    path: String,
    /// As written; empty for a default of several lines.
    default: String,
    what: String,
}

/// docs/values.md.
pub(crate) fn document(yaml: &str) -> Result<String> {
    let mut document = HEADER.to_owned();
    for Value { path, default, what } in values(yaml)? {
        let default = match default.as_str() {
            "" => "see values.yaml".to_owned(),
            default => format!("`{default}`"),
        };
        let what = what.replace('|', "\\|");
        writeln!(document, "| `{path}` | {default} | {what} |")?;
    }
    Ok(document)
}

fn values(yaml: &str) -> Result<Vec<Value>> {
    let mut found = Vec::new();
    // Keys that are open, each with its indentation.
    let mut open: Vec<(usize, String)> = Vec::new();
    let mut comment: Option<String> = None;
    // A documented value of several lines: all that is deeper is part of it.
    let mut within: Option<usize> = None;
    for (number, line) in yaml.lines().enumerate() {
        let text = line.trim_start();
        let depth = line.len() - text.len();
        if let Some(words) = text.strip_prefix('#') {
            if let Some(begun) = words.trim_start().strip_prefix("-- ") {
                comment = Some(begun.to_owned());
            } else if let Some(comment) = &mut comment {
                comment.push(' ');
                comment.push_str(words.trim());
            }
            continue;
        }
        if text.is_empty() {
            comment = None;
            continue;
        }
        if within.is_some_and(|of| depth > of) {
            continue;
        }
        within = None;
        let Some((key, default)) = text.split_once(':') else {
            bail!("values.yaml:{}: {text:?} is no key", number + 1);
        };
        let default = default.trim();
        open.retain(|(of, _)| *of < depth);
        open.push((depth, key.to_owned()));
        let path = open
            .iter()
            .map(|(_, key)| key.as_str())
            .collect::<Vec<_>>()
            .join(".");
        match (comment.take(), default) {
            (Some(what), default) => {
                within = default.is_empty().then_some(depth);
                let default = default.to_owned();
                found.push(Value { path, default, what });
            }
            (None, "") => {}
            (None, _) => bail!("values.yaml:{}: {path} has no `# --` comment", number + 1),
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::{Value, values};

    #[test]
    fn every_value_has_its_path_default_and_meaning() {
        let yaml = "# About.\n\na:\n  # -- First,\n  # and more\n  b: \"x\"\n  # -- A list\n  c:\n    - d: 1\ne:\n  f:\n    # -- Deep\n    g: []\n";
        let value = |path: &str, default: &str, what: &str| Value {
            path: path.to_owned(),
            default: default.to_owned(),
            what: what.to_owned(),
        };
        let expected = [
            value("a.b", "\"x\"", "First, and more"),
            value("a.c", "", "A list"),
            value("e.f.g", "[]", "Deep"),
        ];
        assert_eq!(values(yaml).expect("well-formed"), expected);
    }

    #[test]
    fn a_value_without_a_comment_is_named() {
        let error = values("a:\n  b: 1\n").expect_err("no comment").to_string();
        assert!(
            error.contains("values.yaml:2") && error.contains("a.b"),
            "{error}"
        );
    }
}
