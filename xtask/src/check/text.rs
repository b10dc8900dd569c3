//! Left-overs that no compiler minds, found line by line in everything that git knows or would add.

use std::{fs, process::Command};

use anyhow::{Context, Result, bail};

use crate::{paths, run, stage::Outcome};

/// Written in two halves, so that this file does not find itself.
const LEFT_OVERS: [(&str, &str); 8] = [
    (concat!("<<<<", "<<< "), "a conflict marker"),
    (concat!(">>>>", ">>> "), "a conflict marker"),
    (concat!("FIX", "ME"), "unfinished work: finish it, or file it"),
    (concat!("TO", "DO"), "unfinished work: finish it, or file it"),
    (concat!("XX", "X:"), "unfinished work: finish it, or file it"),
    (concat!("#[ign", "ore"), "a test that does not run"),
    (concat!("/home", "/"), "a path of somebody's machine"),
    (concat!("/wor", "k/"), "a path of somebody's machine"),
];

/// Text whose form is somebody else's.
const NOT_OURS: [&str; 4] = [
    "Cargo.lock",
    "LICENSE-APACHE",
    "agent-ebpf/LICENSE-GPL2",
    "proto/src/generated/",
];

pub(crate) fn check() -> Result<Outcome> {
    let mut wrong = Vec::new();
    let listed = run::captured(
        Command::new("git")
            .args(["ls-files", "--cached", "--others", "--exclude-standard"])
            .current_dir(paths::root()),
    )?;
    for file in listed
        .lines()
        .filter(|file| !NOT_OURS.iter().any(|other| file.starts_with(other)))
    {
        // A file that is deleted and not yet committed is listed too.
        let Ok(bytes) = fs::read(paths::root().join(file)) else {
            continue;
        };
        let Ok(text) = String::from_utf8(bytes) else {
            continue;
        };
        wrong.extend(problems(file, &text));
        if file.ends_with("Cargo.toml") && file != "Cargo.toml" {
            let manifest: toml::Value =
                toml::from_str(&text).with_context(|| format!("cannot parse {file}"))?;
            let inherits = manifest.get("lints").and_then(|lints| lints.get("workspace"));
            if inherits.and_then(toml::Value::as_bool) != Some(true) {
                wrong.push(format!("{file}: no `[lints] workspace = true`"));
            }
        }
    }
    if !wrong.is_empty() {
        bail!("{} left-overs\n  {}", wrong.len(), wrong.join("\n  "));
    }
    Ok(Outcome::Passed)
}

fn problems(file: &str, text: &str) -> Vec<String> {
    let mut found = Vec::new();
    for (number, line) in (1..).zip(text.lines()) {
        if line.ends_with([' ', '\t', '\r']) {
            found.push(format!("{file}:{number}: white space at the end of the line"));
        }
        let bad = LEFT_OVERS.iter().filter(|(word, _)| line.contains(word));
        found.extend(bad.map(|(word, what)| format!("{file}:{number}: `{word}`, {what}")));
    }
    if !text.is_empty() && !text.ends_with('\n') {
        found.push(format!("{file}: the last line does not end"));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::problems;

    #[test]
    fn finds_each_left_over_with_its_line() {
        let text = format!("fine\n// {}ME later\ntail \nopen", "FIX");
        let found = problems("a.rs", &text);
        assert_eq!(found.len(), 3, "{found:?}");
        assert!(found[0].starts_with(concat!("a.rs:2: `FIX", "ME`")), "{found:?}");
        assert!(found[1].starts_with("a.rs:3: white space"), "{found:?}");
        assert!(found[2].ends_with("does not end"), "{found:?}");
    }

    #[test]
    fn clean_text_is_clean() {
        assert!(problems("a.rs", "fn main() {}\n").is_empty());
        assert!(problems("a.rs", "").is_empty());
    }
}
