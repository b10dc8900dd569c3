//! What this machine is and allows.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use anyhow::{Context, anyhow};
use partywall_agent::kernel::features::{Facts, plan};
use partywall_workload::Network;

use crate::exit::{Code, Failure, Outcome};

/// One line that says what `command` lacks here and how to get it, before anything is touched. The agent's own check
/// decides what it cannot do without; `also` names features that it could miss and `command` cannot.
pub(crate) fn allows(command: &str, also: &[&str]) -> Outcome {
    let (_, features) = plan(&Facts::probe(None));
    let lacking = features
        .iter()
        .find(|feature| !feature.present && (feature.required || also.contains(&feature.name)));
    match lacking {
        None => Ok(()),
        Some(feature) => Err(Failure::new(
            Code::Missing,
            anyhow!("{command} cannot run here: {}", feature.reason),
        )),
    }
}

/// Whether pods can be given a network. Both packages are named: whoever installs one then has both.
pub(crate) fn allows_network(command: &str) -> Outcome {
    if !Path::new("/proc/sys/net/ipv6").exists() {
        let error = anyhow!(partywall_workload::Error::NoIpv6).context(format!("{command} cannot run here"));
        return Err(Failure::new(Code::Missing, error));
    }
    let Some(package) = Network::lacks_package() else {
        return Ok(());
    };
    Err(Failure::new(
        Code::Missing,
        anyhow!(
            "{command} cannot run here: no program of the Debian package {package} was found; its pods' network takes `ip` \
             and `nft`: apt-get install iproute2 nftables"
        ),
    ))
}

/// The last CPU that this process may use: the first ones serve most interrupts.
pub(crate) fn last_allowed_cpu() -> anyhow::Result<usize> {
    let status = fs::read_to_string("/proc/self/status").context("reading /proc/self/status")?;
    last_of_list(&status).ok_or_else(|| anyhow!("/proc/self/status names no allowed CPU"))
}

/// `Cpus_allowed_list: 0-3,8`
fn last_of_list(status: &str) -> Option<usize> {
    let list = status
        .lines()
        .find_map(|line| line.strip_prefix("Cpus_allowed_list:"))?;
    list.trim().rsplit([',', '-']).next()?.parse().ok()
}

/// The host's name as a Kubernetes node would have it: lower case, and nothing that no node name may hold.
pub(crate) fn name() -> String {
    node_name(&fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default())
}

fn node_name(host: &str) -> String {
    let plain = |letter: char| {
        if letter.is_ascii_alphanumeric() || letter == '.' {
            letter
        } else {
            '-'
        }
    };
    let name: String = host.trim().to_ascii_lowercase().chars().map(plain).collect();
    let labels = name
        .split('.')
        .map(|label| label.trim_matches('-'))
        .filter(|label| !label.is_empty());
    let name = labels.collect::<Vec<_>>().join(".");
    if name.is_empty() {
        "localhost".to_owned()
    } else {
        name
    }
}

/// Network namespaces that this process holds open, as `net:[4026532345]`. Those that it made have no other name: with the last
/// of these and the last process in it, each is gone.
pub(crate) fn net_namespaces() -> BTreeSet<String> {
    let open = fs::read_dir("/proc/self/fd").into_iter().flatten().flatten();
    open.filter_map(|entry| fs::read_link(entry.path()).ok())
        .map(|target| target.display().to_string())
        .filter(|target| target.starts_with("net:["))
        .collect()
}

/// eBPF programs, maps and links that this process holds, from what the kernel says of its open files.
pub(crate) fn bpf_objects() -> usize {
    let Ok(entries) = fs::read_dir("/proc/self/fdinfo") else {
        return 0;
    };
    entries
        .flatten()
        .filter_map(|entry| fs::read_to_string(entry.path()).ok())
        .filter(|info| {
            info.lines().any(|line| {
                ["prog_id:", "map_id:", "link_id:"]
                    .iter()
                    .any(|key| line.starts_with(key))
            })
        })
        .count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_host_has_a_node_name() {
        for (host, node) in [
            ("Build_Host-7\n", "build-host-7"),
            ("a.b.c", "a.b.c"),
            ("-x-..-y", "x.y"),
            ("", "localhost"),
            ("ü", "localhost"),
        ] {
            assert_eq!(node_name(host), node);
        }
    }

    #[test]
    fn a_network_namespace_is_seen_while_it_is_held() {
        let own = fs::read_link("/proc/self/ns/net").expect("a namespace");
        let is_held = || net_namespaces().contains(&own.display().to_string());
        let held = fs::File::open("/proc/self/ns/net").expect("a namespace");
        assert!(is_held());
        drop(held);
        assert!(!is_held());
    }

    #[test]
    fn the_last_cpu_is_found_in_any_list() {
        for (list, last) in [("0-3", 3), ("0", 0), ("0,2-5,9", 9), ("1,3", 3)] {
            assert_eq!(
                last_of_list(&format!("Cpus_allowed:\tff\nCpus_allowed_list:\t{list}\n")),
                Some(last)
            );
        }
        assert_eq!(last_of_list("Cpus_allowed_list:\t\n"), None);
    }
}
