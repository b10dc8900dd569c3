//! What a worker sent and received, counted by itself and readable at any time, also after it was killed.

use std::{
    fs::File,
    io,
    os::{fd::AsFd, unix::fs::FileExt},
};

use rustix::fs::{MemfdFlags, memfd_create};
use serde::Serialize;

/// Counts of one worker since it began. Bytes are payload: what programs see, without headers.
///
/// A client's every attempt ends up in one of `established`, `refused`, `timed_out` and `failed`, unless it was still open
/// when the worker was stopped.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Traffic {
    /// TCP connections that a client began to open.
    pub attempted: u64,
    /// Connections opened; a server's: accepted.
    pub established: u64,
    /// Connections answered by a reset, and datagrams and echo requests answered by an ICMP error.
    pub refused: u64,
    /// Connections that nobody answered in time.
    pub timed_out: u64,
    /// What the kernel would not send: no route, no port, no buffer.
    pub failed: u64,
    /// Established connections that ended before everything was answered.
    pub broken: u64,
    /// Datagrams and ICMP messages that the kernel took.
    pub packets_sent: u64,
    /// Datagrams and echo replies received.
    pub packets_received: u64,
    pub bytes_sent: u64,
    pub bytes_received: u64,
}

/// Counters, and before them a word that is set when the worker is ready.
const WORDS: usize = 11;
const BYTES: usize = WORDS * 8;

impl Traffic {
    fn words(&self) -> [u64; WORDS] {
        [
            1,
            self.attempted,
            self.established,
            self.refused,
            self.timed_out,
            self.failed,
            self.broken,
            self.packets_sent,
            self.packets_received,
            self.bytes_sent,
            self.bytes_received,
        ]
    }

    fn from_words(words: [u64; WORDS]) -> Self {
        let [
            _ready,
            attempted,
            established,
            refused,
            timed_out,
            failed,
            broken,
            packets_sent,
            packets_received,
            bytes_sent,
            bytes_received,
        ] = words;
        Self {
            attempted,
            established,
            refused,
            timed_out,
            failed,
            broken,
            packets_sent,
            packets_received,
            bytes_sent,
            bytes_received,
        }
    }

    /// Says it to the parent, by way of the file that is this worker's standard output.
    pub(crate) fn publish(&self) -> io::Result<()> {
        let bytes: Vec<u8> = self.words().iter().flat_map(|word| word.to_ne_bytes()).collect();
        rustix::io::pwrite(io::stdout().as_fd(), &bytes, 0)?;
        Ok(())
    }
}

/// Says to the parent, behind the counts, why this worker could not go on.
pub(crate) fn fail(why: &io::Error) {
    let _nobody_to_tell = rustix::io::pwrite(io::stdout().as_fd(), why.to_string().as_bytes(), BYTES as u64);
}

/// What [`fail`] said.
pub(crate) fn failure(file: &File) -> String {
    let mut text = vec![0; 1_024];
    let length = file.read_at(&mut text, BYTES as u64).unwrap_or(0);
    String::from_utf8_lossy(&text[..length]).into_owned()
}

/// A file without a name, for a worker's counts. It outlives the worker.
pub(crate) fn file() -> io::Result<File> {
    Ok(memfd_create("partywall-traffic", MemfdFlags::CLOEXEC)?.into())
}

/// `None`: the worker is not ready yet.
pub(crate) fn read(file: &File) -> Option<Traffic> {
    let mut bytes = [0; BYTES];
    file.read_exact_at(&mut bytes, 0).ok()?;
    let mut words = [0; WORDS];
    for (word, bytes) in words.iter_mut().zip(bytes.chunks_exact(8)) {
        *word = u64::from_ne_bytes(bytes.try_into().ok()?);
    }
    // It may have failed before it was ready.
    (words[0] == 1).then(|| Traffic::from_words(words))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_come_back_as_the_counts_they_were() {
        let traffic = Traffic {
            attempted: 1,
            established: 2,
            refused: 3,
            timed_out: 4,
            failed: 5,
            broken: 6,
            packets_sent: 7,
            packets_received: 8,
            bytes_sent: 9,
            bytes_received: 10,
        };
        assert_eq!(Traffic::from_words(traffic.words()), traffic);
    }

    #[test]
    fn nothing_is_read_before_the_first_word() {
        let file = file().unwrap();
        assert_eq!(read(&file), None);
        let words: Vec<u8> = Traffic::default()
            .words()
            .iter()
            .flat_map(|w| w.to_ne_bytes())
            .collect();
        file.write_all_at(&words, 0).unwrap();
        assert_eq!(read(&file), Some(Traffic::default()));
    }
}
