//! A pod's container as an OCI bundle: what kubelet and containerd make of the manifest, so that runc starts it as a node would.

use std::{
    collections::BTreeMap,
    fs,
    net::SocketAddr,
    os::unix::fs::{PermissionsExt, chown},
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

use super::manifest::{Container, PodTemplate, TlsSecret, Variable, VolumeMount};
use crate::{manifests::Documents, processes::NODE};

/// What the container gets that its manifest does not say: from the node, or from the test.
pub(crate) struct Surroundings<'a> {
    /// Of the image, unpacked.
    pub(crate) rootfs: &'a Path,
    /// Where volumes of the pod are made.
    pub(crate) volumes: &'a Path,
    /// `/proc/…/ns/net` of the pod.
    pub(crate) network: PathBuf,
    /// Below the v2 mount, with a leading slash.
    pub(crate) cgroup: String,
    /// /etc/hosts, as kubelet writes it.
    pub(crate) hosts: &'a Path,
    /// The engine's default profile.
    pub(crate) seccomp: &'a Value,
    /// All that was rendered: Secrets are taken from it.
    pub(crate) documents: &'a Documents,
    /// The API server as pods find it.
    pub(crate) api: SocketAddr,
    /// What the kubelet puts into a pod for its service account, by name.
    pub(crate) service_account: &'a BTreeMap<&'static str, String>,
    /// The token for an audience, as the kubelet asks the API for one.
    pub(crate) token: &'a dyn Fn(&str) -> String,
}

/// Unpacks the image `layout` to `bundle`, by a program that is not ours.
pub(crate) fn unpack(layout: &Path, tag: &str, bundle: &Path) -> Result<()> {
    let output = Command::new("umoci")
        .args(["unpack", "--image"])
        .arg(format!("{}:{tag}", layout.display()))
        .arg(bundle)
        .output()
        .context("cannot start umoci: apt-get install umoci")?;
    ensure!(
        output.status.success(),
        "umoci unpack: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(())
}

/// config.json.
pub(crate) fn config(pod: &PodTemplate, with: &Surroundings<'_>) -> Result<Value> {
    let container = pod.container()?;
    let security = &container.security_context;
    ensure!(!security.privileged, "container {}: privileged", container.name);
    ensure!(
        !pod.host_network && !pod.host_pid,
        "container {}: shares the node's network or processes",
        container.name
    );
    let (user, group) = (
        pod.security_context.run_as_user,
        pod.security_context.run_as_group,
    );
    ensure!(
        !(pod.security_context.run_as_non_root && user == 0),
        "runAsNonRoot with runAsUser 0: the kubelet would refuse it"
    );
    let capabilities = capabilities(container)?;
    let mut env = vec!["PATH=/".to_owned()];
    for variable in &container.env {
        env.push(format!("{}={}", variable.name, value(variable)?));
    }
    env.push(format!("KUBERNETES_SERVICE_HOST={}", with.api.ip()));
    env.push(format!("KUBERNETES_SERVICE_PORT={}", with.api.port()));
    let mut mounts = standard_mounts();
    for mount in &container.volume_mounts {
        mounts.push(volume(pod, mount, with)?);
    }
    if pod.automount_service_account_token {
        let files = with.service_account.iter();
        let files = files.map(|(name, text)| (*name, text.as_str()));
        let dir = made(pod, &with.volumes.join("service-account"), 0o444, files)?;
        mounts.push(bind(&dir, SERVICE_ACCOUNT, true, false));
    }
    mounts.push(bind(with.hosts, "/etc/hosts", false, false));
    let mut command = container.command.clone();
    command.extend(container.args.iter().cloned());
    let mut config = json!({
        "ociVersion": "1.0.2",
        "hostname": container.name,
        "root": {"path": with.rootfs, "readonly": security.read_only_root_filesystem},
        "process": {
            "terminal": false,
            "cwd": "/",
            "user": {"uid": user, "gid": group, "additionalGids": Vec::from_iter(pod.security_context.fs_group)},
            "args": command,
            "env": env,
            "noNewPrivileges": !security.allow_privilege_escalation,
            // No ambient ones: Kubernetes has no way to ask for them.
            "capabilities": {"bounding": capabilities, "effective": capabilities, "permitted": capabilities},
        },
        "mounts": mounts,
        "linux": {
            "cgroupsPath": with.cgroup,
            "namespaces": [
                {"type": "pid"}, {"type": "ipc"}, {"type": "uts"}, {"type": "mount"}, {"type": "cgroup"},
                {"type": "network", "path": with.network},
            ],
            "resources": {"devices": [{"allow": false, "access": "rwm"}]},
            "maskedPaths": [
                "/proc/acpi", "/proc/asound", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/timer_list",
                "/proc/timer_stats", "/proc/sched_debug", "/proc/scsi", "/sys/firmware",
            ],
            "readonlyPaths": ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"],
        },
    });
    match &*pod.security_context.seccomp_profile.kind {
        "RuntimeDefault" => config["linux"]["seccomp"] = seccomp(with.seccomp, &capabilities)?,
        other => bail!("seccompProfile.type {other}: only RuntimeDefault is known here"),
    }
    Ok(config)
}

/// With `drop: [ALL]` nothing of the engine's own set is left.
fn capabilities(container: &Container) -> Result<Vec<String>> {
    let wanted = &container.security_context.capabilities;
    ensure!(
        wanted.drop == ["ALL"],
        "container {}: capabilities.drop is {:?}, not ALL",
        container.name,
        wanted.drop
    );
    Ok(wanted.add.iter().map(|name| format!("CAP_{name}")).collect())
}

fn value(variable: &Variable) -> Result<String> {
    if let Some(value) = &variable.value {
        return Ok(value.clone());
    }
    let from = variable
        .value_from
        .as_ref()
        .map(|from| &*from.field_ref.field_path);
    match from {
        Some("spec.nodeName") => Ok(NODE.to_owned()),
        other => bail!("env {}: fieldRef {other:?} is not known here", variable.name),
    }
}

/// Where every pod finds its service account.
pub(crate) const SERVICE_ACCOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

/// Files of a volume as the kubelet makes them: the pod's group may read them where it has one.
fn made<'f>(
    pod: &PodTemplate,
    dir: &Path,
    mode: u32,
    files: impl IntoIterator<Item = (&'f str, &'f str)>,
) -> Result<PathBuf> {
    fs::create_dir_all(dir)?;
    for (name, text) in files {
        let file = dir.join(name);
        fs::write(&file, text)?;
        let group = pod.security_context.fs_group;
        chown(&file, None, group)?;
        fs::set_permissions(&file, fs::Permissions::from_mode(mode))?;
    }
    Ok(dir.to_owned())
}

