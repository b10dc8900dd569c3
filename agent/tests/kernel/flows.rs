//! Traffic over the loopback device between sockets of two cgroups: a socket keeps the cgroup in which it was made.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};

use partywall_abi::{
    FLOWS, FlowName, ROLE_ACCEPTED, ROLE_OPENED, Traffic, UNIT_FLOWS, UNIT_SOCKETS, address_bytes,
};
use partywall_agent::kernel::flows::FlowMaps;
use partywall_agent::memory::Kinds;
use partywall_agent::reader::{Reader, Reading};
use partywall_agent_core::fold::Who;

use rustix::net::{AddressFamily, SendFlags, SocketType, ipproto};

use super::*;

const TCP: u8 = 6;
const UDP: u8 = 17;

/// Headers of a UDP packet.
const UDP_HEADERS: u64 = 28;

/// Makes sockets as a process of `cgroup` would.
fn within<T>(cgroup: &Cgroup, make: impl FnOnce() -> T) -> T {
    static HOME: LazyLock<PathBuf> = LazyLock::new(|| {
        let own = fs::read_to_string("/proc/self/cgroup").unwrap();
        let path = own.lines().find_map(|line| line.strip_prefix("0::/")).unwrap();
        Facts::probe(None).cgroup_root.unwrap().join(path)
    });
    /// Home again, also when a test fails: its cgroup could not be removed else.
    struct Home;
    impl Drop for Home {
        fn drop(&mut self) {
            let _ = fs::write(HOME.join("cgroup.procs"), std::process::id().to_string());
        }
    }
    LazyLock::force(&HOME);
    let _home = Home;
    fs::write(cgroup.path.join("cgroup.procs"), std::process::id().to_string()).unwrap();
    make()
}

/// The half that counts traffic, as on a kernel that lets no program read its memory.
fn load_flows() -> (Kernel, tokio::runtime::Runtime) {
    let mut facts = Facts::probe(None);
    facts.lockdown = Some("confidentiality".to_owned());
    load_as(&facts, |_| ())
}

fn flows(kernel: &Kernel) -> &FlowMaps {
    kernel.flows.as_ref().expect("traffic is counted here")
}

/// The one flow of `cgroup` on `port`.
fn flow_on(kernel: &Kernel, cgroup: &Cgroup, protocol: u8, port: u16) -> (FlowName, Traffic) {
    let maps = flows(kernel);
    let mut found = maps
        .names()
        .filter(|(_, name)| name.cgroup == cgroup.id() && (name.protocol, name.port) == (protocol, port));
    let (place, name) = found.next().expect("a flow of this cgroup on this port");
    assert_eq!(found.next(), None, "one flow");
    (name, maps.flow(place).traffic)
}

fn folded(kernel: &Kernel, cgroup: &Cgroup) -> Traffic {
    let mut units = flows(kernel).units();
    units
        .find(|(_, unit)| unit.cgroup == cgroup.id())
        .map_or_else(Traffic::default, |(_, unit)| unit.folded)
}

fn bytes_of(ip: IpAddr) -> [u8; 16] {
    match ip {
        IpAddr::V4(ip) => ip.to_ipv6_mapped().octets(),
        IpAddr::V6(ip) => ip.octets(),
    }
}

fn loopbacks() -> [IpAddr; 2] {
    [Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()]
}

