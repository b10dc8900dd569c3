//! Flows' places as the agent reads them, and the giving back of places and units.

use std::mem::offset_of;

use aya::Ebpf;
use aya::maps::{HashMap, MapData, MapError, Stack};
use partywall_abi::{FLOWS, Flow, FlowName, TAKEN_FLOWS, TAKEN_SOCKETS, UNITS, Unit, address_bytes};

use super::load::LoadError;
use super::maps::{failed, mapped, take};
use super::memory::Mapped;

/// [`FlowName`] as the kernel compares it.
type Key = [u8; size_of::<FlowName>()];

/// The maps of what sockets send and receive.
pub struct FlowMaps {
    flows: Mapped<Flow>,
    names: Mapped<FlowName>,
    taken: Mapped<u64>,
    units: Mapped<Unit>,
    flow_of: HashMap<MapData, Key, u32>,
    unit_of: HashMap<MapData, u64, u32>,
    free_places: Stack<MapData, u32>,
    free_units: Stack<MapData, u32>,
}

impl FlowMaps {
    /// Takes the maps out of the object, maps the arrays into memory, and fills the free places and units: the lowest are handed out first.
    pub(super) fn open(ebpf: &mut Ebpf) -> Result<Self, LoadError> {
        let mut free_places: Stack<MapData, u32> = take(ebpf, "FLOW_FREE", Stack::try_from)?;
        for place in (0..FLOWS as u32).rev() {
            free_places
                .push(place, 0)
                .map_err(|error| failed("FLOW_FREE", &error))?;
        }
        let mut free_units: Stack<MapData, u32> = take(ebpf, "UNIT_FREE", Stack::try_from)?;
        for unit in (1..UNITS as u32).rev() {
            free_units
                .push(unit, 0)
                .map_err(|error| failed("UNIT_FREE", &error))?;
        }
        Ok(Self {
            flows: mapped(ebpf, "FLOWS", FLOWS)?,
            names: mapped(ebpf, "FLOW_NAMES", FLOWS)?,
            taken: mapped(ebpf, "TAKEN", 2)?,
            units: mapped(ebpf, "UNITS", UNITS)?,
            flow_of: take(ebpf, "FLOW_OF", HashMap::try_from)?,
            unit_of: take(ebpf, "UNIT_OF", HashMap::try_from)?,
            free_places,
            free_units,
        })
    }

