//! How the process ends: one code per answer to "what should I do now".

use std::fmt;
use std::process::ExitCode;

use crate::output::aside;

/// What the exit code says. `partywall --help` lists the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Code {
    /// Something failed, or `demo` did not prove its case. Of `policy check`: denied; of `policy diff`: newly denied; of `audit`: yes; of `audit verify`:
    /// the chain is broken.
    Failed = 1,
    /// The command line makes no sense; the parser's own code. Of `policy`, too: what it names cannot be used.
    Usage = 2,
    /// No aggregator answered.
    NoAggregator = 3,
    /// This host or user lacks what the command needs. Of `audit` and `audit verify`: there is no answer, and this is none.
    Missing = 4,
    /// `policy check`, `policy diff` or `audit` cannot say.
    Unknown = 5,
    /// SIGINT or SIGTERM ended it before it was done: 128 + SIGINT, as shells count.
    Interrupted = 130,
}

/// An error and the exit code that goes with it.
#[derive(Debug)]
pub(crate) struct Failure {
    pub code: Code,
    pub error: anyhow::Error,
}

pub(crate) type Outcome = Result<(), Failure>;

impl Failure {
    pub(crate) fn new(code: Code, error: impl Into<anyhow::Error>) -> Self {
        Self {
            code,
            error: error.into(),
        }
    }
}

impl Failure {
    /// Of a question to which [`Code::Failed`] is an answer.
    pub(crate) fn without_answer(mut self) -> Self {
        if self.code == Code::Failed {
            self.code = Code::Missing;
        }
        self
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{:#}", self.error)
    }
}

impl<E: Into<anyhow::Error>> From<E> for Failure {
    fn from(error: E) -> Self {
        Self {
            code: Code::Failed,
            error: error.into(),
        }
    }
}

/// Says what went wrong, in one line on stderr, unless nobody is left to read what went right.
pub(crate) fn report(outcome: Outcome) -> ExitCode {
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) if reader_left(&failure.error) => ExitCode::SUCCESS,
        Err(failure) => {
            let text = failure.to_string();
            if !text.is_empty() {
                aside(&text);
            }
            ExitCode::from(failure.code as u8)
        }
    }
}

/// `partywall tenants | head -1`: the reader has what it wanted.
pub(crate) fn reader_left(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        cause
            .downcast_ref::<std::io::Error>()
            .is_some_and(|error| error.kind() == std::io::ErrorKind::BrokenPipe)
    })
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    #[test]
    fn a_reader_that_left_is_no_failure() {
        let gone =
            anyhow::Error::new(io::Error::from(io::ErrorKind::BrokenPipe)).context("writing to stdout");
        assert_eq!(report(Err(gone.into())), ExitCode::SUCCESS);
    }

    #[test]
    fn each_failure_keeps_its_code() {
        assert_eq!(report(Ok(())), ExitCode::SUCCESS);
        assert_eq!(report(Err(anyhow::anyhow!("x").into())), ExitCode::from(1));
        assert_eq!(
            report(Err(Failure::new(Code::NoAggregator, anyhow::anyhow!("x")))),
            ExitCode::from(3)
        );
        assert_eq!(
            report(Err(Failure::new(Code::Missing, anyhow::anyhow!("x")))),
            ExitCode::from(4)
        );
        assert_eq!(
            report(Err(Failure::new(Code::Unknown, anyhow::anyhow!("")))),
            ExitCode::from(5)
        );
        assert_eq!(
            report(Err(Failure::new(Code::Interrupted, anyhow::anyhow!("")))),
            ExitCode::from(130)
        );
    }
}