#[test]
fn datagrams_are_counted_on_both_sides_and_whoever_was_first_opened() {
    let (kernel, _runtime) = load_flows();
    let (red, blue) = (Cgroup::new("red"), Cgroup::new("blue"));
    for ip in loopbacks() {
        let client = within(&red, || UdpSocket::bind((ip, 0)).unwrap());
        let server = within(&blue, || UdpSocket::bind((ip, 0)).unwrap());
        let port = server.local_addr().unwrap().port();
        let mut buffer = [0; 2_000];
        for turn in 0..1_000 {
            client.send_to(&[1; 100], (ip, port)).unwrap();
            let (_, from) = server.recv_from(&mut buffer).unwrap();
            if turn % 2 == 0 {
                server.send_to(&[2; 1_000], from).unwrap();
                client.recv_from(&mut buffer).unwrap();
            }
        }
        let headers = if ip.is_ipv4() {
            UDP_HEADERS
        } else {
            UDP_HEADERS + 20
        };
        let (name, seen) = flow_on(&kernel, &red, UDP, port);
        assert_eq!(
            (address_bytes(name.local), address_bytes(name.peer), name.role),
            (bytes_of(ip), bytes_of(ip), ROLE_OPENED)
        );
        assert_eq!((seen.sent_packets, seen.received_packets), (1_000, 500));
        assert_eq!(
            (seen.sent_bytes, seen.received_bytes),
            (1_000 * (100 + headers), 500 * (1_000 + headers))
        );
        let (name, seen) = flow_on(&kernel, &blue, UDP, port);
        assert_eq!(name.role, ROLE_ACCEPTED);
        assert_eq!((seen.sent_packets, seen.received_packets), (500, 1_000));
    }
    assert_eq!(folded(&kernel, &red), Traffic::default());
}

#[test]
fn connections_are_counted_from_their_first_packet_to_their_end() {
    let (kernel, _runtime) = load_flows();
    let (red, blue) = (Cgroup::new("red"), Cgroup::new("blue"));
    for ip in loopbacks() {
        let listener = within(&blue, || TcpListener::bind((ip, 0)).unwrap());
        let address = listener.local_addr().unwrap();
        let mut buffer = vec![0; 100_000];
        for turn in 0..10 {
            let mut client = within(&red, || TcpStream::connect(address).unwrap());
            let (mut server, _) = listener.accept().unwrap();
            client.write_all(&buffer).unwrap();
            server.read_exact(&mut buffer).unwrap();
            if turn < 3 {
                // Ended with data unread: by a reset.
                server.write_all(b"unread").unwrap();
                sleep(Duration::from_millis(5));
                drop(client);
                sleep(Duration::from_millis(5));
            }
        }
        sleep(Duration::from_millis(100));
        let (name, seen) = flow_on(&kernel, &red, TCP, address.port());
        assert_eq!(name.role, ROLE_OPENED);
        assert_eq!((seen.opened, seen.established, seen.refused), (10, 10, 0));
        assert_eq!(seen.reset, 3, "{seen:?}");
        assert!(
            seen.sent_bytes >= 1_000_000 && seen.sent_bytes < 1_050_000,
            "{seen:?}"
        );
        let (name, seen) = flow_on(&kernel, &blue, TCP, address.port());
        assert_eq!(name.role, ROLE_ACCEPTED);
        assert_eq!((seen.opened, seen.established), (0, 10));
        assert!(
            seen.received_bytes >= 1_000_000 && seen.received_bytes < 1_050_000,
            "{seen:?}"
        );

        drop(listener);
        within(&red, || TcpStream::connect(address).unwrap_err());
        let (_, seen) = flow_on(&kernel, &red, TCP, address.port());
        assert_eq!((seen.opened, seen.established, seen.refused), (11, 10, 1));
    }
}

#[test]
fn a_connection_that_nobody_answers_is_given_up() {
    let (kernel, _runtime) = load_flows();
    let (red, blue) = (Cgroup::new("red"), Cgroup::new("blue"));
    let listener = within(&blue, || TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap());
    let address = listener.local_addr().unwrap();
    // Whoever comes when this queue is full is not answered. How many that takes is the kernel's affair.
    rustix::net::listen(&listener, 0).unwrap();
    let mut waiting = Vec::new();
    let patience = Duration::from_millis(500);
    while let Ok(stream) = within(&red, || TcpStream::connect_timeout(&address, patience)) {
        waiting.push(stream);
        assert!(waiting.len() < 16, "the queue never fills");
    }
    let answered = u32::try_from(waiting.len()).unwrap();
    let (_, seen) = flow_on(&kernel, &red, TCP, address.port());
    assert_eq!(
        (seen.opened, seen.established, seen.timed_out),
        (answered + 1, answered, 1),
        "{seen:?}"
    );
}

