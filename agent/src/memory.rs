//! The memory and pressure files of pods' and containers' cgroups: which are read, and when.
//!
//! `memory.current` of each at every reading, from a file that is kept open. The others where it changed or its tasks reclaimed, and
//! else at every tenth: `memory.stat` makes the kernel sum up counters of all CPUs, and most pods of a node rest.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use partywall_agent_core::memory::{self, Memory, Pressures};

/// One in so many readings takes every file, whether or not anything changed.
const WHOLE_EVERY: u64 = 10;

/// Longest figure in `memory.current`, with room.
const LONGEST_NUMBER: usize = 32;

/// Which kinds of files this kernel has.
#[derive(Clone, Copy, Debug)]
pub struct Kinds {
    /// The memory controller's.
    pub memory: bool,
    /// PSI's.
    pub pressure: bool,
}

/// The cgroups whose files are read, by id.
#[derive(Debug)]
pub struct Watch {
    kinds: Kinds,
    cgroups: BTreeMap<u64, Watched>,
    readings: u64,
}

#[derive(Debug)]
struct Watched {
    /// Of the pod or container whose cgroup it is.
    entity: u32,
    directory: PathBuf,
    kinds: Kinds,
    /// `memory.current`; `None` where there is none, or no descriptor was left.
    current: Option<File>,
    /// Counters of the agent's first reading, where the cgroup is older than the agent.
    base: Memory,
    last: Option<Memory>,
}

impl Watch {
    pub fn new(kinds: Kinds) -> Self {
        Self {
            kinds,
            cgroups: BTreeMap::new(),
            readings: 0,
        }
    }

    /// Begins to read the cgroup at `directory`. `older`: it was made before the agent saw it, and its counters count from now on.
    pub fn begin(&mut self, id: u64, entity: u32, directory: PathBuf, is_pod: bool, older: bool) {
        let kinds = Kinds {
            // Its containers' tasks are in a pod's pressure.
            pressure: self.kinds.pressure && is_pod,
            ..self.kinds
        };
        let base = if older {
            read_whole(&directory, kinds)
        } else {
            Memory::default()
        };
        let current = kinds
            .memory
            .then(|| File::open(directory.join("memory.current")).ok())
            .flatten();
        self.cgroups.insert(
            id,
            Watched {
                entity,
                directory,
                kinds,
                current,
                base,
                last: None,
            },
        );
    }

    /// The cgroup is gone. Returns its entity, where it was read.
    pub fn end(&mut self, id: u64) -> Option<u32> {
        self.cgroups.remove(&id).map(|watched| watched.entity)
    }

    /// The cgroups that are read.
    pub fn ids(&self) -> impl Iterator<Item = u64> + '_ {
        self.cgroups.keys().copied()
    }

    pub fn len(&self) -> usize {
        self.cgroups.len()
    }

    pub fn is_empty(&self) -> bool {
        self.cgroups.is_empty()
    }

    /// Reads what is due, and hands over the figures of each entity of which something was read. `busy`: whether an entity's tasks
    /// did something since the last reading that its files tell more of.
    pub fn read(&mut self, busy: impl Fn(u32) -> bool) -> Vec<(u32, Memory)> {
        self.readings += 1;
        let mut figures = Vec::new();
        for (id, watched) in &mut self.cgroups {
            let current_bytes = watched.current.as_ref().and_then(read_number);
            let rests = watched
                .last
                .is_some_and(|last| last.current_bytes == current_bytes);
            // Spread over the readings, so that no one of them has to take all.
            let turn = self.readings.wrapping_add(*id).is_multiple_of(WHOLE_EVERY);
            if rests && !turn && !busy(watched.entity) {
                continue;
            }
            let read = read_whole(&watched.directory, watched.kinds);
            if read == Memory::default() && watched.last.is_some() {
                // Removed, and the kernel side has yet to tell: what was read last is its last.
                continue;
            }
            watched.last = Some(read);
            figures.push((watched.entity, read.since(&watched.base)));
        }
        figures
    }
}

