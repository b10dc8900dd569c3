//! Kinds of work that a pod can do, and how they are told to a worker process.

/// What a worker does.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Work {
    /// On each thread by turns: `busy_ms` of CPU time, then `idle_ms` asleep. A thread that has to wait for a CPU takes
    /// longer over a turn, as a server does over a request; it does not do less.
    Duty {
        busy_ms: f64,
        idle_ms: f64,
        threads: u32,
    },
    /// Every thread runs all the time.
    Spin { threads: u32 },
    /// Forks children at this rate, each of which spins for 1 ms of CPU time.
    Fork { per_second: f64 },
    /// Allocates and touches anonymous pages, `step_bytes` every `every_ms`, up to `bytes`. Then it holds them, or without
    /// `keep` frees them all and begins again.
    Memory {
        bytes: u64,
        step_bytes: u64,
        every_ms: f64,
        keep: bool,
    },
    /// Writes a file of this size to the [scratch directory](crate::scratch_dir) and reads it round and round.
    FileCache { bytes: u64 },
}

impl Work {
    pub(crate) fn to_args(self) -> Vec<String> {
        match self {
            Self::Duty {
                busy_ms,
                idle_ms,
                threads,
            } => {
                vec![
                    "duty".to_owned(),
                    busy_ms.to_string(),
                    idle_ms.to_string(),
                    threads.to_string(),
                ]
            }
            Self::Spin { threads } => vec!["spin".to_owned(), threads.to_string()],
            Self::Fork { per_second } => vec!["fork".to_owned(), per_second.to_string()],
            Self::Memory {
                bytes,
                step_bytes,
                every_ms,
                keep,
            } => vec![
                "memory".to_owned(),
                bytes.to_string(),
                step_bytes.to_string(),
                every_ms.to_string(),
                u8::from(keep).to_string(),
            ],
            Self::FileCache { bytes } => vec!["file-cache".to_owned(), bytes.to_string()],
        }
    }

    pub(crate) fn from_args(mut args: impl Iterator<Item = String>) -> Option<Self> {
        let kind = args.next()?;
        let mut number = || args.next()?.parse::<f64>().ok().filter(|value| value.is_finite());
        #[allow(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "threads fit any number type, bytes are exact up to 2^53"
        )]
        match kind.as_str() {
            "duty" => Some(Self::Duty {
                busy_ms: number()?,
                idle_ms: number()?,
                threads: number()? as u32,
            }),
            "spin" => Some(Self::Spin {
                threads: number()? as u32,
            }),
            "fork" => Some(Self::Fork {
                per_second: number()?,
            }),
            "memory" => Some(Self::Memory {
                bytes: number()? as u64,
                step_bytes: number()? as u64,
                every_ms: number()?,
                keep: number()? > 0.0,
            }),
            "file-cache" => Some(Self::FileCache {
                bytes: number()? as u64,
            }),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_worker_understands_what_its_parent_says() {
        for work in [
            Work::Duty {
                busy_ms: 2.5,
                idle_ms: 8.0,
                threads: 3,
            },
            Work::Spin { threads: 8 },
            Work::Fork { per_second: 250.0 },
            Work::Memory {
                bytes: 64 << 20,
                step_bytes: 4096,
                every_ms: 12.5,
                keep: false,
            },
            Work::FileCache { bytes: 3 << 40 },
        ] {
            assert_eq!(Work::from_args(work.to_args().into_iter()), Some(work));
        }
        assert_eq!(
            Work::from_args(["duty".to_owned(), "NaN".to_owned()].into_iter()),
            None
        );
        assert_eq!(Work::from_args(["scan".to_owned()].into_iter()), None);
    }
}