fn volume(pod: &PodTemplate, mount: &VolumeMount, with: &Surroundings<'_>) -> Result<Value> {
    let dir = with.volumes.join(&mount.name);
    let volume = pod
        .volumes
        .iter()
        .find(|volume| volume.name == mount.name)
        .with_context(|| format!("volumeMounts: no volume {}", mount.name))?;
    let slave = match mount.mount_propagation.as_deref() {
        None => false,
        Some("HostToContainer") => true,
        Some(other) => bail!("volume {}: mountPropagation {other}", mount.name),
    };
    if let Some(path) = &volume.host_path {
        return Ok(bind(
            Path::new(&path.path),
            &mount.mount_path,
            mount.read_only,
            slave,
        ));
    }
    if let Some(secret) = &volume.secret {
        let files = TlsSecret::of(with.documents, &secret.secret_name)?;
        made(pod, &dir, secret.default_mode, files.files())?;
        return Ok(bind(&dir, &mount.mount_path, mount.read_only, slave));
    }
    if let Some(projected) = &volume.projected {
        for source in &projected.sources {
            let asked = &source.service_account_token;
            let token = (with.token)(&asked.audience);
            made(pod, &dir, projected.default_mode, [(&*asked.path, &*token)])?;
        }
        return Ok(bind(&dir, &mount.mount_path, mount.read_only, slave));
    }
    if volume.empty_dir.is_some() {
        fs::create_dir_all(&dir)?;
        // As the kubelet makes them: for everybody, and with the pod's group where it has one.
        let mode = match pod.security_context.fs_group {
            Some(group) => {
                chown(&dir, None, Some(group))?;
                0o2777
            }
            None => 0o777,
        };
        fs::set_permissions(&dir, fs::Permissions::from_mode(mode))?;
        return Ok(bind(&dir, &mount.mount_path, mount.read_only, slave));
    }
    bail!(
        "volume {}: of a kind that nobody makes for this test",
        volume.name
    )
}

fn bind(source: &Path, destination: &str, read_only: bool, slave: bool) -> Value {
    let options = [
        "rbind",
        if slave { "rslave" } else { "rprivate" },
        if read_only { "ro" } else { "rw" },
    ];
    json!({"type": "bind", "source": source, "destination": destination, "options": options})
}

/// containerd's own.
fn standard_mounts() -> Vec<Value> {
    let mount = |destination: &str, kind: &str, options: &[&str]| json!({"destination": destination, "type": kind, "source": kind, "options": options});
    let restricted = ["nosuid", "noexec", "nodev"];
    let read_only = ["nosuid", "noexec", "nodev", "ro"];
    vec![
        mount("/proc", "proc", &restricted),
        mount(
            "/dev",
            "tmpfs",
            &["nosuid", "strictatime", "mode=755", "size=65536k"],
        ),
        mount(
            "/dev/pts",
            "devpts",
            &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"],
        ),
        mount("/dev/mqueue", "mqueue", &restricted),
        mount("/sys", "sysfs", &read_only),
        mount(
            "/sys/fs/cgroup",
            "cgroup",
            &["nosuid", "noexec", "nodev", "relatime", "ro"],
        ),
    ]
}

