//! Whose is a cgroup? Answered from its path alone.
//!
//! A pod with a writable cgroup (KEP-5474) makes children with any name it likes, a victim's among them. So a path is
//! read from the root downwards, never from its end, and the first pod met owns everything below it. The first part of
//! the path must be one that only root on the node can make:
//!
//! | below | accepted | made by |
//! |---|---|---|
//! | the node's root | `kubepods.slice`, `kubepods` | kubelet, systemd and cgroupfs driver |
//! | | `kubelet.slice/kubelet-kubepods.slice`, `kubelet/kubepods` | kubelet with `--cgroup-root=/kubelet` (kind) |
//! | | `<pod>.slice:<runtime>:<id>`, there or in `system.slice`, a runtime's service, `kata_overhead` | a runtime that was handed a systemd path without the systemd driver |
//!
//! The node's root is the path's own, or that of a node which is itself a container (kind, k3d, minikube): one or more of
//! `system.slice/docker-<id>.scope`, `system.slice/nerdctl-<id>.scope`, `docker/<id>`,
//! `machine.slice/libpod-<id>.scope[/container]`, `libpod_parent/libpod-<id>`. Only root starts those.
//!
//! Not accepted, and so no pod but a host cgroup: anything below another service or scope, and below `user@<uid>.service`
//! (rootless kind or k3s), where an unprivileged user writes what it likes; LXC guests, whose own root does; a kubelet
//! with another `--cgroup-root`.

/// Longest [`Identity::Host`] path, in bytes.
pub const HOST_PATH_MAX: usize = 256;

/// Deepest [`Identity::Host`] path, in components.
const HOST_DEPTH: usize = 3;

/// Scope and directory names that the runtimes give to a pod's containers, before `-<id>`.
const RUNTIMES: [&str; 4] = ["cri-containerd", "crio", "docker", "libpod"];

/// Services that a runtime may put cgroups into, where it runs without the systemd driver.
const RUNTIME_SERVICES: [&str; 11] = [
    "containerd.service",
    "crio.service",
    "cri-docker.service",
    "docker.service",
    "k0scontroller.service",
    "k0sworker.service",
    "k3s-agent.service",
    "k3s.service",
    "rke2-agent.service",
    "rke2-server.service",
    "snap.microk8s.daemon-containerd.service",
];

/// Whose a cgroup is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Identity {
    /// A pod's own cgroup, or one of its helpers (conmon, a shim) that is no container.
    Pod {
        /// `metadata.uid` as the API writes it; of a static pod its config hash, 32 digits without dashes.
        uid: String,
    },
    /// One of a pod's containers, and everything below it.
    Container {
        pod_uid: String,
        /// The runtime's id, without `containerd://`.
        id: String,
    },
    /// No pod's.
    Host {
        /// Folded to at most three components, ending at the first service, scope or user; `/` for the root. Without
        /// control characters, at most [`HOST_PATH_MAX`] bytes.
        path: String,
    },
    /// Below a kubepods root, but no known layout explains it: some pod's, not known whose.
    Unreadable,
}

/// Whose the cgroup at `path` is. `path` is below the cgroup v2 mount and begins with `/`.
pub fn identify(path: &str) -> Identity {
    let components: Vec<&str> = path
        .split('/')
        .filter(|component| !component.is_empty())
        .collect();
    let node = below_node_containers(&components);
    let found = misplaced(node).or_else(|| match node {
        ["kubepods.slice", rest @ ..] => below_slices("", rest),
        ["kubelet.slice", "kubelet-kubepods.slice", rest @ ..] => below_slices("kubelet-", rest),
        ["kubepods", rest @ ..]
        | ["kubelet", "kubepods", rest @ ..]
        | ["kata_overhead", "kubepods", rest @ ..] => below_directories(rest),
        _ => None,
    });
    found.unwrap_or_else(|| Identity::Host {
        path: fold(&components),
    })
}

/// What is left below the innermost node that is a container, or all of `rest` on an ordinary node.
fn below_node_containers<'a, 'p>(mut rest: &'a [&'p str]) -> &'a [&'p str] {
    loop {
        rest = match rest {
            ["system.slice", scope, tail @ ..]
                if scope.strip_suffix(".scope").is_some_and(|name| {
                    prefixed_id(name, "docker").is_some() || prefixed_id(name, "nerdctl").is_some()
                }) =>
            {
                tail
            }
            ["docker", id, tail @ ..] if is_container_id(id) => tail,
            ["machine.slice", scope, tail @ ..]
                if scope
                    .strip_suffix(".scope")
                    .is_some_and(|name| prefixed_id(name, "libpod").is_some()) =>
            {
                // crun keeps the scope for systemd and puts the payload one below.
                tail.strip_prefix(&["container"]).unwrap_or(tail)
            }
            ["libpod_parent", name, tail @ ..] if prefixed_id(name, "libpod").is_some() => tail,
            _ => return rest,
        }
    }
}