/// The files of the cgroup at `directory`; those that are not there, or say EOPNOTSUPP as PSI does where it is off, are absent.
fn read_whole(directory: &Path, kinds: Kinds) -> Memory {
    let read = |wanted: bool, name: &str| {
        wanted
            .then(|| fs::read_to_string(directory.join(name)).ok())
            .flatten()
    };
    let text = |name| read(kinds.memory, name);
    let pressure = |name| read(kinds.pressure, name).and_then(|text| memory::pressure(&text));
    Memory {
        current_bytes: text("memory.current").and_then(|text| memory::number(&text)),
        limit_bytes: text("memory.max").and_then(|text| memory::number(&text)),
        stat: text("memory.stat").map(|text| memory::stat(&text)),
        events: text("memory.events").map(|text| memory::events(&text)),
        pressure: Pressures {
            cpu: pressure("cpu.pressure"),
            memory: pressure("memory.pressure"),
            io: pressure("io.pressure"),
        },
    }
}

fn read_number(file: &File) -> Option<u64> {
    let mut buffer = [0; LONGEST_NUMBER];
    let length = file.read_at(&mut buffer, 0).ok()?;
    memory::number(std::str::from_utf8(buffer.get(..length)?).ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use partywall_agent_core::memory::{Events, Pressure};

    const ALL: Kinds = Kinds {
        memory: true,
        pressure: true,
    };

    fn write(directory: &Path, name: &str, text: &str) {
        fs::write(directory.join(name), text).expect("written");
    }

    fn pressure(total: u64) -> String {
        format!("some avg10=0.00 avg60=0.00 avg300=0.00 total={total}\n")
    }

    #[test]
    fn what_rests_is_read_at_its_turn_and_what_moves_at_once() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        write(directory.path(), "memory.current", "4096\n");
        write(directory.path(), "memory.max", "max\n");
        write(
            directory.path(),
            "memory.events",
            "low 0\nhigh 0\nmax 5\noom 0\noom_kill 0\n",
        );
        write(directory.path(), "memory.pressure", &pressure(100));
        let mut watch = Watch::new(ALL);
        watch.begin(7, 1, directory.path().to_owned(), true, true);

        let (entity, first) = watch.read(|_| false)[0];
        assert_eq!(
            (entity, first.current_bytes, first.limit_bytes),
            (1, Some(4096), None)
        );
        assert_eq!(first.stat, None, "absent, not zero");
        assert_eq!(
            first.events,
            Some(Events::default()),
            "what was before the agent does not count"
        );

        write(directory.path(), "memory.pressure", &pressure(170));
        let turns = (0..WHOLE_EVERY)
            .filter(|_| !watch.read(|_| false).is_empty())
            .count();
        assert_eq!(turns, 1);
        write(directory.path(), "memory.current", "8192\n");
        let (_, moved) = watch.read(|_| false)[0];
        assert_eq!(moved.current_bytes, Some(8192));
        assert_eq!(
            moved.pressure.memory,
            Some(Pressure {
                some_us: 70,
                full_us: None
            })
        );
        assert_eq!(watch.read(|entity| entity == 1).len(), 1, "its tasks reclaimed");
        assert_eq!(watch.end(7), Some(1));
        assert!(watch.is_empty() && watch.read(|_| true).is_empty());
    }

    #[test]
    fn a_new_cgroup_counts_from_its_beginning_and_a_container_has_no_pressure() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        write(directory.path(), "memory.events", "max 5\n");
        write(directory.path(), "memory.pressure", &pressure(100));
        let mut watch = Watch::new(ALL);
        watch.begin(7, 1, directory.path().to_owned(), false, false);
        let (_, read) = watch.read(|_| false)[0];
        assert_eq!((read.current_bytes, read.pressure), (None, Pressures::default()));
        assert_eq!(read.events.map(|events| events.max), Some(5));
    }
}
