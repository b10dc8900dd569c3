//! The one way to stdout: errors come back instead of panicking, so that a closed pipe ends the program quietly.

use std::io::{self, IsTerminal, Write};

use serde::Serialize;

/// Writes `text` and flushes it.
pub(crate) fn print(text: &str) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(text.as_bytes())?;
    stdout.flush()
}

/// A line on stderr beside what goes on on stdout. Nothing depends on whether somebody reads it.
pub(crate) fn aside(text: &str) {
    aside_plain(&format!("partywall: {text}\n"));
}

/// The same, `text` as it is.
pub(crate) fn aside_plain(text: &str) {
    let _unread = io::stderr().write_all(text.as_bytes());
}

/// One JSON document, indented for people, ended by a newline.
pub(crate) fn print_json<T: Serialize>(document: &T) -> anyhow::Result<()> {
    let mut text = serde_json::to_string_pretty(document)?;
    text.push('\n');
    Ok(print(&text)?)
}

/// One JSON document on one line, for streams.
pub(crate) fn print_json_line<T: Serialize>(document: &T) -> anyhow::Result<()> {
    let mut text = serde_json::to_string(document)?;
    text.push('\n');
    Ok(print(&text)?)
}

/// Whether to colour. Words and figures say everything; colour only helps to find them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Paint {
    Never,
    Ansi,
}

impl Paint {
    /// Colour for a terminal that can, unless the user said otherwise (<https://no-color.org>).
    pub(crate) fn for_stdout() -> Self {
        Self::decide(io::stdout().is_terminal(), |name| std::env::var(name).ok())
    }

    fn decide(terminal: bool, variable: impl Fn(&str) -> Option<String>) -> Self {
        let refused = variable("NO_COLOR").is_some_and(|value| !value.is_empty());
        let dumb = variable("TERM").is_some_and(|value| value == "dumb");
        if terminal && !refused && !dumb {
            Self::Ansi
        } else {
            Self::Never
        }
    }

    /// `text` in `tone`.
    pub(crate) fn tint(self, tone: Tone, text: &str) -> String {
        let code = match (self, tone) {
            (Self::Never, _) | (_, Tone::Plain) => return text.to_owned(),
            (Self::Ansi, Tone::Strong) => "1",
            (Self::Ansi, Tone::Dim) => "2",
            (Self::Ansi, Tone::Good) => "32",
            (Self::Ansi, Tone::Warn) => "33",
            (Self::Ansi, Tone::Bad) => "1;31",
        };
        format!("\x1b[{code}m{text}\x1b[0m")
    }
}

/// What a figure means to its reader.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Tone {
    #[default]
    Plain,
    Strong,
    Dim,
    Good,
    Warn,
    Bad,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decide(terminal: bool, variables: &[(&str, &str)]) -> Paint {
        Paint::decide(terminal, |name| {
            variables
                .iter()
                .find(|(key, _)| *key == name)
                .map(|(_, value)| (*value).to_owned())
        })
    }

    #[test]
    fn colour_only_on_a_terminal_that_wants_it() {
        assert_eq!(decide(true, &[("TERM", "xterm")]), Paint::Ansi);
        assert_eq!(decide(true, &[("NO_COLOR", "")]), Paint::Ansi);
        assert_eq!(decide(false, &[("TERM", "xterm")]), Paint::Never);
        assert_eq!(decide(true, &[("NO_COLOR", "1")]), Paint::Never);
        assert_eq!(decide(true, &[("TERM", "dumb")]), Paint::Never);
    }

    #[test]
    fn tint_leaves_text_alone_without_colour() {
        assert_eq!(Paint::Never.tint(Tone::Bad, "firing"), "firing");
        assert_eq!(Paint::Ansi.tint(Tone::Bad, "firing"), "\x1b[1;31mfiring\x1b[0m");
        assert_eq!(Paint::Ansi.tint(Tone::Plain, "firing"), "firing");
    }
}
