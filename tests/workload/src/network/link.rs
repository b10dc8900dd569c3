//! A pod's namespace and its way to the node.

use std::{net::IpAddr, path::PathBuf};

use super::{GATEWAY_IPV4, GATEWAY_IPV6, NODE_IPV4, NODE_IPV6, NetNs, SETTINGS};
use crate::Error;

/// The network that processes run in. Dropping a pod's own frees its addresses at once, whatever still runs in it.
#[derive(Debug)]
pub struct PodLink {
    namespace: NetNs,
    /// The node's end of a pod's own, and the node.
    device: Option<(String, NetNs)>,
}

impl PodLink {
    pub(super) fn shared(namespace: &NetNs) -> Self {
        Self {
            namespace: namespace.clone(),
            device: None,
        }
    }

    pub(super) fn create(node: &NetNs, number: u16, addresses: &[IpAddr]) -> Result<Self, Error> {
        let namespace = NetNs::create()?;
        namespace.set(&SETTINGS)?;
        let device = format!("pod{number}");
        let [high, low] = number.to_be_bytes();
        let near = format!("02:50:57:00:{high:02x}:{low:02x}");
        let far = format!("02:50:57:01:{high:02x}:{low:02x}");
        let mut at_node = format!(
            "link add {device} address {near} type veth peer name eth0 address {far} netns {}\n\
             link set {device} up\n",
            namespace.path().display()
        );
        let mut in_pod = "link set lo up\nlink set eth0 up\n".to_owned();
        for address in addresses {
            let (bits, own, gateway, everything, flags) = match address {
                IpAddr::V4(_) => (
                    32,
                    NODE_IPV4.to_string(),
                    GATEWAY_IPV4.to_string(),
                    "0.0.0.0/0",
                    "",
                ),
                // Nobody else can have it, so nobody is asked.
                IpAddr::V6(_) => (
                    128,
                    NODE_IPV6.to_string(),
                    GATEWAY_IPV6.to_string(),
                    "::/0",
                    "nodad",
                ),
            };
            at_node += &format!(
                "route add {address}/{bits} dev {device} src {own}\n\
                 neigh add {address} lladdr {far} dev {device} nud permanent\n"
            );
            in_pod += &format!(
                "addr add {address}/{bits} dev eth0 {flags}\n\
                 neigh add {gateway} lladdr {near} dev eth0 nud permanent\n\
                 route add {everything} via {gateway} dev eth0 onlink\n"
            );
        }
        node.ip(&at_node)?;
        // From here on the device goes with the link.
        let link = Self {
            namespace,
            device: Some((device, node.clone())),
        };
        link.namespace.ip(&in_pod)?;
        Ok(link)
    }

    /// Where any process may find the namespace for as long as the link lives.
    pub fn path(&self) -> PathBuf {
        self.namespace.path()
    }

    /// Runs `job` on a thread that is in it: sockets stay where they were made.
    pub fn within<T: Send>(&self, job: impl FnOnce() -> T + Send) -> Result<T, Error> {
        self.namespace.within(|| Ok(job()))
    }

    pub(crate) fn namespace(&self) -> &NetNs {
        &self.namespace
    }
}

impl Drop for PodLink {
    fn drop(&mut self) {
        // The kernel removes a namespace's devices some time after its end; the address may be wanted again before.
        if let Some((device, node)) = &self.device
            && let Err(error) = node.ip(&format!("link del {device}\n"))
        {
            tracing::warn!(%error, "veth left behind");
        }
    }
}