/// The engine's profile for a container with these capabilities: its rules that allow. What no rule allows is refused.
///
/// The profile that Debian 12 has is older than the rule that containerd (since 1.7) and Docker (since 23) have for bpf(2): it is added.
fn seccomp(profile: &Value, capabilities: &[String]) -> Result<Value> {
    let mut rules = Vec::new();
    for rule in profile["syscalls"]
        .as_array()
        .context("the seccomp profile has no syscalls")?
    {
        let lists = |of: &str, what: &str| -> Option<Vec<&str>> {
            let list = rule[of][what].as_array()?;
            Some(list.iter().filter_map(Value::as_str).collect())
        };
        let has = |name: &&str| capabilities.iter().any(|own| own == name);
        let fits = lists("includes", "caps").is_none_or(|caps| caps.iter().all(has))
            && lists("excludes", "caps").is_none_or(|caps| !caps.iter().any(has))
            && lists("includes", "arches").is_none_or(|arches| arches.contains(&ARCH));
        if fits && rule["action"] == "SCMP_ACT_ALLOW" {
            let mut allowed = json!({"names": rule["names"], "action": "SCMP_ACT_ALLOW"});
            if rule["args"].as_array().is_some_and(|args| !args.is_empty()) {
                allowed["args"] = rule["args"].clone();
            }
            rules.push(allowed);
        }
    }
    if capabilities.iter().any(|own| own == "CAP_BPF") {
        rules.push(json!({"names": ["bpf"], "action": "SCMP_ACT_ALLOW"}));
    }
    Ok(json!({
        "defaultAction": "SCMP_ACT_ERRNO",
        "defaultErrnoRet": profile["defaultErrnoRet"],
        "architectures": [if ARCH == "amd64" { "SCMP_ARCH_X86_64" } else { "SCMP_ARCH_AARCH64" }],
        "syscalls": rules,
    }))
}

const ARCH: &str = if cfg!(target_arch = "x86_64") {
    "amd64"
} else {
    "arm64"
};

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifests::Documents;

    #[test]
    fn the_manifests_ask_for_three_capabilities_and_nothing_else() {
        let text = include_str!("../../../../deploy/manifests/partywall.yaml");
        let documents = Documents::parse(text).unwrap();
        let of = |kind: &str| {
            let pod = PodTemplate::of(&documents, kind).unwrap();
            let container = pod.container().unwrap();
            let security = &container.security_context;
            assert!(security.read_only_root_filesystem && !security.allow_privilege_escalation);
            assert!(!security.privileged && !pod.host_network && !pod.host_pid);
            let paths = pod.volumes.iter().filter_map(|volume| volume.host_path.as_ref());
            let paths: Vec<String> = paths.map(|host| host.path.clone()).collect();
            (
                pod.security_context.run_as_user,
                capabilities(container).unwrap(),
                paths,
            )
        };
        let three = ["CAP_BPF", "CAP_PERFMON", "CAP_NET_ADMIN"]
            .map(str::to_owned)
            .to_vec();
        assert_eq!(of("DaemonSet"), (0, three, vec!["/sys/fs/cgroup".to_owned()]));
        assert_eq!(of("Deployment"), (65_532, vec![], vec![]));
    }

    #[test]
    fn rules_follow_the_capabilities() {
        let profile = json!({"defaultErrnoRet": 38, "syscalls": [
            {"names": ["read"], "action": "SCMP_ACT_ALLOW", "args": [], "includes": {}, "excludes": {}},
            {"names": ["bpf", "setns"], "action": "SCMP_ACT_ALLOW", "includes": {"caps": ["CAP_SYS_ADMIN"]}, "excludes": {}},
            {"names": ["bpf", "setns"], "action": "SCMP_ACT_ERRNO", "includes": {}, "excludes": {"caps": ["CAP_SYS_ADMIN"]}},
            {"names": ["arm_only"], "action": "SCMP_ACT_ALLOW", "includes": {"arches": ["ppc64le"]}},
        ]});
        let names = |capabilities: &[&str]| -> Vec<String> {
            let owned: Vec<String> = capabilities.iter().map(|&name| name.to_owned()).collect();
            let made = seccomp(&profile, &owned).unwrap();
            let rules = made["syscalls"].as_array().unwrap().iter();
            rules
                .flat_map(|rule| rule["names"].as_array().unwrap())
                .map(|name| name.as_str().unwrap().to_owned())
                .collect()
        };
        assert_eq!(names(&[]), ["read"]);
        assert_eq!(names(&["CAP_BPF"]), ["read", "bpf"]);
        assert_eq!(names(&["CAP_SYS_ADMIN"]), ["read", "bpf", "setns"]);
    }
}
