//! YAML as people write it, of objects that are suggested: every reader takes it, and no name that came from elsewhere can end a line.

use std::fmt::Write as _;

/// A part of a document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Yaml {
    /// In this order.
    Map(Vec<(String, Self)>),
    List(Vec<Self>),
    /// In quotes where it would be read as something else.
    Text(String),
    Number(u64),
}

impl Yaml {
    pub fn map<const N: usize>(entries: [(&str, Self); N]) -> Self {
        Self::Map(entries.map(|(key, value)| (key.to_owned(), value)).into())
    }

    pub fn text(text: impl Into<String>) -> Self {
        Self::Text(text.into())
    }

    /// One document, ended by a newline.
    pub fn document(&self) -> String {
        let mut out = String::new();
        self.write(&mut out, 0);
        out
    }

    fn scalar(&self) -> Option<String> {
        match self {
            Self::Map(entries) if entries.is_empty() => Some("{}".to_owned()),
            Self::List(items) if items.is_empty() => Some("[]".to_owned()),
            Self::Text(text) => Some(scalar(text)),
            Self::Number(number) => Some(number.to_string()),
            Self::Map(_) | Self::List(_) => None,
        }
    }

    fn write(&self, out: &mut String, indent: usize) {
        let blanks = " ".repeat(indent);
        if let Some(text) = self.scalar() {
            let _ = writeln!(out, "{blanks}{text}");
            return;
        }
        match self {
            Self::Map(entries) => {
                for (key, value) in entries {
                    let key = scalar(key);
                    match value.scalar() {
                        Some(text) => {
                            let _ = writeln!(out, "{blanks}{key}: {text}");
                        }
                        None => {
                            let _ = writeln!(out, "{blanks}{key}:");
                            value.write(out, indent + 2);
                        }
                    }
                }
            }
            Self::List(items) => {
                for item in items {
                    let mut text = String::new();
                    item.write(&mut text, indent + 2);
                    // The first line begins with the dash.
                    let _ = write!(out, "{blanks}- {}", text.trim_start());
                }
            }
            Self::Text(_) | Self::Number(_) => {}
        }
    }
}

/// A name that came from elsewhere, safe to print: control characters and those that reorder text are spelled out, so that a process or a tenant can
/// neither move the cursor nor pose as another.
pub fn clean(name: &str) -> String {
    let mut safe = String::with_capacity(name.len());
    for character in name.chars() {
        if character.is_control() || reorders(character) {
            safe.extend(character.escape_unicode());
        } else {
            safe.push(character);
        }
    }
    safe
}

/// Bidirectional controls, zero-width characters and line separators.
fn reorders(character: char) -> bool {
    matches!(character, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}')
}

/// A comment line. Nothing in it can end the line.
pub fn comment(text: &mut String, indent: &str, note: &str) {
    let _ = writeln!(text, "{indent}# {}", clean(note));
}

/// Plain where every YAML reader takes it for text, else in quotes.
pub fn scalar(text: &str) -> String {
    const WORDS: [&str; 10] = ["true", "false", "yes", "no", "on", "off", "null", "y", "n", "nan"];
    let is_plain = text.bytes().next().is_some_and(|b| b.is_ascii_alphabetic())
        && text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_' | b'/'))
        && !WORDS.iter().any(|word| text.eq_ignore_ascii_case(word));
    if is_plain { text.to_owned() } else { quoted(text) }
}

/// In double quotes, as JSON has them: JSON's are YAML's.
pub fn quoted(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for character in text.chars() {
        match character {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            c if (c.is_control() || reorders(c)) && u32::from(c) <= 0xffff => {
                let _ = write!(out, "\\u{:04x}", u32::from(c));
            }
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_would_be_read_as_something_else_is_quoted() {
        for (text, wanted) in [
            ("web", "web"),
            ("app.kubernetes.io/name", "app.kubernetes.io/name"),
            ("True", "\"True\""),
            ("y", "\"y\""),
            ("1e5", "\"1e5\""),
            ("0x10", "\"0x10\""),
            ("123", "\"123\""),
            ("", "\"\""),
            ("a: b", "\"a: b\""),
            ("a\n\"b\\\u{202e}", "\"a\\u000a\\\"b\\\\\\u202e\""),
        ] {
            assert_eq!(scalar(text), wanted);
        }
    }

    #[test]
    fn lists_of_maps_are_indented_as_people_do() {
        let yaml = Yaml::map([
            ("name", Yaml::text("x")),
            (
                "items",
                Yaml::List(vec![
                    Yaml::map([("a", Yaml::Number(1)), ("b", Yaml::map([("c", Yaml::text("2"))]))]),
                    Yaml::text("plain"),
                    Yaml::Map(Vec::new()),
                ]),
            ),
        ]);
        assert_eq!(
            yaml.document(),
            "name: x\nitems:\n  - a: 1\n    b:\n      c: \"2\"\n  - plain\n  - {}\n"
        );
    }

    #[test]
    fn names_cannot_move_the_cursor_or_reorder_text() {
        assert_eq!(
            clean("red\x1b[2J\u{202e}\n\u{9b}1m"),
            "red\\u{1b}[2J\\u{202e}\\u{a}\\u{9b}1m"
        );
        assert_eq!(clean("größe/π-1"), "größe/π-1");
    }
}
