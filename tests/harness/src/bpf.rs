//! What a process has in the kernel: its programs, maps and links, and whether they are still there without it.

use std::{collections::BTreeSet, fs};

use anyhow::{Context, Result};
use aya::maps::{HashMap, Map, MapData, loaded_maps};
use aya::programs::{loaded_links, loaded_programs};

/// Ids of kernel objects.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Objects {
    pub(crate) programs: BTreeSet<u32>,
    pub(crate) maps: BTreeSet<u32>,
    pub(crate) links: BTreeSet<u32>,
}

impl Objects {
    /// What `pid` holds by file descriptors, and the maps that its programs use.
    pub(crate) fn of(pid: u32) -> Result<Self> {
        let mut found = Self::default();
        let dir = format!("/proc/{pid}/fdinfo");
        for entry in fs::read_dir(&dir).with_context(|| dir.clone())?.flatten() {
            let Ok(info) = fs::read_to_string(entry.path()) else {
                continue;
            };
            for line in info.lines() {
                let Some((key, value)) = line.split_once(":\t") else {
                    continue;
                };
                let ids = match key {
                    "prog_id" => &mut found.programs,
                    "map_id" => &mut found.maps,
                    "link_id" => &mut found.links,
                    _ => continue,
                };
                ids.extend(value.trim().parse::<u32>());
            }
        }
        for program in loaded_programs().flatten() {
            if found.programs.contains(&program.id()) {
                found
                    .maps
                    .extend(program.map_ids().ok().flatten().unwrap_or_default());
            }
        }
        Ok(found)
    }

    /// Those that the kernel still has.
    pub(crate) fn left(&self) -> Result<Self> {
        let programs = loaded_programs()
            .map(|info| info.map(|info| info.id()))
            .collect::<Result<BTreeSet<_>, _>>()?;
        let maps = loaded_maps()
            .map(|info| info.map(|info| info.id()))
            .collect::<Result<BTreeSet<_>, _>>()?;
        let links = loaded_links()
            .map(|info| info.map(|info| info.id()))
            .collect::<Result<BTreeSet<_>, _>>()?;
        let both = |own: &BTreeSet<u32>, all: &BTreeSet<u32>| own.intersection(all).copied().collect();
        Ok(Self {
            programs: both(&self.programs, &programs),
            maps: both(&self.maps, &maps),
            links: both(&self.links, &links),
        })
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.programs.is_empty() && self.maps.is_empty() && self.links.is_empty()
    }

    /// Keys of the map called `name`, which maps cgroup ids to slots.
    pub(crate) fn cgroup_ids(&self, name: &str) -> Result<BTreeSet<u64>> {
        let info = loaded_maps()
            .flatten()
            .find(|info| self.maps.contains(&info.id()) && info.name_as_str() == Some(name))
            .with_context(|| format!("the agent has no map {name}"))?;
        let map: HashMap<_, u64, u32> = Map::HashMap(MapData::from_id(info.id())?).try_into()?;
        let mut ids = BTreeSet::new();
        for _ in 0..4 {
            // A walk begins again when an entry is deleted under it: a few times over sees every lasting key.
            ids.extend(map.keys().take(16 * partywall_abi::SLOTS).flatten());
        }
        ids.retain(|id| map.get(id, 0).is_ok());
        Ok(ids)
    }
}
