//! What a pod was asked to be, and the cgroup paths that follow from it.

use std::{collections::BTreeMap, fs::File, io::Read};

use crate::{Error, Transport};

/// CPU and memory, as a request or as a limit.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Resources {
    pub cpu_cores: Option<f64>,
    pub memory_bytes: Option<u64>,
}

/// Kubernetes' quality-of-service classes: they decide below which slice a pod's cgroup lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Qos {
    Guaranteed,
    Burstable,
    BestEffort,
}

/// One pod with one container.
#[derive(Clone, Debug, PartialEq)]
pub struct PodSpec {
    pub namespace: String,
    pub name: String,
    /// `metadata.uid`, with dashes.
    pub uid: String,
    /// Runtime's id of the one container: 64 hex digits.
    pub container_id: String,
    pub requests: Resources,
    pub limits: Resources,
    pub labels: BTreeMap<String, String>,
    pub host_network: bool,
    /// `status.podIPs`, as text; empty: no address yet.
    pub pod_ips: Vec<String>,
    /// `status.hostIPs`, as text; empty: not told.
    pub host_ips: Vec<String>,
    /// Of the one container.
    pub ports: Vec<ContainerPort>,
}

/// A named port of a container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContainerPort {
    pub name: String,
    pub port: u16,
    pub transport: Transport,
}

impl PodSpec {
    /// A pod without requests or limits, under a fresh UID and container id.
    pub fn new(namespace: impl Into<String>, name: impl Into<String>) -> Self {
        Self {
            namespace: namespace.into(),
            name: name.into(),
            uid: fresh_uid(),
            container_id: hex(&fresh_bytes::<32>()),
            requests: Resources::default(),
            limits: Resources::default(),
            labels: BTreeMap::new(),
            host_network: false,
            pod_ips: Vec::new(),
            host_ips: Vec::new(),
            ports: Vec::new(),
        }
    }

    /// Requests as the API server stores them: a limit without a request is the request too.
    pub fn effective_requests(&self) -> Resources {
        Resources {
            cpu_cores: self.requests.cpu_cores.or(self.limits.cpu_cores),
            memory_bytes: self.requests.memory_bytes.or(self.limits.memory_bytes),
        }
    }

    /// The class by Kubernetes' rule for a pod with one container.
    pub fn qos(&self) -> Qos {
        if self.requests == Resources::default() && self.limits == Resources::default() {
            return Qos::BestEffort;
        }
        let all_limited = self.limits.cpu_cores.is_some() && self.limits.memory_bytes.is_some();
        if all_limited && self.effective_requests() == self.limits {
            Qos::Guaranteed
        } else {
            Qos::Burstable
        }
    }

    /// The pod's cgroup below the v2 mount, as kubelet's systemd driver makes it. No leading slash.
    pub fn pod_cgroup(&self) -> String {
        // systemd reads a dash in a slice's name as a level of hierarchy, so kubelet writes the UID with underscores.
        let uid = self.uid.replace('-', "_");
        match self.qos() {
            Qos::Guaranteed => format!("kubepods.slice/kubepods-pod{uid}.slice"),
            Qos::Burstable => {
                format!("kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{uid}.slice")
            }
            Qos::BestEffort => {
                format!("kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod{uid}.slice")
            }
        }
    }

    /// The container's cgroup below the v2 mount, as containerd names it. No leading slash.
    pub fn container_cgroup(&self) -> String {
        format!("{}/cri-containerd-{}.scope", self.pod_cgroup(), self.container_id)
    }

    /// Refuses a UID or container id that would lead out of the pod's cgroup.
    pub(crate) fn check(&self) -> Result<(), Error> {
        for part in [&self.uid, &self.container_id] {
            if part.is_empty() || !part.chars().all(|c| c.is_ascii_alphanumeric() || c == '-') {
                return Err(Error::PathEscapes { path: part.clone() });
            }
        }
        Ok(())
    }
}

/// A random (version 4) UUID.
fn fresh_uid() -> String {
    let mut bytes = fresh_bytes::<16>();
    bytes[6] = bytes[6] & 0x0f | 0x40;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    let digits = hex(&bytes);
    format!(
        "{}-{}-{}-{}-{}",
        &digits[..8],
        &digits[8..12],
        &digits[12..16],
        &digits[16..20],
        &digits[20..]
    )
}

fn fresh_bytes<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    // /dev/urandom never blocks after boot and cannot fail short of a missing /dev; two pods would then share a UID, and
    // making the second one's cgroup says so.
    let _read = File::open("/dev/urandom").and_then(|mut file| file.read_exact(&mut bytes));
    bytes
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(requests: Resources, limits: Resources) -> PodSpec {
        PodSpec {
            uid: "0f3e2d1c-aaaa-4bbb-8ccc-0123456789ab".to_owned(),
            container_id: "ab".repeat(32),
            requests,
            limits,
            ..PodSpec::new("blue", "web")
        }
    }

    fn resources(cpu_cores: impl Into<Option<f64>>, memory_bytes: impl Into<Option<u64>>) -> Resources {
        Resources {
            cpu_cores: cpu_cores.into(),
            memory_bytes: memory_bytes.into(),
        }
    }

    #[test]
    fn qos_follows_kubernetes() {
        let none = Resources::default();
        assert_eq!(spec(none, none).qos(), Qos::BestEffort);
        assert_eq!(spec(resources(0.5, None), none).qos(), Qos::Burstable);
        assert_eq!(spec(none, resources(1.0, None)).qos(), Qos::Burstable);
        assert_eq!(spec(resources(0.5, 64), resources(1.0, 64)).qos(), Qos::Burstable);
        assert_eq!(
            spec(resources(1.0, 64), resources(1.0, 64)).qos(),
            Qos::Guaranteed
        );
        // Requests left out are filled in from the limits before the class is decided.
        assert_eq!(spec(none, resources(1.0, 64)).qos(), Qos::Guaranteed);
    }

    #[test]
    fn paths_are_those_of_kubelets_systemd_driver() {
        let none = Resources::default();
        let uid = "0f3e2d1c_aaaa_4bbb_8ccc_0123456789ab";
        let scope = format!("cri-containerd-{}.scope", "ab".repeat(32));
        assert_eq!(
            spec(none, none).container_cgroup(),
            format!("kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod{uid}.slice/{scope}")
        );
        assert_eq!(
            spec(resources(0.1, None), none).container_cgroup(),
            format!("kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{uid}.slice/{scope}")
        );
        assert_eq!(
            spec(none, resources(1.0, 64)).container_cgroup(),
            format!("kubepods.slice/kubepods-pod{uid}.slice/{scope}")
        );
    }

    #[test]
    fn fresh_identities_are_well_formed_and_differ() {
        let (one, other) = (PodSpec::new("blue", "web"), PodSpec::new("blue", "web"));
        assert_ne!(one.uid, other.uid);
        assert_ne!(one.container_id, other.container_id);
        let lengths: Vec<usize> = one.uid.split('-').map(str::len).collect();
        assert_eq!(lengths, [8, 4, 4, 4, 12]);
        assert_eq!(&one.uid[14..15], "4");
        assert_eq!(one.container_id.len(), 64);
    }

    #[test]
    fn an_identity_cannot_lead_out_of_the_tree() {
        let mut pod = PodSpec::new("blue", "web");
        pod.uid = "../../x".to_owned();
        let error = pod.check().unwrap_err().to_string();
        assert!(error.contains("../../x"), "{error}");
    }
}