    /// Places that are taken, and the flows that have them.
    pub fn names(&self) -> impl Iterator<Item = (u32, FlowName)> + '_ {
        let taken = usize::try_from(self.taken.get(0).unwrap_or(0)).unwrap_or(FLOWS);
        (0..FLOWS)
            .filter_map(|place| {
                let name = self.names.get(place)?;
                (name.cgroup != 0).then_some((u32::try_from(place).ok()?, name))
            })
            // The lowest are handed out first: behind the last one taken there are only free ones.
            .take(taken)
    }

    /// Sockets in use of which something is remembered.
    pub fn sockets(&self) -> u64 {
        self.taken.get(TAKEN_SOCKETS as usize).unwrap_or(0)
    }

    /// The counters at a place.
    pub fn flow(&self, place: u32) -> Flow {
        self.flows.get(place as usize).unwrap_or_default()
    }

    /// One unit.
    pub fn unit(&self, index: u32) -> Unit {
        self.units.get(index as usize).unwrap_or_default()
    }

    /// Units that are taken, and the one that is nobody's.
    pub fn units(&self) -> impl Iterator<Item = (u32, Unit)> + '_ {
        (0..UNITS).filter_map(|index| {
            let unit = self.units.get(index)?;
            (index == 0 || unit.cgroup != 0).then_some((u32::try_from(index).ok()?, unit))
        })
    }

    /// From here on nobody finds the place. What is under way may still count there, until the next reading.
    ///
    /// # Errors
    /// The kernel refused; it can be tried again.
    pub fn close(&mut self, place: u32, name: &FlowName) -> Result<(), LoadError> {
        match self.flow_of.remove(&key(name)) {
            Ok(()) | Err(MapError::KeyNotFound) => {}
            Err(error) => return Err(failed("FLOW_OF", &error)),
        }
        let mut flow = self.flow(place);
        flow.generation = flow.generation.wrapping_add(1);
        self.flows.set_word(
            place as usize,
            offset_of!(Flow, generation),
            u64::from(flow.generation) | u64::from(flow.unit) << 32,
        );
        Ok(())
    }

    /// Gives back a place that was closed before the last reading.
    ///
    /// # Errors
    /// The kernel refused: the place stays out of use.
    pub fn free(&mut self, place: u32) -> Result<(), LoadError> {
        let flow = self.flow(place);
        self.flows.set(
            place as usize,
            Flow {
                // Once more: a CPU that had found the place before it was closed may have had its socket remember it after, with the
                // generation of the closed one.
                generation: flow.generation.wrapping_add(1),
                ..Flow::default()
            },
        );
        self.names.set(place as usize, FlowName::default());
        self.units
            .subtract(flow.unit as usize, offset_of!(Unit, flows), 1);
        self.taken.subtract(TAKEN_FLOWS as usize, 0, 1);
        self.free_places
            .push(place, 0)
            .map_err(|error| failed("FLOW_FREE", &error))
    }

    /// From here on nobody finds the unit of a cgroup that is gone. What is under way may still count there, until the next reading.
    ///
    /// # Errors
    /// The kernel refused; it can be tried again.
    pub fn close_unit(&mut self, cgroup: u64) -> Result<(), LoadError> {
        match self.unit_of.remove(&cgroup) {
            Ok(()) | Err(MapError::KeyNotFound) => Ok(()),
            Err(error) => Err(failed("UNIT_OF", &error)),
        }
    }

    /// Gives back a unit without flows that was closed before the last reading.
    ///
    /// # Errors
    /// The kernel refused; it can be tried again.
    pub fn free_unit(&mut self, unit: u32) -> Result<(), LoadError> {
        // Those whose end no program saw: of a listener that was closed before it accepted them.
        let sockets = self.unit(unit).sockets;
        self.taken.subtract(TAKEN_SOCKETS as usize, 0, sockets);
        // Before it is handed out: the next cgroup's counters begin at nothing.
        self.units.set(unit as usize, Unit::default());
        self.free_units
            .push(unit, 0)
            .map_err(|error| failed("UNIT_FREE", &error))
    }
}

fn key(name: &FlowName) -> Key {
    let mut key = [0; size_of::<FlowName>()];
    let parts: [&[u8]; 6] = [
        &name.cgroup.to_ne_bytes(),
        &address_bytes(name.local),
        &address_bytes(name.peer),
        &name.port.to_ne_bytes(),
        &[name.protocol, name.role],
        &[0; 4],
    ];
    let mut at = 0;
    for part in parts {
        key[at..at + part.len()].copy_from_slice(part);
        at += part.len();
    }
    key
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_the_name_as_it_lies_in_memory() {
        let name = FlowName {
            cgroup: 0x0102_0304_0506_0708,
            local: [0x0101_0101_0101_0101; 2],
            peer: [0x0202_0202_0202_0202; 2],
            port: 443,
            protocol: 6,
            role: 2,
            reserved: 0,
        };
        let key = key(&name);
        assert_eq!(key[..8], name.cgroup.to_ne_bytes());
        assert_eq!(key[offset_of!(FlowName, local)], 1);
        assert_eq!(key[offset_of!(FlowName, peer)], 2);
        let port = offset_of!(FlowName, port);
        assert_eq!(key[port..port + 2], 443_u16.to_ne_bytes());
        assert_eq!(
            (
                key[offset_of!(FlowName, protocol)],
                key[offset_of!(FlowName, role)]
            ),
            (6, 2)
        );
    }
}
