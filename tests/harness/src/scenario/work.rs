//! Work: which keys belong to which kind, and what they may say.

use std::time::Duration;

use anyhow::{Result, bail};
use partywall_workload::Work;
use toml::Spanned;

use super::{Checker, ScenarioPod, TimedWork, directory::Directory, raw, seconds};

impl Checker<'_> {
    /// `start`: when what does the work is there.
    pub(super) fn works(
        &self,
        raw: Vec<raw::Work>,
        start: Duration,
        directory: &Directory<'_>,
    ) -> Result<Vec<TimedWork>> {
        raw.into_iter()
            .map(|entry| self.work(entry, start, directory))
            .collect()
    }

    fn work(&self, raw: raw::Work, start: Duration, directory: &Directory<'_>) -> Result<TimedWork> {
        use raw::Kind;
        self.check_keys(&raw)?;
        let (Some(from), Ok(to)) = (
            seconds(raw.from_s),
            raw.to_s.map(|s| seconds(s).ok_or(s)).transpose(),
        ) else {
            return self.refuse(
                &raw.kind,
                "from_s, to_s",
                "must be seconds from the start, zero or more",
            );
        };
        if to.is_some_and(|to| to <= from) {
            return self.refuse(&raw.kind, "to_s", "must be later than from_s");
        }
        let begins = from.max(start);
        if raw.before_agent && !begins.is_zero() {
            return self.refuse(
                &raw.kind,
                "before_agent",
                "only for what is there from the start: neither start_s nor from_s",
            );
        }
        let name = name_of(*raw.kind.get_ref());
        let positive = |key, value| self.positive(&raw, key, value);
        let bytes = |key, value| self.bytes(&raw, key, value);
        let threads = || match raw.threads.unwrap_or(1) {
            count @ 1..=1024 => Ok(count),
            other => self.refuse(&raw.kind, "threads", &format!("`{other}` is not from 1 to 1024")),
        };
        let (work, title) = match raw.kind.get_ref() {
            Kind::Duty => {
                let work = Work::Duty {
                    busy_ms: positive("busy_ms", raw.busy_ms)?,
                    idle_ms: positive("idle_ms", raw.idle_ms)?,
                    threads: threads()?,
                };
                (work, name.to_owned())
            }
            Kind::Spin => (Work::Spin { threads: threads()? }, name.to_owned()),
            Kind::Fork => {
                let work = Work::Fork {
                    per_second: positive("per_second", raw.per_second)?,
                };
                (work, name.to_owned())
            }
            Kind::Memory => {
                let all = bytes("bytes", raw.bytes)?;
                let work = Work::Memory {
                    bytes: all,
                    step_bytes: bytes("step_bytes", raw.step_bytes.or(raw.bytes))?,
                    every_ms: raw
                        .every_ms
                        .map_or(Ok(0.0), |value| positive("every_ms", Some(value)))?,
                    keep: raw.keep.unwrap_or(true),
                };
                (work, name.to_owned())
            }
            Kind::FileCache => {
                let work = Work::FileCache {
                    bytes: bytes("bytes", raw.bytes)?,
                };
                (work, name.to_owned())
            }
            Kind::TcpServe | Kind::UdpServe | Kind::Tcp | Kind::Udp | Kind::Icmp | Kind::Scan => {
                self.network_work(&raw, name, begins, directory)?
            }
        };
        Ok(TimedWork {
            work,
            title,
            from,
            to,
            before_agent: raw.before_agent,
            cgroup: raw.cgroup.map(Spanned::into_inner),
        })
    }

    fn check_keys(&self, raw: &raw::Work) -> Result<()> {
        let given = [
            ("busy_ms", raw.busy_ms.is_some()),
            ("idle_ms", raw.idle_ms.is_some()),
            ("threads", raw.threads.is_some()),
            ("per_second", raw.per_second.is_some()),
            ("bytes", raw.bytes.is_some()),
            ("step_bytes", raw.step_bytes.is_some()),
            ("every_ms", raw.every_ms.is_some()),
            ("keep", raw.keep.is_some()),
            ("port", raw.port.is_some()),
            ("to", raw.to.is_some()),
            ("ports", raw.ports.is_some()),
            ("family", raw.family.is_some()),
            ("flows", raw.flows.is_some()),
            ("source", raw.source.is_some()),
        ];
        let kind = *raw.kind.get_ref();
        let keys = keys_of(kind);
        let stranger = given
            .iter()
            .find(|(key, is_given)| *is_given && !keys.contains(key));
        stranger.map_or(Ok(()), |(key, _)| {
            let why = format!("is no key of work kind {}", name_of(kind));
            self.refuse(&raw.kind, key, &why)
        })
    }

    pub(super) fn positive(&self, raw: &raw::Work, key: &'static str, value: Option<f64>) -> Result<f64> {
        match value {
            Some(value) if value.is_finite() && value > 0.0 => Ok(value),
            Some(value) => self.refuse(&raw.kind, key, &format!("`{value}` must be more than zero")),
            None => self.lacks(raw, key),
        }
    }

    pub(super) fn bytes(
        &self,
        raw: &raw::Work,
        key: &'static str,
        value: Option<raw::Memory>,
    ) -> Result<u64> {
        match value {
            Some(raw::Memory(0)) => self.refuse(&raw.kind, key, "`0` must be more than zero"),
            Some(raw::Memory(bytes)) => Ok(bytes),
            None => self.lacks(raw, key),
        }
    }

    pub(super) fn lacks<T>(&self, raw: &raw::Work, key: &str) -> Result<T> {
        let name = name_of(*raw.kind.get_ref());
        self.refuse(&raw.kind, key, &format!("work kind {name} needs it"))
    }

    /// Replaces `{cgroup of NAMESPACE/NAME}` in the places of work by that pod's container cgroup.
    pub(super) fn resolve_places(&self, pods: &mut [ScenarioPod]) -> Result<()> {
        const OPEN: &str = "{cgroup of ";
        let paths: Vec<(String, String)> = pods
            .iter()
            .map(|pod| (pod.full_name(), pod.spec.container_cgroup()))
            .collect();
        for place in pods
            .iter_mut()
            .flat_map(|pod| &mut pod.work)
            .filter_map(|work| work.cgroup.as_mut())
        {
            while let Some((before, rest)) = place.split_once(OPEN) {
                let named = rest.split_once('}');
                let found = named.and_then(|(name, _)| paths.iter().find(|(pod, _)| pod == name));
                let (Some((_, after)), Some((_, path))) = (named, found) else {
                    bail!("cgroup: `{place}` names no pod of this scenario: write {OPEN}NAMESPACE/NAME}}");
                };
                *place = format!("{before}{path}{after}");
            }
        }
        Ok(())
    }
}