#[test]
fn a_socket_used_once_more_begins_another_connection() {
    let (kernel, _runtime) = load_flows();
    let (red, blue) = (Cgroup::new("red"), Cgroup::new("blue"));
    let listener = within(&blue, || TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap());
    let address = listener.local_addr().unwrap();
    let closed = within(&blue, || TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap())
        .local_addr()
        .unwrap();
    let socket = within(&red, || {
        rustix::net::socket(AddressFamily::INET, SocketType::STREAM, None).unwrap()
    });
    rustix::net::connect(&socket, &closed).unwrap_err();
    rustix::net::connect(&socket, &address).unwrap();
    let (_, refused) = flow_on(&kernel, &red, TCP, closed.port());
    assert_eq!((refused.opened, refused.refused, refused.established), (1, 1, 0));
    let (_, seen) = flow_on(&kernel, &red, TCP, address.port());
    assert_eq!((seen.opened, seen.established, seen.timed_out), (1, 1, 0));
}

#[test]
fn what_a_socket_tried_before_its_place_was_given_back_is_nobody_elses() {
    let (mut kernel, _runtime) = load_flows();
    let (red, blue) = (Cgroup::new("red"), Cgroup::new("blue"));
    let full = within(&blue, || TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap());
    let silent = full.local_addr().unwrap();
    rustix::net::listen(&full, 0).unwrap();
    let mut waiting = Vec::new();
    let patience = Duration::from_millis(500);
    while let Ok(stream) = within(&red, || TcpStream::connect_timeout(&silent, patience)) {
        waiting.push(stream);
        assert!(waiting.len() < 16, "the queue never fills");
    }
    let listener = within(&blue, || TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap());
    let address = listener.local_addr().unwrap();
    let socket = within(&red, || {
        let socket = rustix::net::socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
        rustix::net::sockopt::set_tcp_user_timeout(&socket, 500).unwrap();
        socket
    });
    assert_eq!(
        rustix::net::connect(&socket, &silent).unwrap_err(),
        rustix::io::Errno::TIMEDOUT
    );
    let (_, before) = flow_on(&kernel, &red, TCP, silent.port());
    let maps = kernel.flows.as_mut().unwrap();
    let (place, name) = maps
        .names()
        .find(|(_, name)| name.cgroup == red.id() && name.port == silent.port())
        .unwrap();
    maps.close(place, &name).unwrap();
    maps.free(place).unwrap();
    rustix::net::connect(&socket, &address).unwrap();
    let (_, seen) = flow_on(&kernel, &red, TCP, address.port());
    assert_eq!((seen.opened, seen.established, seen.timed_out), (1, 1, 0));
    let ports: Vec<u16> = flows(&kernel)
        .names()
        .filter(|(_, name)| name.cgroup == red.id())
        .map(|(_, name)| name.port)
        .collect();
    assert_eq!(ports, [address.port()], "no flow to what was given up");
    assert_eq!(
        before.timed_out + folded(&kernel, &red).timed_out,
        2,
        "both that were never answered: {before:?}"
    );
}

#[test]
fn a_server_that_speaks_first_and_much_has_accepted() {
    let (kernel, _runtime) = load_flows();
    let (red, blue) = (Cgroup::new("red"), Cgroup::new("blue"));
    let listener = within(&blue, || TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap());
    let address = listener.local_addr().unwrap();
    let mut client = within(&red, || TcpStream::connect(address).unwrap());
    let (mut server, _) = listener.accept().unwrap();
    server.write_all(&[1; 200_000]).unwrap();
    client.read_exact(&mut [0; 200_000]).unwrap();
    let (name, seen) = flow_on(&kernel, &blue, TCP, address.port());
    assert_eq!((name.role, seen.established), (ROLE_ACCEPTED, 1), "{seen:?}");
}

