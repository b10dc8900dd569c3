//! The kernel side's counters as the agent reads them, and the giving back of slots.

use aya::Ebpf;
use aya::maps::{HashMap, Map, MapData, Stack};
use partywall_abi::{
    CACHE, Cpu, FLOWS, Flow, FlowName, LOSS_REASONS, LossReason, Reclaim, Row, SLOT_FIRST, SLOT_IDLE,
    SLOT_NONE, SLOTS, Stall, Throttle, UNITS, Unit,
};
use partywall_agent_core::slots::Totals;
use partywall_ebpf::cache;

use super::load::LoadError;
use super::memory::Mapped;

/// How often a row that changes while it is read is read again before what was seen is taken.
const ATTEMPTS: usize = 4;

/// The maps of the kernel side.
pub struct Maps {
    rows: Mapped<Row>,
    cpus: Mapped<Cpu>,
    matrix: Mapped<u64>,
    throttles: Mapped<Throttle>,
    reclaims: Mapped<Reclaim>,
    /// Began, ended, scope: the words of a [`Stall`].
    stalls: HashMap<MapData, u32, [u64; 3]>,
    cache: Mapped<u64>,
    owners: Mapped<u64>,
    losses: Mapped<u64>,
    slot_of: HashMap<MapData, u64, u32>,
    free: Stack<MapData, u32>,
    bytes: u64,
}

impl Maps {
    /// Takes the maps out of the object, maps the arrays into memory, and fills the free slots.
    pub(super) fn open(ebpf: &mut Ebpf, cpus: usize, throttles: usize) -> Result<Self, LoadError> {
        let bytes = ebpf.maps().filter_map(|(_, map)| map_bytes(map)).sum();
        let mut free: Stack<MapData, u32> = take(ebpf, "FREE", Stack::try_from)?;
        for slot in (u32::from(SLOT_FIRST)..SLOTS as u32).rev() {
            free.push(slot, 0).map_err(|error| failed("FREE", &error))?;
        }
        Ok(Self {
            rows: mapped(ebpf, "ROWS", cpus * SLOTS)?,
            cpus: mapped(ebpf, "CPUS", cpus)?,
            matrix: mapped(ebpf, "MATRIX", SLOTS * SLOTS)?,
            throttles: mapped(ebpf, "THROTTLES", throttles)?,
            reclaims: mapped(ebpf, "RECLAIMS", SLOTS)?,
            stalls: take(ebpf, "STALLS", HashMap::try_from)?,
            cache: mapped(ebpf, "SLOT_CACHE", CACHE)?,
            owners: mapped(ebpf, "OWNERS", SLOTS)?,
            losses: mapped(ebpf, "LOSSES", cpus * LOSS_REASONS)?,
            slot_of: take(ebpf, "SLOT_OF", HashMap::try_from)?,
            free,
            bytes,
        })
    }

    /// Kernel memory of all maps as the kernel accounts it.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The cgroup id that owns each slot, 0 where nobody.
    pub fn owner(&self, slot: u16) -> u64 {
        self.owners.get(usize::from(slot)).unwrap_or(0)
    }

