//! Real namespaces and real packets. Needs root, `ip` and `nft`.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]
#![allow(unsafe_code, reason = "see WORKER")]

use std::{
    fs,
    io::{BufRead, BufReader},
    net::{IpAddr, SocketAddr},
    path::Path,
    process::{Command, ExitCode, Stdio},
    thread,
    time::{Duration, Instant},
};

use partywall_workload::{
    DropRule, Family, HostCgroup, NODE_IPV4, NODE_IPV6, Network, Pod, PodSpec, ServicePort, Traffic,
    Transport, Work, WorkHandle, cgroup2_mount, run_if_worker, sweep,
};

/// The test runner owns `main`, and work runs in re-executions of this very program: so this runs before `main`.
#[used]
#[unsafe(link_section = ".init_array")]
static WORKER: extern "C" fn() = {
    extern "C" fn before_main() {
        if let Some(code) = run_if_worker() {
            // SAFETY: a plain exit of a process that has only its own worker threads.
            unsafe { libc::_exit(i32::from(code != ExitCode::SUCCESS)) };
        }
        if std::env::var_os("PARTYWALL_ABANDON").is_some() {
            abandon();
        }
    }
    before_main
};

/// The life of a process that is killed while it holds a network: names its namespaces, and waits for the end.
fn abandon() -> ! {
    let mut network = Network::create().unwrap();
    let web = pod(&mut network, "abandoned", 2);
    let served = serve(&web, 80, Family::Dual);
    let worker = format!("/proc/{}/ns/net", served[0].pid());
    println!("{} {}", name(network.node().path()), name(worker));
    loop {
        thread::park();
    }
}

/// What a link into nsfs names.
fn name(path: impl AsRef<Path>) -> String {
    fs::read_link(path).unwrap().to_string_lossy().into_owned()
}

fn addresses(number: u16) -> [IpAddr; 2] {
    let v4 = format!("10.244.0.{number}");
    let v6 = format!("fd00:10:244::{number}");
    [v4.parse().unwrap(), v6.parse().unwrap()]
}

fn pod(network: &mut Network, name: &str, number: u16) -> Pod {
    let spec = PodSpec::new("workload-test", name);
    let mut pod = Pod::create(spec, &cgroup2_mount().unwrap()).unwrap();
    pod.connect(network.connect(&addresses(number)).unwrap());
    pod
}

fn serve(pod: &Pod, port: u16, family: Family) -> [WorkHandle; 2] {
    [Work::TcpServe { port, family }, Work::UdpServe { port, family }]
        .map(|work| pod.start(&work, None).unwrap())
}

fn at(ip: IpAddr, port: u16) -> SocketAddr {
    SocketAddr::new(ip, port)
}

fn tcp(to: SocketAddr, keep: bool) -> Work {
    Work::Tcp {
        to,
        per_second: 50.0,
        bytes: 3_000,
        keep,
    }
}

fn udp(to: SocketAddr) -> Work {
    Work::Udp {
        to,
        per_second: 200.0,
        bytes: 100,
        flows: 1,
        source: None,
    }
}

/// Runs `work` in `pod` for half a second.
fn after(pod: &Pod, work: Work) -> Traffic {
    after_ms(pod, work, 500)
}

#[allow(clippy::disallowed_methods, reason = "a plain test thread")]
fn pause(milliseconds: u64) {
    thread::sleep(Duration::from_millis(milliseconds));
}

fn after_ms(pod: &Pod, work: Work, milliseconds: u64) -> Traffic {
    let mut handle = pod.start(&work, None).unwrap();
    pause(milliseconds);
    assert!(handle.ended().is_none(), "{work:?}");
    handle.finish().unwrap()
}

/// Everything that was tried was answered in full.
fn all_answered(traffic: Traffic, work: Work) {
    assert_eq!(traffic.established, traffic.attempted, "{work:?}: {traffic:?}");
    assert_eq!(
        traffic.packets_received, traffic.packets_sent,
        "{work:?}: {traffic:?}"
    );
    assert_eq!(
        traffic.bytes_received, traffic.bytes_sent,
        "{work:?}: {traffic:?}"
    );
    let bad = traffic.refused + traffic.timed_out + traffic.failed + traffic.broken;
    assert_eq!(bad, 0, "{work:?}: {traffic:?}");
    assert!(traffic.bytes_sent > 0, "{work:?}: {traffic:?}");
}