#[test]
fn datagrams_of_one_socket_on_two_cpus_stay_apart() {
    const EACH: u64 = 10_000;
    let (kernel, _runtime) = load_flows();
    let red = Cgroup::new("red");
    for ip in loopbacks() {
        let socket = within(&red, || UdpSocket::bind((ip, 0)).unwrap());
        // What arrives is read by nobody, and counted all the same.
        let sinks = [(); 2].map(|()| within(&red, || UdpSocket::bind((ip, 0)).unwrap()));
        let ports = [&sinks[0], &sinks[1]].map(|sink| sink.local_addr().unwrap().port());
        std::thread::scope(|scope| {
            for port in ports {
                let socket = &socket;
                scope.spawn(move || {
                    for _ in 0..EACH {
                        socket.send_to(&[0; 10], (ip, port)).unwrap();
                    }
                });
            }
        });
        let maps = flows(&kernel);
        for port in ports {
            for role in [ROLE_OPENED, ROLE_ACCEPTED] {
                let (place, _) = maps
                    .names()
                    .find(|(_, name)| (name.port, name.role) == (port, role))
                    .unwrap();
                let seen = maps.flow(place).traffic;
                let counted = if role == ROLE_OPENED {
                    seen.sent_packets
                } else {
                    seen.received_packets
                };
                assert_eq!(counted, EACH, "port {port}, role {role}: {seen:?}");
            }
        }
    }
    assert_eq!(folded(&kernel, &red), Traffic::default());
}

#[test]
fn a_raw_socket_has_no_flows_of_others() {
    let (kernel, _runtime) = load_flows();
    let (red, blue) = (Cgroup::new("red"), Cgroup::new("blue"));
    let raw = within(&red, || {
        rustix::net::socket(AddressFamily::INET, SocketType::RAW, Some(ipproto::UDP)).unwrap()
    });
    let server = within(&blue, || UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap());
    let address = server.local_addr().unwrap();
    // A UDP header alone: from port 7, without a sum.
    let mut datagram = [0, 7, 0, 0, 0, 8, 0, 0];
    datagram[2..4].copy_from_slice(&address.port().to_be_bytes());
    rustix::net::sendto(&raw, &datagram, SendFlags::empty(), &address).unwrap();
    let client = within(&blue, || UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap());
    for _ in 0..10 {
        client.send_to(&[0; 10], address).unwrap();
    }
    let of_red: Vec<Traffic> = flows(&kernel)
        .names()
        .filter(|(_, name)| name.cgroup == red.id())
        .map(|(place, _)| flows(&kernel).flow(place).traffic)
        .collect();
    let [seen] = of_red[..] else {
        panic!("one flow: {of_red:?}")
    };
    assert_eq!((seen.sent_packets, seen.received_packets), (1, 0));
    assert_eq!(folded(&kernel, &red).received_packets, 0);
}

#[test]
fn sockets_beyond_a_units_share_are_not_remembered_and_still_counted() {
    let (kernel, _runtime) = load_flows();
    let (red, blue) = (Cgroup::new("red"), Cgroup::new("blue"));
    let sockets = |cgroup: &Cgroup| {
        let unit = flows(&kernel)
            .units()
            .find(|(_, unit)| unit.cgroup == cgroup.id());
        unit.map_or(0, |(_, unit)| unit.sockets)
    };
    let count = usize::try_from(UNIT_SOCKETS).unwrap() + 100;
    let mut files = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    if files.maximum.is_some_and(|most| most < UNIT_SOCKETS + 1_000) {
        files.maximum = Some(UNIT_SOCKETS + 1_000);
    }
    files.current = files.maximum;
    rustix::process::setrlimit(rustix::process::Resource::Nofile, files).unwrap();
    let many: Vec<_> = within(&red, || {
        (0..count)
            .map(|_| rustix::net::socket(AddressFamily::INET, SocketType::DGRAM, None).unwrap())
            .collect()
    });
    let sink = within(&blue, || UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap());
    let address = sink.local_addr().unwrap();
    for socket in &many {
        rustix::net::sendto(socket, &[0; 10], SendFlags::empty(), &address).unwrap();
    }
    let (_, seen) = flow_on(&kernel, &red, UDP, address.port());
    assert_eq!(seen.sent_packets, count as u64);
    assert_eq!(sockets(&red), UNIT_SOCKETS);

    // Each packet of a connection is looked up by itself: what comes later may be told apart no more, the beginning is.
    let listener = within(&blue, || TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap());
    let address = listener.local_addr().unwrap();
    let opened = || {
        let mut names = flows(&kernel).names();
        let (place, _) = names
            .find(|(_, name)| (name.cgroup, name.port, name.role) == (red.id(), address.port(), ROLE_OPENED))
            .unwrap();
        flows(&kernel).flow(place).traffic
    };
    drop(within(&red, || TcpStream::connect(address).unwrap()));
    let seen = opened();
    assert_eq!(
        (seen.opened, seen.established, seen.refused),
        (1, 1, 0),
        "{seen:?}"
    );
    drop(listener);
    within(&red, || TcpStream::connect(address).unwrap_err());
    let seen = opened();
    assert_eq!(
        (seen.opened, seen.established, seen.refused),
        (2, 1, 1),
        "{seen:?}"
    );

    drop(many);
    assert_eq!(sockets(&red), 0);
}

