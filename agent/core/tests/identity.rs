//! The corpus of cgroup paths met in the field, and what must hold for any path at all.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

use partywall_agent_core::identity::{HOST_PATH_MAX, Identity, identify};
use proptest::prelude::*;

const CORPUS: &str = include_str!("cgroup_paths.txt");

fn corpus() -> impl Iterator<Item = (usize, &'static str, Identity)> {
    let lines = CORPUS.lines().enumerate().map(|(at, line)| (at + 1, line));
    lines
        .filter(|(_, line)| !line.is_empty() && !line.starts_with('#'))
        .map(|(at, line)| {
            let (path, expected) = line
                .split_once(" => ")
                .unwrap_or_else(|| panic!("line {at}: no ` => `"));
            let words: Vec<&str> = expected.split(' ').collect();
            let identity = match words[..] {
                ["pod", uid] => Identity::Pod { uid: uid.to_owned() },
                ["container", pod_uid, id] => Identity::Container {
                    pod_uid: pod_uid.to_owned(),
                    id: id.to_owned(),
                },
                ["host", path] => Identity::Host {
                    path: path.to_owned(),
                },
                ["unreadable"] => Identity::Unreadable,
                _ => panic!("line {at}: cannot read `{expected}`"),
            };
            (at, path, identity)
        })
}

fn pod_uid(identity: &Identity) -> Option<&str> {
    match identity {
        Identity::Pod { uid } | Identity::Container { pod_uid: uid, .. } => Some(uid),
        Identity::Host { .. } | Identity::Unreadable => None,
    }
}