    /// CPUs that run a task other than the idle one.
    pub(super) fn busy_cpus(&self) -> impl Iterator<Item = u32> + '_ {
        (0..self.cpus.len()).filter_map(|index| {
            let cpu = self.cpus.get(index)?;
            (cpu.since_ns != 0 && cpu.slot != u64::from(SLOT_IDLE)).then_some(u32::try_from(index).ok()?)
        })
    }

    /// Switches seen on all CPUs since load.
    pub fn switches(&self) -> u64 {
        (0..self.cpus.len())
            .filter_map(|index| self.cpus.get(index))
            .map(|cpu| cpu.switches)
            .sum()
    }

    /// One slot's counters, summed over CPUs.
    pub fn totals(&self, slot: u16) -> Totals {
        let mut totals = Totals::default();
        for cpu in 0..self.cpus.len() {
            let Some(row) = self.rows.get(cpu * SLOTS + usize::from(slot)) else {
                continue;
            };
            totals.run_ns += row.run_ns;
            totals.wait_ns += row.wait_ns;
            totals.self_ns += row.self_ns;
            totals.idle_ns += row.idle_ns;
            for (sum, count) in totals.waits.iter_mut().zip(row.waits) {
                *sum = sum.wrapping_add(count);
            }
        }
        totals
    }

    /// What `waiter` waited while `runner` ran, cumulative since load.
    pub fn cell_ns(&self, waiter: u16, runner: u16) -> u64 {
        self.matrix
            .get(usize::from(waiter) * SLOTS + usize::from(runner))
            .unwrap_or(0)
    }

    /// Reads one waiter's counters and its cells against `runners` at one moment: `cells` is filled in the order of `runners`.
    ///
    /// The kernel side adds to the wait first and to the cells after; a reading between the two is thrown away and made
    /// again. Returns the counters, and whether the reading is known to be of one moment.
    pub fn read_waiter(&self, waiter: u16, runners: &[u16], cells: &mut Vec<u64>) -> (Totals, bool) {
        let mut before = self.totals(waiter);
        for _ in 0..ATTEMPTS {
            cells.clear();
            cells.extend(runners.iter().map(|runner| self.cell_ns(waiter, *runner)));
            let after = self.totals(waiter);
            if before == after {
                return (after, true);
            }
            before = after;
        }
        (before, false)
    }

    /// What one slot's tasks have reclaimed, cumulative since load.
    pub fn reclaim(&self, slot: u16) -> Reclaim {
        self.reclaims.get(usize::from(slot)).unwrap_or_default()
    }

    /// Forgets reclaims that ended before `ended_ns` (CLOCK_BOOTTIME). Returns how many.
    ///
    /// A task that begins to reclaim in just that moment may lose its stamp, which is counted.
    pub fn forget_stalls(&mut self, ended_ns: u64) -> usize {
        let over: Vec<u32> = self
            .stalls
            .iter()
            .flatten()
            .filter(|(_, [_, ended, _])| *ended != 0 && *ended < ended_ns)
            .map(|(tid, _)| tid)
            .collect();
        over.iter().filter(|tid| self.stalls.remove(tid).is_ok()).count()
    }

    /// Losses by reason, summed over CPUs.
    pub fn losses(&self) -> impl Iterator<Item = (LossReason, u64)> + '_ {
        LossReason::ALL.into_iter().map(|reason| {
            let count = (0..self.losses.len() / LOSS_REASONS)
                .filter_map(|cpu| self.losses.get(cpu * LOSS_REASONS + reason as usize))
                .sum();
            (reason, count)
        })
    }

    /// Slots that are in use.
    pub fn slots_in_use(&self) -> impl Iterator<Item = u16> + '_ {
        (SLOT_FIRST..SLOTS as u16).filter(|slot| self.owner(*slot) != 0)
    }

    /// Gives back the slot of a cgroup that is gone. Its counters stay where they are: the next owner's begin there.
    ///
    /// # Errors
    /// The kernel refused; the slot stays taken, and giving it back can be tried again.
    pub fn give_back(&mut self, slot: u16, id: u64) -> Result<(), LoadError> {
        if slot == SLOT_NONE {
            return Ok(());
        }
        match self.slot_of.remove(&id) {
            Ok(()) | Err(aya::maps::MapError::KeyNotFound) => {}
            Err(error) => return Err(failed("SLOT_OF", &error)),
        }
        let home = cache::first(id);
        for place in [home, cache::second(home)] {
            if self
                .cache
                .get(place)
                .and_then(|word| cache::slot_in(word, id))
                .is_some()
            {
                self.cache.set(place, 0);
            }
        }
        // The next owner's throttled time begins at nothing.
        for cpu in 0..self.throttles.len() / SLOTS {
            self.throttles
                .set(cpu * SLOTS + usize::from(slot), Throttle::default());
        }
        self.owners.set(usize::from(slot), 0);
        self.free
            .push(u32::from(slot), 0)
            .map_err(|error| failed("FREE", &error))
    }
}

/// Kernel memory of the maps on a machine with `cpus` possible CPUs, by formula: entries times their size, hash and ring overheads
/// rounded up. The same sum as [`Maps::bytes`] within a page per map.
pub fn map_bytes_for(cpus: u64) -> u64 {
    const RINGS: u64 = 256 * 1024 + 128 * 1024 + 6 * 4096;
    // A hash element: header, key and value, rounded; and a bucket of 16 bytes.
    const HASH: u64 = SLOTS as u64 * (64 + 16);
    const STALLS: u64 = 4096 * (size_of::<Stall>() as u64 + 8 + 48 + 16);
    const STACKS: u64 = (SLOTS + FLOWS + UNITS) as u64 * 4;
    // Counters, names, and the hash in front of them, with its element and bucket; the same of units.
    const TRAFFIC: u64 = (FLOWS * (size_of::<Flow>() + 2 * size_of::<FlowName>() + 8 + 48 + 16)
        + UNITS * (size_of::<Unit>() + 64 + 16)) as u64;
    let arrays = (SLOTS * SLOTS * 8 + CACHE * 8 + SLOTS * 8 + SLOTS * size_of::<Reclaim>()) as u64;
    let per_cpu =
        (SLOTS * (size_of::<Row>() + size_of::<Throttle>()) + size_of::<Cpu>() + LOSS_REASONS * 8) as u64;
    arrays + HASH + STALLS + STACKS + TRAFFIC + RINGS + cpus * per_cpu
}

fn map_bytes(map: &Map) -> Option<u64> {
    let (Map::Array(data) | Map::HashMap(data) | Map::Stack(data) | Map::RingBuf(data)) = map else {
        return None;
    };
    super::memory::locked_bytes(data)
}

pub(super) fn take<M, E: std::error::Error>(
    ebpf: &mut Ebpf,
    name: &'static str,
    convert: impl FnOnce(Map) -> Result<M, E>,
) -> Result<M, LoadError> {
    let map = ebpf.take_map(name).ok_or_else(|| LoadError::Map {
        map: name,
        reason: "not in the eBPF object".to_owned(),
    })?;
    convert(map).map_err(|error| failed(name, &error))
}

/// Maps an array into memory. The map itself stays with the object, whose programs use it.
pub(super) fn mapped<T: super::memory::Plain>(
    ebpf: &mut Ebpf,
    name: &'static str,
    len: usize,
) -> Result<Mapped<T>, LoadError> {
    let Some(Map::Array(data)) = ebpf.map(name) else {
        return Err(LoadError::Map {
            map: name,
            reason: "not an array in the eBPF object".to_owned(),
        });
    };
    Mapped::map(data.fd(), len).map_err(|error| failed(name, &error))
}

pub(super) fn failed(map: &'static str, error: &dyn std::error::Error) -> LoadError {
    LoadError::Map {
        map,
        reason: error.to_string(),
    }
}