#[test]
fn who_sends_from_ever_new_addresses_leaves_the_receiver_places_of_its_own() {
    let (kernel, _runtime) = load_flows();
    let (red, blue) = (Cgroup::new("red"), Cgroup::new("blue"));
    let server = within(&blue, || UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap());
    let address = server.local_addr().unwrap();
    within(&red, || {
        for number in 0..u32::try_from(UNIT_FLOWS).unwrap() {
            let from = Ipv4Addr::from(0x7f02_0001 + number);
            let socket = UdpSocket::bind((from, 0)).unwrap();
            socket.send_to(&[0; 10], address).unwrap();
        }
    });
    let held = |role| {
        let names = flows(&kernel).names();
        names
            .filter(|(_, name)| name.cgroup == blue.id() && name.role == role)
            .count() as u64
    };
    assert_eq!(held(ROLE_ACCEPTED), UNIT_FLOWS / 4 * 3);
    assert_eq!(folded(&kernel, &blue).received_packets, UNIT_FLOWS / 4);
    let own = within(&blue, || UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap());
    own.send_to(&[0; 10], (Ipv4Addr::LOCALHOST, 9)).unwrap();
    assert_eq!(held(ROLE_OPENED), 1);
}

#[test]
fn who_opened_a_connection_older_than_the_programs_is_found() {
    let (red, blue) = (Cgroup::new("red"), Cgroup::new("blue"));
    for ip in loopbacks() {
        // One that nothing passed on since its handshake looks new.
        let listener = within(&blue, || TcpListener::bind((ip, 0)).unwrap());
        let address = listener.local_addr().unwrap();
        let mut client = within(&red, || TcpStream::connect(address).unwrap());
        let (mut server, _) = listener.accept().unwrap();
        let (kernel, _runtime) = load_flows();
        client.write_all(b"first").unwrap();
        server.read_exact(&mut [0; 5]).unwrap();
        let (name, seen) = flow_on(&kernel, &blue, TCP, address.port());
        assert_eq!((name.role, seen.established), (ROLE_ACCEPTED, 0), "{seen:?}");
    }
    for ip in loopbacks() {
        let listener = within(&blue, || TcpListener::bind((ip, 0)).unwrap());
        let address = listener.local_addr().unwrap();
        let mut client = within(&red, || TcpStream::connect(address).unwrap());
        let (mut server, _) = listener.accept().unwrap();
        client.write_all(b"older").unwrap();
        server.read_exact(&mut [0; 5]).unwrap();
        let (kernel, _runtime) = load_flows();
        client.write_all(b"newer").unwrap();
        server.read_exact(&mut [0; 5]).unwrap();
        let (name, seen) = flow_on(&kernel, &blue, TCP, address.port());
        assert_eq!((name.role, seen.established), (ROLE_ACCEPTED, 0), "{seen:?}");
        // The listener has a port that the kernel chose, as the client has: who of the two opened cannot be told by its socket.
        let (name, _) = flow_on(&kernel, &red, TCP, address.port());
        assert_eq!(name.role, 0);
    }
}