#[test]
fn two_pods_reach_each_other_by_every_protocol_and_both_counts_agree() {
    let mut network = Network::create().unwrap();
    let (web, client) = (pod(&mut network, "web", 2), pod(&mut network, "client", 3));
    for (family, ip) in [Family::Ipv4, Family::Ipv6].into_iter().zip(addresses(2)) {
        let [tcp_server, udp_server] = serve(&web, 80, family);
        let once = after(&client, tcp(at(ip, 80), false));
        all_answered(once, tcp(at(ip, 80), false));
        assert!((10..=30).contains(&once.attempted), "{once:?}");
        assert_eq!(once.bytes_sent, once.attempted * 3_000);

        let kept = after(&client, tcp(at(ip, 80), true));
        all_answered(kept, tcp(at(ip, 80), true));
        assert_eq!((kept.attempted, kept.bytes_sent % 3_000), (1, 0), "{kept:?}");
        assert!(kept.bytes_sent >= 30_000, "{kept:?}");

        let datagrams = after(&client, udp(at(ip, 80)));
        all_answered(datagrams, udp(at(ip, 80)));
        assert_eq!(datagrams.bytes_sent, datagrams.packets_sent * 100);
        assert!((50..=110).contains(&datagrams.packets_sent), "{datagrams:?}");

        let ping = Work::Icmp {
            to: ip,
            per_second: 100.0,
        };
        let echoes = after(&client, ping);
        all_answered(echoes, ping);
        assert_eq!(echoes.bytes_received, echoes.packets_received * 56);

        let served = tcp_server.finish().unwrap();
        assert_eq!(served.established, once.attempted + 1, "{served:?}");
        assert_eq!(served.bytes_received, once.bytes_sent + kept.bytes_sent);
        assert_eq!(served.bytes_sent, served.bytes_received);
        let served = udp_server.finish().unwrap();
        assert_eq!(served.packets_received, datagrams.packets_sent);
        assert_eq!(served.bytes_sent, datagrams.bytes_received);
    }
}

#[test]
fn the_worker_is_in_its_cgroup_and_namespace_and_a_dual_server_takes_both_families() {
    let mut network = Network::create().unwrap();
    let (web, client) = (pod(&mut network, "dual", 2), pod(&mut network, "client", 3));
    let [server, _udp] = serve(&web, 80, Family::Dual);
    let namespace = |pid: &str| fs::read_link(format!("/proc/{pid}/ns/net")).unwrap();
    assert_ne!(namespace(&server.pid().to_string()), namespace("self"));
    let cgroups = fs::read_to_string(format!("/proc/{}/cgroup", server.pid())).unwrap();
    assert!(cgroups.contains(&web.spec().container_cgroup()), "{cgroups}");
    for ip in addresses(2) {
        for work in [tcp(at(ip, 80), false), udp(at(ip, 80))] {
            all_answered(after(&client, work), work);
        }
    }
}

#[test]
fn a_scan_knows_open_ports_from_closed_ones() {
    let mut network = Network::create().unwrap();
    let (web, client) = (pod(&mut network, "web", 2), pod(&mut network, "scanner", 3));
    let _served = serve(&web, 5, Family::Ipv4);
    let scan = Work::Scan {
        to: addresses(2)[0],
        first_port: 1,
        last_port: 10,
        per_second: 200.0,
    };
    let found = after(&client, scan);
    assert!(found.attempted >= 40, "{found:?}");
    assert_eq!(found.established + found.refused, found.attempted, "{found:?}");
    // Every tenth, from the fifth on.
    assert_eq!(found.established, (found.attempted + 5) / 10, "{found:?}");
}

#[test]
fn a_drop_drops_what_it_names_and_nothing_else() {
    let mut network = Network::create().unwrap();
    let (web, client, other) = (
        pod(&mut network, "web", 2),
        pod(&mut network, "client", 3),
        pod(&mut network, "other", 4),
    );
    let _served = [80, 81].map(|port| [Family::Ipv4, Family::Ipv6].map(|family| serve(&web, port, family)));
    let rule = |from, port| DropRule {
        from: addresses(from).to_vec(),
        to: addresses(2).to_vec(),
        port,
    };
    network.set_drops(&[rule(9, None), rule(3, Some(80))]).unwrap();
    for (ip, header) in addresses(2).into_iter().zip([20 + 8, 40 + 8]) {
        let before = network.dropped().unwrap()[1];
        let lost = after(&client, udp(at(ip, 80)));
        assert!(lost.packets_sent > 0 && lost.packets_received == 0, "{lost:?}");
        let after_it = network.dropped().unwrap()[1];
        assert_eq!(after_it.packets - before.packets, lost.packets_sent);
        assert_eq!(
            after_it.bytes - before.bytes,
            lost.bytes_sent + lost.packets_sent * header
        );
        let unanswered = after_ms(&client, tcp(at(ip, 80), false), 3_000);
        assert_eq!(unanswered.established + unanswered.refused, 0, "{unanswered:?}");
        assert!(unanswered.timed_out > 0, "{unanswered:?}");
        // Another port, another protocol, another pod.
        let ping = Work::Icmp {
            to: ip,
            per_second: 50.0,
        };
        for work in [tcp(at(ip, 81), false), udp(at(ip, 81)), ping] {
            all_answered(after(&client, work), work);
        }
        all_answered(after(&other, tcp(at(ip, 80), false)), tcp(at(ip, 80), false));
    }
    assert_eq!(network.dropped().unwrap()[0].packets, 0);
    // A drop that ends.
    network.set_drops(&[]).unwrap();
    let ip = addresses(2)[0];
    all_answered(after(&client, udp(at(ip, 80))), udp(at(ip, 80)));
}