/// `<pod>.slice:<runtime>:<id>` as one component: what runc makes of a systemd path when it was not told to use systemd.
/// cgroup v1 put it into the runtime's own service, v2 beside that service; kata puts a sandbox's overhead below its own root.
fn misplaced(node: &[&str]) -> Option<Identity> {
    let component = match node {
        ["system.slice", service, component, ..] if RUNTIME_SERVICES.contains(service) => component,
        ["system.slice" | "kata_overhead", component, ..] => component,
        [component, ..] => component,
        [] => return None,
    };
    let (slice, name) = component.split_once(':')?;
    let (runtime, id) = name.split_once(':')?;
    if !RUNTIMES.contains(&runtime) || !is_container_id(id) {
        return None;
    }
    let name = slice.strip_prefix("kubelet-").unwrap_or(slice);
    let name = name.strip_prefix("kubepods")?;
    let name = name
        .strip_prefix("-burstable")
        .or_else(|| name.strip_prefix("-besteffort"))
        .unwrap_or(name);
    let pod_uid = uid(name.strip_prefix("-pod")?.strip_suffix(".slice")?)?;
    Some(Identity::Container {
        pod_uid,
        id: id.to_owned(),
    })
}

/// The systemd driver: every slice bears its parents' names, and `-` in a uid is written `_`. `None`: no pod's, but
/// kubelet's own root or QoS level.
fn below_slices(prefix: &str, rest: &[&str]) -> Option<Identity> {
    let (slice, below) = rest.split_first()?;
    // `name` is what the slice adds to its parent's name.
    let name_in = |slice: &str, parent: &str| -> Option<String> {
        let name = slice.strip_prefix(prefix)?.strip_prefix(parent)?;
        Some(name.strip_prefix('-')?.strip_suffix(".slice")?.to_owned())
    };
    let name = name_in(slice, "kubepods");
    match name.as_deref() {
        Some(qos @ ("burstable" | "besteffort")) => {
            let (slice, below) = below.split_first()?;
            Some(pod(name_in(slice, &format!("kubepods-{qos}")).as_deref(), below))
        }
        name => Some(pod(name, below)),
    }
}

/// The cgroupfs driver. `None`: no pod's, but kubelet's own root or QoS level.
fn below_directories(rest: &[&str]) -> Option<Identity> {
    let rest = match rest {
        ["burstable" | "besteffort", rest @ ..] => rest,
        rest => rest,
    };
    let (name, below) = rest.split_first()?;
    Some(pod(Some(name), below))
}

/// At the place where kubelet makes pods: `name` is `pod<uid>`, or this is none that we know.
fn pod(name: Option<&str>, below: &[&str]) -> Identity {
    let Some(uid) = name.and_then(|name| name.strip_prefix("pod")).and_then(uid) else {
        return Identity::Unreadable;
    };
    match below.first().and_then(|name| container(name)) {
        Some(id) => Identity::Container { pod_uid: uid, id },
        None => Identity::Pod { uid },
    }
}

/// The container id in the name of a pod's direct child, where that is a container. `crio-conmon-<id>` is the monitor
/// that CRI-O keeps beside each container: the pod's overhead.
fn container(name: &str) -> Option<String> {
    let name = name.strip_suffix(".scope").unwrap_or(name);
    RUNTIMES
        .iter()
        .find_map(|runtime| prefixed_id(name, runtime))
        .or_else(|| is_container_id(name).then_some(name))
        .map(str::to_owned)
}

fn prefixed_id<'a>(name: &'a str, prefix: &str) -> Option<&'a str> {
    let id = name.strip_prefix(prefix)?.strip_prefix('-')?;
    is_container_id(id).then_some(id)
}

/// 64 hex digits in every runtime we know; shorter ones are taken down to Docker's short form.
fn is_container_id(text: &str) -> bool {
    (12..=64).contains(&text.len()) && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

/// A pod's uid in the API's own form: lower case, dashes. A static pod's config hash has none.
fn uid(text: &str) -> Option<String> {
    let bytes = text.as_bytes();
    let known = match bytes.len() {
        32 => bytes.iter().all(u8::is_ascii_hexdigit),
        36 => {
            let separator = bytes[8];
            matches!(separator, b'-' | b'_')
                && bytes.iter().enumerate().all(|(at, byte)| match at {
                    8 | 13 | 18 | 23 => *byte == separator,
                    _ => byte.is_ascii_hexdigit(),
                })
        }
        _ => false,
    };
    known.then(|| text.to_ascii_lowercase().replace('_', "-"))
}

/// A host cgroup's path as it is reported: few enough to name, the same while a service restarts its workers. A user's
/// sessions are that user; their numbers grow for ever.
fn fold(components: &[&str]) -> String {
    let mut path = String::new();
    for component in components.iter().take(HOST_DEPTH) {
        let user = path == "/user.slice";
        path.push('/');
        component.chars().for_each(|c| push_escaped(&mut path, c));
        if user || component.ends_with(".service") || component.ends_with(".scope") {
            break;
        }
    }
    if path.is_empty() {
        path.push('/');
    }
    path.truncate(path.floor_char_boundary(HOST_PATH_MAX));
    path
}

/// Names end up in logs, labels and terminals: what would break a line, turn its direction or not show is written out, as `\x0a`,
/// `\u{202e}`. The aggregator refuses a report with such a name.
fn push_escaped(path: &mut String, c: char) {
    match c {
        c if c.is_ascii_control() => path.push_str(&format!("\\x{:02x}", u32::from(c))),
        // Longer than itself: what std does not call printable.
        c if !c.is_ascii() && c.escape_debug().len() > 1 => path.extend(c.escape_unicode()),
        c => path.push(c),
    }
}