#[test]
fn a_scan_takes_its_own_share_and_nothing_is_lost() {
    const SCANNED: u64 = 50_000;
    let (kernel, _runtime) = load_flows();
    let (red, blue) = (Cgroup::new("red"), Cgroup::new("blue"));
    let scanner = within(&red, || UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap());
    let mut refused = 0;
    for number in 0..SCANNED {
        let address = Ipv4Addr::from(0x7f01_0000 + u32::try_from(number / 10_000).unwrap());
        let port = u16::try_from(10_000 + number % 10_000).unwrap();
        // An answer of an earlier port's owner, which is nobody, is told at the next sending.
        while scanner.send_to(&[0; 10], (address, port)).is_err() {
            refused += 1;
        }
    }
    let maps = flows(&kernel);
    let places: Vec<u32> = maps
        .names()
        .filter(|(_, name)| name.cgroup == red.id())
        .map(|(place, _)| place)
        .collect();
    assert_eq!(places.len() as u64, UNIT_FLOWS);
    let seen: u64 = places
        .iter()
        .map(|place| maps.flow(*place).traffic.sent_packets)
        .sum();
    let folded = folded(&kernel, &red);
    assert_eq!(seen + folded.sent_packets, SCANNED, "{refused} times refused");
    assert_eq!(
        places
            .iter()
            .map(|place| maps.flow(*place).traffic.sent_bytes)
            .sum::<u64>()
            + folded.sent_bytes,
        SCANNED * (10 + UDP_HEADERS)
    );
    // Whoever comes later has places.
    let late = within(&blue, || UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap());
    late.send_to(&[0; 10], (Ipv4Addr::LOCALHOST, 9)).unwrap();
    assert_eq!(flow_on(&kernel, &blue, UDP, 9).1.sent_packets, 1);
}

#[test]
fn a_place_given_back_begins_anew() {
    let (mut kernel, _runtime) = load_flows();
    let red = Cgroup::new("red");
    let server = within(&red, || TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap());
    let address: SocketAddr = server.local_addr().unwrap();
    let mut client = within(&red, || TcpStream::connect(address).unwrap());
    client.write_all(b"before").unwrap();
    let taken: Vec<(u32, FlowName)> = flows(&kernel)
        .names()
        .filter(|(_, name)| name.cgroup == red.id())
        .collect();
    assert_eq!(taken.len(), 2, "one for each end");
    let maps = kernel.flows.as_mut().unwrap();
    for (place, name) in &taken {
        maps.close(*place, name).unwrap();
        // As a CPU would have its socket remember it that had found the place before.
        let closed = maps.flow(*place).generation;
        maps.free(*place).unwrap();
        assert_ne!(maps.flow(*place).generation, closed);
    }
    assert!(!maps.names().any(|(_, name)| name.cgroup == red.id()));
    let unit = |kernel: &Kernel| {
        let mut units = flows(kernel).units();
        units.find(|(_, unit)| unit.cgroup == red.id()).unwrap().1
    };
    assert_eq!(unit(&kernel).flows, 0);
    // The connection goes on, and remembers who opened it.
    client.write_all(b"after").unwrap();
    let roles: Vec<u8> = flows(&kernel)
        .names()
        .filter(|(_, name)| name.cgroup == red.id())
        .map(|(_, name)| name.role)
        .collect();
    assert_eq!(roles.len(), 2, "{roles:?}");
    assert!(roles.contains(&ROLE_OPENED) && roles.contains(&ROLE_ACCEPTED));
    assert_eq!(unit(&kernel).flows, 2);
    assert!(flows(&kernel).names().count() < FLOWS);
}

#[test]
fn a_unit_given_back_is_read_to_its_end() {
    let (mut kernel, _runtime) = load_flows();
    let red = Cgroup::new("red");
    let socket = within(&red, || UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap());
    let send = |port| socket.send_to(&[0; 10], (Ipv4Addr::LOCALHOST, port)).map(|_| ());
    let units = |kernel: &Kernel| -> Vec<(u32, u64)> {
        flows(kernel)
            .units()
            .filter(|(_, unit)| unit.cgroup == red.id())
            .map(|(index, unit)| (index, unit.flows))
            .collect()
    };
    send(9).unwrap();
    let [(first, 1)] = units(&kernel)[..] else {
        panic!("one unit with one flow")
    };
    let maps = kernel.flows.as_mut().unwrap();
    maps.close_unit(red.id()).unwrap();
    // What it counted is still there. What comes now is another unit's, and a socket goes on at its place.
    let _ = send(9); // may tell that nobody listened
    while send(10).is_err() {}
    let mut found = units(&kernel);
    found.sort_by_key(|(index, _)| *index != first);
    let [(_, 1), (second, 1)] = found[..] else {
        panic!("{found:?}")
    };
    let taken: Vec<(u32, FlowName)> = flows(&kernel)
        .names()
        .filter(|(place, name)| name.cgroup == red.id() && flows(&kernel).flow(*place).unit == first)
        .collect();
    let maps = kernel.flows.as_mut().unwrap();
    for (place, name) in taken {
        maps.close(place, &name).unwrap();
        maps.free(place).unwrap();
    }
    maps.free_unit(first).unwrap();
    assert_eq!(units(&kernel), [(second, 1)]);
}