#[test]
fn a_service_reaches_its_backends_in_turn_and_a_pod_reaches_itself() {
    let mut network = Network::create().unwrap();
    let (one, two, client) = (
        pod(&mut network, "one", 2),
        pod(&mut network, "two", 3),
        pod(&mut network, "client", 4),
    );
    let families = [Family::Ipv4, Family::Ipv6];
    let served = [&one, &two].map(|pod| families.map(|family| serve(pod, 8080, family)));
    let cluster: [IpAddr; 2] = ["10.96.0.10", "fd00:10:96::10"].map(|ip| ip.parse().unwrap());
    let ports = |backends: &[u16]| -> Vec<ServicePort> {
        let both = [Transport::Tcp, Transport::Udp].into_iter();
        both.flat_map(|transport| {
            (0..2).map(move |family| ServicePort {
                address: at(cluster[family], 80),
                transport,
                backends: backends
                    .iter()
                    .map(|&number| at(addresses(number)[family], 8080))
                    .collect(),
            })
        })
        .collect()
    };
    network.set_services(&ports(&[2, 3])).unwrap();
    for ip in cluster {
        for work in [tcp(at(ip, 80), false), udp(at(ip, 80))] {
            all_answered(after(&client, work), work);
        }
    }
    let accepted: Vec<u64> = served
        .iter()
        .map(|families| families[0][0].traffic().unwrap().established)
        .collect();
    assert!(
        accepted[0].abs_diff(accepted[1]) <= 1 && accepted[0] > 0,
        "{accepted:?}"
    );

    network.set_services(&ports(&[2])).unwrap();
    for ip in cluster {
        for work in [tcp(at(ip, 80), false), udp(at(ip, 80))] {
            all_answered(after(&one, work), work);
        }
    }
    // Nobody serves it, and a port that it has not.
    network.set_services(&ports(&[])).unwrap();
    for (ip, port) in [(cluster[0], 80), (cluster[1], 80), (cluster[0], 443)] {
        let refused = after(&client, tcp(at(ip, port), false));
        assert!(refused.attempted > 0, "{refused:?}");
        assert_eq!(refused.refused, refused.attempted, "{ip} {port}: {refused:?}");
    }
}

#[test]
fn an_address_can_be_given_to_the_next_pod() {
    let mut network = Network::create().unwrap();
    let client = pod(&mut network, "client", 3);
    let work = udp(at(addresses(2)[0], 80));
    for _ in 0..3 {
        let web = pod(&mut network, "web", 2);
        let served = serve(&web, 80, Family::Ipv4);
        all_answered(after(&client, work), work);
        web.remove().unwrap();
        drop(served);
        let lost = after(&client, work);
        assert_eq!(lost.packets_received, 0, "{lost:?}");
    }
}

#[test]
fn pods_of_the_node_and_the_world_outside_are_reached_and_reach() {
    let mut network = Network::create().unwrap();
    let client = pod(&mut network, "client", 3);
    let mut daemon = Pod::create(PodSpec::new("workload-test", "daemon"), &cgroup2_mount().unwrap()).unwrap();
    daemon.connect(network.connect_to_node());
    let mut world =
        HostCgroup::create("/partywall-test.slice/world.service", &cgroup2_mount().unwrap()).unwrap();
    world.connect(network.connect_outside());
    let _metadata = world
        .start(
            &Work::TcpServe {
                port: 80,
                family: Family::Dual,
            },
            None,
        )
        .unwrap();
    let _served = serve(&daemon, 9100, Family::Dual);
    let _own = serve(&client, 80, Family::Dual);
    for ip in [IpAddr::from(NODE_IPV4), NODE_IPV6.into()] {
        for work in [tcp(at(ip, 9100), false), udp(at(ip, 9100))] {
            all_answered(after(&client, work), work);
        }
    }
    for ip in addresses(3) {
        all_answered(after(&daemon, tcp(at(ip, 80), false)), tcp(at(ip, 80), false));
    }
    for ip in [
        "169.254.169.254",
        "fd00:ec2::254",
        "169.254.170.23",
        "203.0.113.7",
    ] {
        let ip: IpAddr = ip.parse().unwrap();
        let ping = Work::Icmp {
            to: ip,
            per_second: 50.0,
        };
        for work in [tcp(at(ip, 80), false), ping] {
            all_answered(after(&client, work), work);
            all_answered(after(&daemon, work), work);
        }
        let closed = after(&client, tcp(at(ip, 81), false));
        assert!(
            closed.refused > 0 && closed.refused == closed.attempted,
            "{closed:?}"
        );
    }
}

