//! What the memory controller and PSI say of a cgroup, read from the text of its files. What a kernel does not have is absent,
//! never zero.

/// One cgroup's figures at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Memory {
    /// `memory.current`.
    pub current_bytes: Option<u64>,
    /// `memory.max`; absent where there is no limit.
    pub limit_bytes: Option<u64>,
    pub stat: Option<Stat>,
    pub events: Option<Events>,
    pub pressure: Pressures,
}

/// The lines of `memory.stat` that are used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stat {
    /// Page cache that was not used lately: what the kubelet leaves out of the working set.
    pub inactive_file_bytes: u64,
    pub major_faults: u64,
    /// Pages that had been evicted and were wanted again, of files and of anonymous memory. One figure for both before Linux 5.9.
    pub refaults: u64,
}

/// `memory.events`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Events {
    pub high: u64,
    pub max: u64,
    pub oom: u64,
    pub oom_kill: u64,
}

/// Time lost to the lack of something, in microseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pressure {
    pub some_us: u64,
    /// Of CPU only from Linux 5.13 on.
    pub full_us: Option<u64>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pressures {
    pub cpu: Option<Pressure>,
    pub memory: Option<Pressure>,
    pub io: Option<Pressure>,
}

impl Memory {
    /// The same with its counters as they are since `base` was read.
    #[must_use]
    pub fn since(self, base: &Self) -> Self {
        self.counters(base, u64::saturating_sub)
    }

    /// The same with no counter lower than it was told `before`: a cgroup that is made again under the same pod begins anew, and
    /// a figure that the kernel sums up over CPUs may come a little short.
    #[must_use]
    pub fn not_before(self, before: &Self) -> Self {
        self.counters(before, u64::max)
    }

    /// Each counter `with` what it was in `other`, 0 where it was absent there. Sizes stay.
    fn counters(self, other: &Self, with: fn(u64, u64) -> u64) -> Self {
        let pressure = |now: Option<Pressure>, other: Option<Pressure>| {
            let other = other.unwrap_or_default();
            now.map(|now| Pressure {
                some_us: with(now.some_us, other.some_us),
                full_us: now.full_us.map(|us| with(us, other.full_us.unwrap_or(0))),
            })
        };
        let stat = other.stat.unwrap_or_default();
        let events = other.events.unwrap_or_default();
        Self {
            stat: self.stat.map(|now| Stat {
                major_faults: with(now.major_faults, stat.major_faults),
                refaults: with(now.refaults, stat.refaults),
                ..now
            }),
            events: self.events.map(|now| Events {
                high: with(now.high, events.high),
                max: with(now.max, events.max),
                oom: with(now.oom, events.oom),
                oom_kill: with(now.oom_kill, events.oom_kill),
            }),
            pressure: Pressures {
                cpu: pressure(self.pressure.cpu, other.pressure.cpu),
                memory: pressure(self.pressure.memory, other.pressure.memory),
                io: pressure(self.pressure.io, other.pressure.io),
            },
            ..self
        }
    }

    /// `memory.current` without the page cache that was not used lately.
    pub fn working_set_bytes(&self) -> Option<u64> {
        // The two were read one after the other.
        Some(self.current_bytes?.saturating_sub(self.stat?.inactive_file_bytes))
    }
}

/// A file of one number; "max" is none.
pub fn number(text: &str) -> Option<u64> {
    text.trim().parse().ok()
}

/// `memory.stat`.
pub fn stat(text: &str) -> Stat {
    let mut stat = Stat::default();
    for (name, value) in lines(text) {
        match name {
            "inactive_file" => stat.inactive_file_bytes = value,
            "pgmajfault" => stat.major_faults = value,
            "workingset_refault" | "workingset_refault_anon" | "workingset_refault_file" => {
                stat.refaults = stat.refaults.saturating_add(value);
            }
            _ => {}
        }
    }
    stat
}

/// `memory.events`.
pub fn events(text: &str) -> Events {
    let mut events = Events::default();
    for (name, value) in lines(text) {
        match name {
            "high" => events.high = value,
            "max" => events.max = value,
            "oom" => events.oom = value,
            "oom_kill" => events.oom_kill = value,
            _ => {}
        }
    }
    events
}

/// A file of PSI: `some avg10=0.00 avg60=0.00 avg300=0.00 total=0`, and a line for `full`.
pub fn pressure(text: &str) -> Option<Pressure> {
    let total = |kind: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(kind))?;
        line.split_once("total=")?.1.trim().parse().ok()
    };
    Some(Pressure {
        some_us: total("some ")?,
        full_us: total("full "),
    })
}

/// `name value` lines.
fn lines(text: &str) -> impl Iterator<Item = (&str, u64)> {
    text.lines().filter_map(|line| {
        let (name, value) = line.split_once(' ')?;
        Some((name, value.parse().ok()?))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Memory = Memory {
        current_bytes: Some(100),
        limit_bytes: Some(200),
        stat: Some(Stat {
            inactive_file_bytes: 30,
            major_faults: 7,
            refaults: 9,
        }),
        events: Some(Events {
            high: 1,
            max: 2,
            oom: 3,
            oom_kill: 4,
        }),
        pressure: Pressures {
            cpu: None,
            memory: Some(Pressure {
                some_us: 77,
                full_us: Some(55),
            }),
            io: None,
        },
    };

    #[test]
    fn files_are_read_by_name() {
        assert_eq!(
            stat(
                "anon 4096\ninactive_file 8192\npgmajfault 3\nworkingset_refault_anon 1\nworkingset_refault_file 6\n"
            ),
            Stat {
                inactive_file_bytes: 8192,
                major_faults: 3,
                refaults: 7
            }
        );
        assert_eq!(stat("workingset_refault 5\n").refaults, 5, "before Linux 5.9");
        assert_eq!(
            events("low 0\nhigh 5\nmax 4\noom 2\noom_kill 1\noom_group_kill 0\n"),
            Events {
                high: 5,
                max: 4,
                oom: 2,
                oom_kill: 1
            }
        );
        let some = "some avg10=0.00 avg60=0.00 avg300=0.00 total=77\n";
        let full = "full avg10=0.00 avg60=0.00 avg300=0.00 total=55\n";
        assert_eq!(pressure(&format!("{some}{full}")), NOW.pressure.memory);
        assert_eq!(
            pressure(some),
            Some(Pressure {
                some_us: 77,
                full_us: None
            })
        );
        assert_eq!(pressure(""), None, "no line is no pressure figure, not zero");
        assert_eq!((number("12\n"), number("max\n")), (Some(12), None));
    }

    #[test]
    fn counters_begin_at_their_base_and_sizes_do_not() {
        assert_eq!(NOW.since(&Memory::default()), NOW);
        let since = NOW.since(&NOW);
        assert_eq!((since.current_bytes, since.limit_bytes), (Some(100), Some(200)));
        assert_eq!(since.working_set_bytes(), Some(70));
        assert_eq!(since.events, Some(Events::default()));
        assert_eq!(
            since.pressure.memory,
            Some(Pressure {
                some_us: 0,
                full_us: Some(0)
            })
        );
        assert_eq!(since.pressure.cpu, None, "absent stays absent");
        let again = Memory {
            current_bytes: Some(5),
            ..since
        };
        assert_eq!(
            again.not_before(&NOW),
            Memory {
                current_bytes: Some(5),
                ..NOW
            },
            "counters never go back, sizes do"
        );
    }
}