/// One that reads counters alone.
fn reader(now_ns: u64) -> (Reader, tokio::runtime::Runtime) {
    let (kernel, runtime) = load_as(&Facts::probe(None), |_| ());
    let root = Facts::probe(None).cgroup_root.unwrap();
    let no_files = Kinds {
        memory: false,
        pressure: false,
    };
    (Reader::new(kernel, root, no_files, now_ns), runtime)
}

#[test]
fn what_a_removed_cgroup_had_is_told_to_its_end_and_given_back() {
    let begin_ns = 1_000_000_000_000_000;
    let (mut reader, _runtime) = reader(begin_ns);
    let mut read = |after_s: u64| {
        let now_ns = begin_ns + after_s * 1_000_000_000;
        let slots = reader.slots();
        reader.drain_events(now_ns);
        let reading = reader.read(&slots, now_ns);
        let units = reader.kernel.flows.as_ref().unwrap().units();
        let units: Vec<u64> = units.map(|(_, unit)| unit.cgroup).collect();
        (reading, units)
    };
    let red = Cgroup::new("red");
    let id = red.id();
    let udp = within(&red, || UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap());
    // It has a slot too, which is given back before its unit is.
    within(&red, || sleep(Duration::from_millis(10)));
    // An answer to nothing belongs to no flow.
    let raw = within(&red, || {
        rustix::net::socket(AddressFamily::INET, SocketType::RAW, Some(ipproto::ICMP)).unwrap()
    });
    let answer = || {
        let nobody = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        rustix::net::sendto(&raw, &[0; 8], SendFlags::empty(), &nobody).unwrap();
    };
    udp.send_to(&[0; 10], (Ipv4Addr::LOCALHOST, 9)).unwrap();
    answer();
    let (first, _) = read(1);
    let (flow, entity, _) = *first
        .flows
        .flows
        .iter()
        .find(|(_, _, name)| name.cgroup == id)
        .unwrap();
    let is_red = |who: &Who| matches!(who, Who::Host { path } if path.ends_with("-red"));
    let named = |reading: &Reading| {
        let mut entities = reading.changes.entities.iter();
        entities.any(|(index, who, _)| *index == entity && is_red(who))
    };
    assert!(named(&first), "{:?}", first.changes.entities);
    let answered = |reading: &Reading| {
        let mut folded = reading.flows.folded.iter();
        let of_red = folded.find(|(of, _)| *of == entity);
        of_red.map(|(_, totals)| totals.sent_packets)
    };
    assert_eq!(answered(&first), Some(1));
    drop(red);
    answer();
    assert_eq!(answered(&read(2).0), Some(2));
    // Its quarantine is over: first the flow is closed, then told to be final; the same of its unit after.
    let (_, units) = read(12);
    assert!(units.contains(&id));
    answer();
    let (last, units) = read(13);
    assert!(last.flows.ended.contains(&flow) && units.contains(&id));
    assert_eq!(answered(&last), Some(3));
    // This has a unit of its own. Whose it is stays the same, and goes on where it was.
    answer();
    let (late, units) = read(14);
    assert_eq!(answered(&late), Some(4));
    assert_eq!(units.iter().filter(|cgroup| **cgroup == id).count(), 1);
    assert!(!read(15).1.contains(&id));
}