#[test]
fn a_spoofed_source_arrives_and_many_flows_go_to_many_ports() {
    let mut network = Network::create().unwrap();
    let (web, client) = (pod(&mut network, "web", 2), pod(&mut network, "client", 3));
    let [_tcp, server] = serve(&web, 80, Family::Ipv4);
    let spoofed = Work::Udp {
        to: at(addresses(2)[0], 80),
        per_second: 200.0,
        bytes: 100,
        flows: 1,
        source: Some("10.244.0.77".parse().unwrap()),
    };
    let sent = after(&client, spoofed);
    let seen = server.finish().unwrap();
    assert!(sent.packets_sent >= 50, "{sent:?}");
    assert_eq!(seen.packets_received, sent.packets_sent, "{seen:?}");
    assert_eq!(seen.bytes_received, sent.bytes_sent, "{seen:?}");

    let many = Work::Udp {
        to: at(addresses(2)[0], 10_000),
        per_second: 20_000.0,
        bytes: 10,
        flows: 5_000,
        source: None,
    };
    let served = web
        .start(
            &Work::UdpServe {
                port: 14_999,
                family: Family::Ipv4,
            },
            None,
        )
        .unwrap();
    let sent = after_ms(&client, many, 1_000);
    assert!(sent.packets_sent >= 10_000, "{sent:?}");
    assert_eq!(
        served.finish().unwrap().packets_received,
        sent.packets_sent / 5_000,
        "{sent:?}"
    );
}

#[test]
fn work_that_cannot_begin_says_so() {
    let mut network = Network::create().unwrap();
    let web = pod(&mut network, "web", 2);
    let _served = serve(&web, 80, Family::Ipv4);
    let again = Work::TcpServe {
        port: 80,
        family: Family::Ipv4,
    };
    let error = web.start(&again, None).unwrap_err().to_string();
    assert!(error.contains("port 80: Address already in use"), "{error}");
}

/// Network namespaces of which some process of the machine is, or of which it holds a file.
fn namespaces() -> Vec<String> {
    let mut all = Vec::new();
    for process in fs::read_dir("/proc").unwrap().flatten() {
        let mut links = vec![process.path().join("ns/net")];
        let held = fs::read_dir(process.path().join("fd"));
        links.extend(held.into_iter().flatten().flatten().map(|fd| fd.path()));
        let targets = links.iter().filter_map(|link| fs::read_link(link).ok());
        all.extend(
            targets
                .map(|target| target.to_string_lossy().into_owned())
                .filter(|target| target.starts_with("net:[")),
        );
    }
    all
}

fn said(program: &str, args: &[&str]) -> String {
    let output = Command::new(program).args(args).output().unwrap();
    assert!(output.status.success(), "{program} {args:?}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn nothing_is_left_behind() {
    let look = || {
        (
            said("ip", &["netns", "list"]),
            said("ip", &["-brief", "link"]),
            said("ip", &["route", "show", "table", "all"]),
            said("nft", &["list", "ruleset"]),
        )
    };
    let before = look();
    let mut network = Network::create().unwrap();
    let web = pod(&mut network, "web", 2);
    let served = serve(&web, 80, Family::Dual);
    let made = [
        name(network.node().path()),
        name(format!("/proc/{}/ns/net", served[0].pid())),
    ];
    assert!(made.iter().all(|one| namespaces().contains(one)));
    assert_eq!(look(), before, "the machine's own network is as it was");
    drop((served, web, network));
    wait_until_gone(&made);
    assert_eq!(look(), before);
}

fn wait_until_gone(made: &[String]) {
    let deadline = Instant::now() + Duration::from_secs(5);
    while made.iter().any(|one| namespaces().contains(one)) {
        assert!(Instant::now() < deadline, "{made:?} are still there");
        pause(20);
    }
}

#[test]
fn a_killed_owners_network_goes_by_itself() {
    let mut owner = Command::new("/proc/self/exe")
        .env("PARTYWALL_ABANDON", "1")
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(owner.stdout.take().unwrap())
        .read_line(&mut line)
        .unwrap();
    let made: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
    assert!(
        made.len() == 2 && made.iter().all(|one| namespaces().contains(one)),
        "{made:?}"
    );
    owner.kill().unwrap();
    owner.wait().unwrap();
    wait_until_gone(&made);
    // Its cgroups stay until they are swept.
    sweep(&cgroup2_mount().unwrap()).unwrap();
}