fn name_of(kind: raw::Kind) -> &'static str {
    use raw::Kind;
    match kind {
        Kind::Duty => "duty",
        Kind::Spin => "spin",
        Kind::Fork => "fork",
        Kind::Memory => "memory",
        Kind::FileCache => "file-cache",
        Kind::TcpServe => "tcp-serve",
        Kind::UdpServe => "udp-serve",
        Kind::Tcp => "tcp",
        Kind::Udp => "udp",
        Kind::Icmp => "icmp",
        Kind::Scan => "scan",
    }
}

fn keys_of(kind: raw::Kind) -> &'static [&'static str] {
    use raw::Kind;
    match kind {
        Kind::Duty => &["busy_ms", "idle_ms", "threads"],
        Kind::Spin => &["threads"],
        Kind::Fork => &["per_second"],
        Kind::Memory => &["bytes", "step_bytes", "every_ms", "keep"],
        Kind::FileCache => &["bytes"],
        Kind::TcpServe | Kind::UdpServe => &["port", "family"],
        Kind::Tcp => &["to", "port", "per_second", "bytes", "keep", "family"],
        Kind::Udp => &["to", "port", "per_second", "bytes", "flows", "source", "family"],
        Kind::Icmp => &["to", "per_second", "family"],
        Kind::Scan => &["to", "ports", "per_second", "family"],
    }
}