#[test]
fn a_flow_that_begins_while_a_reading_is_made_has_its_name() {
    const CGROUPS: usize = 200;
    let mut now_ns = 1_000_000_000_000_000;
    let (mut reader, _runtime) = reader(now_ns);
    let mut owners = BTreeMap::new();
    let mut entities = BTreeMap::new();
    let mut read = || {
        now_ns += 100_000_000;
        let slots = reader.slots();
        reader.drain_events(now_ns);
        let reading = reader.read(&slots, now_ns);
        let flows = reading.flows.flows.into_iter();
        owners.extend(flows.map(|(_, entity, name)| (name.cgroup, entity)));
        let announced = reading.changes.entities.into_iter();
        entities.extend(announced.map(|(entity, who, _)| (entity, who)));
    };
    let cgroups: Vec<Cgroup> = std::thread::scope(|scope| {
        let maker = scope.spawn(|| {
            let made = (0..CGROUPS).map(|number| {
                let cgroup = Cgroup::new(&format!("late-{number}"));
                let socket = within(&cgroup, || UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap());
                socket.send_to(&[0; 10], (Ipv4Addr::LOCALHOST, 9)).unwrap();
                cgroup
            });
            made.collect()
        });
        while !maker.is_finished() {
            read();
        }
        maker.join().unwrap()
    });
    read();
    read();
    for cgroup in &cgroups {
        let who = entities.get(&owners[&cgroup.id()]);
        assert!(
            matches!(who, Some(Who::Host { path }) if cgroup.path.ends_with(path.trim_start_matches('/'))),
            "{who:?}"
        );
    }
}

/// The kernel side without one of its programs, as if the kernel had refused it.
fn object_without(program: &str) -> Vec<u8> {
    let mut object = include_bytes!("../../../agent-ebpf/object/partywall.bpf.o").to_vec();
    let name = format!("\0{program}\0").into_bytes();
    let places: Vec<usize> = object
        .windows(name.len())
        .enumerate()
        .filter_map(|(at, bytes)| (bytes == name).then_some(at))
        .collect();
    assert!(!places.is_empty(), "{program} is in the object");
    for at in places {
        object[at + 1] = b'_';
    }
    object
}

#[test]
fn a_half_that_is_refused_in_part_is_off_as_a_whole_and_alone() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let _context = runtime.enter();
    let red = Cgroup::new("red");
    let socket = within(&red, || UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap());
    let lacks = |features: &[Feature], name: &str| {
        features
            .iter()
            .any(|feature| feature.name == name && !feature.present && !feature.reason.is_empty())
    };
    let loaded =
        |kernel: &Kernel| -> Vec<&str> { kernel.program_runs().iter().map(|program| program.name).collect() };

    let (planned, mut features) = plan(&Facts::probe(None));
    let kernel = Kernel::load(&planned, &mut features, Some(&object_without("flush"))).unwrap();
    socket.send_to(&[0; 10], (Ipv4Addr::LOCALHOST, 9)).unwrap();
    assert_eq!(flow_on(&kernel, &red, UDP, 9).1.sent_packets, 1);
    assert!(lacks(&features, "run_time") && lacks(&features, "ledger") && !lacks(&features, "flows"));
    assert!(!loaded(&kernel).iter().any(|name| name.starts_with("switch")));
    drop(kernel);

    let (planned, mut features) = plan(&Facts::probe(None));
    let kernel = Kernel::load(&planned, &mut features, Some(&object_without("sent"))).unwrap();
    assert!(kernel.flows.is_none());
    assert!(lacks(&features, "flows") && lacks(&features, "timeouts") && !lacks(&features, "run_time"));
    assert!(!loaded(&kernel).contains(&"received"));
}

#[test]
fn each_half_works_without_the_other() {
    let red = Cgroup::new("red");
    let socket = within(&red, || UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap());

    let (kernel, _runtime) = load_flows();
    socket.send_to(&[0; 10], (Ipv4Addr::LOCALHOST, 9)).unwrap();
    assert_eq!(flow_on(&kernel, &red, UDP, 9).1.sent_packets, 1);
    let loaded: Vec<&str> = kernel.program_runs().iter().map(|program| program.name).collect();
    assert_eq!(loaded, ["received", "sent", "socket_released"]);
    drop(kernel);

    let (kernel, _runtime) = load(|_| ());
    assert!(kernel.flows.is_none());
    sleep(Duration::from_millis(10));
    assert!(kernel.maps.switches() > 0);
}
