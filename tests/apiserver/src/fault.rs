//! What goes wrong when a test wants it to.

use std::time::Duration;

/// A fault, and which requests have it.
#[derive(Clone, Debug)]
pub struct Fault {
    /// Plural of the resource; `None`: all.
    pub of: Option<&'static str>,
    /// `list`, `watch`, `get` or `create`; `None`: all.
    pub verb: Option<&'static str>,
    /// Requests that have it; `None`: all until [`crate::Server::clear_faults`].
    pub times: Option<usize>,
    pub what: What,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    /// This HTTP status with a `Status` object, after which the server may be asked again.
    Status { code: u16, retry_after_s: Option<u32> },
    /// This HTTP status and a text that is no JSON: what a proxy in between answers.
    Text { code: u16, text: &'static str },
    /// The answer comes this much later.
    Slow(Duration),
    /// The request is taken and never answered.
    Hang,
    /// The first half of a list and no more, the connection cut. Of a watch: cut when the first event is half written.
    Cut,
    /// The first half of a list, as if it were all. Of a watch: the first event is half a line, and a line break.
    Half,
    /// A watch that is opened and says nothing, no bookmark either: a link that is dead in one direction.
    Silent,
    /// A watch that ends as soon as it was opened.
    Ends,
}

impl Fault {
    /// Of every request to one resource.
    pub fn of(of: &'static str, what: What) -> Self {
        Self {
            of: Some(of),
            verb: None,
            times: None,
            what,
        }
    }

    /// Of every request.
    pub fn everywhere(what: What) -> Self {
        Self {
            of: None,
            verb: None,
            times: None,
            what,
        }
    }

    #[must_use]
    pub fn verb(mut self, verb: &'static str) -> Self {
        self.verb = Some(verb);
        self
    }

    #[must_use]
    pub fn times(mut self, times: usize) -> Self {
        self.times = Some(times);
        self
    }

    pub(crate) fn is_for(&self, of: &str, verb: &str) -> bool {
        self.of.is_none_or(|o| o == of) && self.verb.is_none_or(|v| v == verb) && self.times != Some(0)
    }
}