#[test]
fn corpus_paths_are_whose_the_corpus_says() {
    let wrong: Vec<String> = corpus()
        .filter_map(|(at, path, expected)| {
            let found = identify(path);
            (found != expected)
                .then(|| format!("line {at}: {path}\n  expected {expected:?}\n  found    {found:?}"))
        })
        .collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn corpus_has_every_kind_many_times() {
    let count = |wanted: fn(&Identity) -> bool| corpus().filter(|(_, _, identity)| wanted(identity)).count();
    assert!(count(|i| matches!(i, Identity::Pod { .. })) >= 10);
    assert!(count(|i| matches!(i, Identity::Container { .. })) >= 40);
    assert!(count(|i| matches!(i, Identity::Host { .. })) >= 30);
    assert!(count(|i| matches!(i, Identity::Unreadable)) >= 10);
}

#[test]
fn control_and_direction_characters_are_written_out() {
    let host = |path: &str| Identity::Host {
        path: path.to_owned(),
    };
    assert_eq!(identify("/a\nb"), host("/a\\x0ab"));
    assert_eq!(identify("/\x1b[2J"), host("/\\x1b[2J"));
    assert_eq!(identify("/\u{7f}\u{9b}"), host("/\\x7f\\u{9b}"));
    assert_eq!(identify("/a\u{202e}b"), host("/a\\u{202e}b"));
    for hidden in [
        '\u{200b}', '\u{200f}', '\u{2029}', '\u{2060}', '\u{2069}', '\u{feff}',
    ] {
        let written = format!("/a\\u{{{:x}}}", u32::from(hidden));
        assert_eq!(identify(&format!("/a{hidden}")), host(&written));
    }
    assert_eq!(
        identify("/dev-disk\\x2dlabel.mount"),
        host("/dev-disk\\x2dlabel.mount"),
        "systemd's own escapes stay"
    );
}

#[test]
fn a_long_host_path_is_cut_between_characters() {
    let Identity::Host { path } = identify(&format!("/a{}", "ä".repeat(300))) else {
        panic!("no host path");
    };
    assert_eq!(path.len(), HOST_PATH_MAX);
    assert!(path.ends_with('ä'));
    let Identity::Host { path } = identify(&format!("/{}", "ä".repeat(300))) else {
        panic!("no host path");
    };
    assert_eq!(path.len(), HOST_PATH_MAX - 1, "an odd byte is left over");
}

/// Components that paths of interest are made of, each with the pod uid it pretends to be.
fn component() -> impl Strategy<Value = String> {
    let uid = prop_oneof![
        Just("1858680e-b044-4fd5-9dd4-f137e30e2180"),
        Just("a7b74024-f357-4d7e-858f-f0da16d1be6f"),
        Just("99dcb84d2a34f7e338778606703258c4"),
    ];
    let prefix = prop_oneof![Just(""), Just("kubelet-")];
    let qos = prop_oneof![Just(""), Just("-burstable"), Just("-besteffort")];
    let id = "[0-9a-f]{64}";
    let plain = prop::sample::select(vec![
        "kubepods.slice",
        "kubepods",
        "kubelet.slice",
        "kubelet",
        "kubelet-kubepods.slice",
        "burstable",
        "besteffort",
        "kubepods-burstable.slice",
        "kubepods-besteffort.slice",
        "kubelet-kubepods-burstable.slice",
        "system.slice",
        "machine.slice",
        "user.slice",
        "docker",
        "container",
        "init.scope",
        "containerd.service",
        "evil.service",
        "kata_overhead",
        "libpod_parent",
    ]);
    prop_oneof![
        4 => plain.prop_map(str::to_owned),
        2 => (prefix, qos, uid.clone()).prop_map(|(prefix, qos, uid)| format!("{prefix}kubepods{qos}-pod{}.slice", uid.replace('-', "_"))),
        1 => uid.clone().prop_map(|uid| format!("pod{uid}")),
        1 => (uid, id).prop_map(|(uid, id)| format!("kubepods-pod{}.slice:cri-containerd:{id}", uid.replace('-', "_"))),
        1 => (prop::sample::select(vec!["docker", "libpod", "cri-containerd", "crio"]), id).prop_map(|(runtime, id)| format!("{runtime}-{id}.scope")),
        1 => id,
        1 => "[ -~\u{0}-\u{1f}é]{1,12}".prop_map(|text| text.replace('/', "")),
    ]
}

/// Half of them begin where pods are, so that most cases are near the line.
fn path() -> impl Strategy<Value = String> {
    let root = prop::sample::select(vec![
        "",
        "/kubepods.slice",
        "/kubepods.slice/kubepods-burstable.slice",
        "/kubepods/besteffort",
        "/kubelet.slice/kubelet-kubepods.slice",
        "/system.slice",
        "/docker/fd9d0ea06257a9780827cbc7fd92e3812a54fca26d63e191b73610d5d48b9cbd",
    ]);
    let below = prop::collection::vec(component(), 0..9);
    (root, below).prop_map(|(root, below)| format!("{root}/{}", below.join("/")))
}

/// The uid that the first component naming any pod names. Written apart from the code under test: by looking for the text.
fn first_uid_named(path: &str) -> Option<String> {
    path.split('/').find_map(|component| {
        let name = component.split(".slice").next()?;
        let at = name
            .find("pod")
            .filter(|_| !["kube", "libpod"].iter().any(|other| name.starts_with(other)))
            .or_else(|| name.find("-pod").map(|at| at + 1))?;
        let uid = name[at + 3..].replace('_', "-");
        (uid.len() >= 32).then_some(uid)
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4096))]

    #[test]
    fn any_text_has_an_identity_and_a_host_path_is_clean(text in "\\PC*|(/[ -~\u{0}-\u{1f}\u{80}-\u{9f}]{0,80}){0,6}") {
        if let Identity::Host { path } = identify(&text) {
            prop_assert!(path.starts_with('/'));
            prop_assert!(path.len() <= HOST_PATH_MAX);
            prop_assert!(!path.chars().any(char::is_control), "{path:?}");
        }
    }

    #[test]
    fn a_uid_is_always_that_of_the_first_pod_named(path in path()) {
        if let Some(uid) = pod_uid(&identify(&path)) {
            prop_assert_eq!(Some(uid.to_owned()), first_uid_named(&path), "{}", path);
        }
    }

    #[test]
    fn what_a_container_makes_below_itself_is_its_own(line in 0_usize..1000, suffix in path()) {
        let containers: Vec<_> = corpus().filter(|(_, _, identity)| matches!(identity, Identity::Container { .. })).collect();
        let (_, path, identity) = &containers[line % containers.len()];
        prop_assert_eq!(&identify(&format!("{path}{suffix}")), identity);
    }

    #[test]
    fn what_is_made_below_a_pod_is_that_pods(line in 0_usize..1000, suffix in path()) {
        let pods: Vec<_> = corpus().filter(|(_, _, identity)| pod_uid(identity).is_some()).collect();
        let (_, path, identity) = &pods[line % pods.len()];
        let below = identify(&format!("{path}{suffix}"));
        prop_assert_eq!(pod_uid(&below), pod_uid(identity));
    }

    #[test]
    fn nothing_below_a_service_of_the_host_becomes_a_pod(suffix in path()) {
        let expected = Identity::Host { path: "/system.slice/evil.service".to_owned() };
        prop_assert_eq!(identify(&format!("/system.slice/evil.service{suffix}")), expected);
        let expected = Identity::Host { path: "/user.slice/user-1000.slice".to_owned() };
        prop_assert_eq!(identify(&format!("/user.slice/user-1000.slice/user@1000.service{suffix}")), expected);
    }
}
