//! Who has which address when, and which objects there are when.

use std::{net::IpAddr, time::Duration};

use anyhow::Result;
use partywall_workload::DropRule;
use toml::Spanned;

use super::{Change, Checker, Dropping, ScenarioPod, raw, seconds};
use crate::manifests::{Documents, Key};

/// Everything that work may be sent to.
pub(super) struct Directory<'a> {
    /// In a scenario without a network, nobody has an address.
    pub(super) pods: &'a [ScenarioPod],
    pub(super) documents: &'a Documents,
    pub(super) changes: &'a [Change],
}

impl Directory<'_> {
    /// The pod's address at that time. The error says why it has none.
    pub(super) fn pod(&self, name: &str, is_ipv4: bool, at: Duration) -> Result<IpAddr, String> {
        let named = || self.pods.iter().filter(|pod| pod.full_name() == name);
        let there = |pod: &&ScenarioPod| pod.start <= at && pod.end().is_none_or(|end| at < end);
        match named().find(there) {
            Some(pod) => pod
                .addresses()
                .into_iter()
                .find(|address| address.is_ipv4() == is_ipv4)
                .ok_or_else(|| format!("`{name}` has no address of that family")),
            None if named().next().is_some() => Err(format!(
                "pod `{name}` is not there at {} s, when this work begins",
                at.as_secs_f64()
            )),
            None => Err(format!(
                "`{name}` is no pod of this scenario, no \"service:NAMESPACE/NAME\" and no address"
            )),
        }
    }

    pub(super) fn service(&self, name: &str, is_ipv4: bool, at: Duration) -> Result<IpAddr, String> {
        let documents = in_force(self.documents, self.changes, at);
        let services = documents.services().map_err(|error| format!("{error:#}"))?;
        let found = services
            .iter()
            .find(|service| format!("{}/{}", service.namespace, service.name) == name);
        let Some(service) = found else {
            return Err(format!("there is no Service `{name}` at {} s", at.as_secs_f64()));
        };
        let address = service.addresses.iter().find(|ip| ip.is_ipv4() == is_ipv4);
        address.copied().ok_or_else(|| {
            let version = if is_ipv4 { 4 } else { 6 };
            format!("Service `{name}` has no IPv{version} address: write spec.clusterIPs")
        })
    }
}

/// The objects as they are at a time.
fn in_force(documents: &Documents, changes: &[Change], at: Duration) -> Documents {
    let mut documents = documents.clone();
    for change in changes.iter().filter(|change| change.at <= at) {
        change.apply(&mut documents);
    }
    documents
}

impl Checker<'_> {
    /// By time.
    pub(super) fn changes(&self, raw: Vec<raw::Change>, documents: &Documents) -> Result<Vec<Change>> {
        let mut changes = Vec::new();
        let mut keys: Vec<Vec<(Key, Spanned<String>)>> = Vec::new();
        for entry in raw {
            let Some(at) = seconds(*entry.at_s.get_ref()) else {
                let why = format!(
                    "`{}` must be seconds from the start, zero or more",
                    entry.at_s.get_ref()
                );
                return self.refuse(&entry.at_s, "at_s", &why);
            };
            if entry.manifests.is_none() && entry.remove.is_empty() {
                return self.refuse(&entry.at_s, "manifests, remove", "one of them is needed");
            }
            let put = self.documents(entry.manifests.as_ref())?;
            let mut remove = Vec::new();
            for text in entry.remove {
                let Some(key) = Key::parse(text.get_ref()) else {
                    let why = format!("`{}` is not as \"NetworkPolicy/blue/deny\"", text.get_ref());
                    return self.refuse(&text, "remove", &why);
                };
                remove.push((key, text));
            }
            changes.push(Change {
                at,
                put,
                remove: remove.iter().map(|(key, _)| key.clone()).collect(),
            });
            keys.push(remove);
        }
        let mut order: Vec<usize> = (0..changes.len()).collect();
        order.sort_by_key(|number| changes[*number].at);
        let mut documents = documents.clone();
        for &number in &order {
            let known: Vec<&Key> = documents.keys().collect();
            if let Some((key, text)) = keys[number].iter().find(|(key, _)| !known.contains(&key)) {
                let why = format!("there is no {key} at {} s", changes[number].at.as_secs_f64());
                return self.refuse(text, "remove", &why);
            }
            changes[number].apply(&mut documents);
        }
        changes.sort_by_key(|change| change.at);
        Ok(changes)
    }

    pub(super) fn documents(&self, manifests: Option<&Spanned<String>>) -> Result<Documents> {
        let Some(text) = manifests else {
            return Ok(Documents::default());
        };
        let documents =
            Documents::parse(text.get_ref()).and_then(|documents| documents.services().map(|_| documents));
        documents.or_else(|error| self.refuse(text, "manifests", &format!("{error:#}")))
    }

    pub(super) fn drops(&self, raw: Vec<raw::Drop>, pods: &[ScenarioPod]) -> Result<Vec<Dropping>> {
        raw.into_iter()
            .map(|entry| {
                Ok(Dropping {
                    rule: DropRule {
                        from: self.ends(&entry.from, "from", pods)?,
                        to: self.ends(&entry.to, "to", pods)?,
                        port: entry.port,
                    },
                    from: entry.from.into_inner(),
                    to: entry.to.into_inner(),
                })
            })
            .collect()
    }

    /// Every address that pods of a name have while the scenario runs, or the one that is written.
    fn ends(&self, name: &Spanned<String>, key: &str, pods: &[ScenarioPod]) -> Result<Vec<IpAddr>> {
        if let Ok(address) = name.get_ref().parse() {
            return Ok(vec![address]);
        }
        let named = pods.iter().filter(|pod| pod.full_name() == *name.get_ref());
        let addresses: Vec<IpAddr> = named.flat_map(ScenarioPod::addresses).collect();
        if addresses.is_empty() {
            let why = format!("`{}` is no pod of this scenario and no address", name.get_ref());
            return self.refuse(name, key, &why);
        }
        Ok(addresses)
    }
}
