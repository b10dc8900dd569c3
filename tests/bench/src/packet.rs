//! What a packet costs, between two pods' network namespaces.

use std::{
    io::{ErrorKind, Read as _, Write as _},
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow, bail};
use partywall_agent::kernel::{
    features::{Facts, plan},
    load::Kernel,
};
use partywall_workload::{Network, PodLink};

use crate::{
    figure::{Bounds, Figure, ratios},
    measure::Effort,
    programs::{self, Loaded},
    reference::Packets,
};

const CLIENT: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 88, 0, 1));
const SERVER: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 88, 0, 2));

/// Two pods, and the node between them.
struct Pods {
    client: PodLink,
    server: PodLink,
    _network: Network,
}

impl Pods {
    fn create() -> Result<Self> {
        let mut network = Network::create()?;
        Ok(Self {
            client: network.connect(&[CLIENT])?,
            server: network.connect(&[SERVER])?,
            _network: network,
        })
    }

    fn connection(&self) -> Result<(TcpStream, TcpStream)> {
        let listener = self.server.within(|| TcpListener::bind((SERVER, 0)))??;
        let address = listener.local_addr()?;
        let client = self.client.within(|| TcpStream::connect(address))??;
        let (server, _) = listener.accept()?;
        for end in [&client, &server] {
            end.set_nodelay(true)?;
        }
        Ok((client, server))
    }

    fn datagrams(&self) -> Result<(UdpSocket, UdpSocket)> {
        let bind = |at| move || UdpSocket::bind(SocketAddr::new(at, 0));
        let server = self.server.within(bind(SERVER))??;
        let client = self.client.within(bind(CLIENT))??;
        client.connect(server.local_addr()?)?;
        server.set_read_timeout(Some(Duration::from_millis(100)))?;
        Ok((client, server))
    }
}

/// The loads. Each returns what it achieved in `lasting`.
#[derive(Clone, Copy)]
enum Load {
    /// MB/s over one connection.
    Bulk,
    /// Packets of 64 bytes that one socket sends, thousands per second.
    Small,
    /// Round trips of one byte over one connection, per millisecond.
    Request,
}

impl Load {
    const ALL: [Self; 3] = [Self::Bulk, Self::Small, Self::Request];

    fn name(self) -> &'static str {
        match self {
            Self::Bulk => "bulk rate, one connection",
            Self::Small => "small packets, one sender",
            Self::Request => "requests and answers",
        }
    }

    fn run(self, pods: &Pods, lasting: Duration) -> Result<f64> {
        match self {
            Self::Bulk => bulk(pods, lasting),
            Self::Small => small(pods, lasting),
            Self::Request => requests(pods, lasting),
        }
    }
}

#[allow(clippy::cast_precision_loss, reason = "counts of seconds")]
fn rate(count: u64, since: Instant) -> f64 {
    count as f64 / since.elapsed().as_secs_f64()
}

fn joined<T>(ended: thread::Result<T>) -> Result<T> {
    ended.map_err(|_| anyhow!("a thread of the load panicked"))
}

fn bulk(pods: &Pods, lasting: Duration) -> Result<f64> {
    let (mut client, mut server) = pods.connection()?;
    let began = Instant::now();
    let sender = thread::spawn(move || {
        let buffer = vec![0; 128 * 1024];
        while began.elapsed() < lasting {
            client.write_all(&buffer)?;
        }
        client.shutdown(std::net::Shutdown::Write)
    });
    let (mut buffer, mut bytes) = (vec![0; 128 * 1024], 0);
    loop {
        match server.read(&mut buffer)? {
            0 => break,
            read => bytes += read as u64,
        }
    }
    let rate = rate(bytes, began);
    joined(sender.join())??;
    Ok(rate / 1e6)
}

fn small(pods: &Pods, lasting: Duration) -> Result<f64> {
    let (client, server) = pods.datagrams()?;
    let receiver = thread::spawn(move || {
        let mut buffer = [0; 128];
        loop {
            match server.recv(&mut buffer) {
                Ok(_) => (),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            }
        }
    });
    let began = Instant::now();
    let mut sent = 0;
    while began.elapsed() < lasting {
        for _ in 0..64 {
            client.send(&[0; 64])?;
            sent += 1;
        }
    }
    let rate = rate(sent, began);
    joined(receiver.join())??;
    Ok(rate / 1e3)
}

fn requests(pods: &Pods, lasting: Duration) -> Result<f64> {
    let (mut client, mut server) = pods.connection()?;
    let answers = thread::spawn(move || {
        let mut byte = [0];
        while server.read(&mut byte)? == 1 {
            server.write_all(&byte)?;
        }
        Ok::<_, std::io::Error>(())
    });
    let began = Instant::now();
    let (mut byte, mut turns) = ([0], 0);
    while began.elapsed() < lasting {
        client.write_all(&byte)?;
        client.read_exact(&mut byte)?;
        turns += 1;
    }
    let rate = rate(turns, began);
    drop(client);
    joined(answers.join())??;
    Ok(rate / 1e3)
}

/// What is attached.
enum Attached {
    Empty(Packets),
    Ours(Box<Kernel>),
}

impl Attached {
    /// Program ids: of what is handed in, of what is sent.
    fn ids(&self) -> Result<[u32; 2]> {
        match self {
            Self::Empty(programs) => Ok(programs.ids),
            Self::Ours(kernel) => {
                let runs = kernel.program_runs();
                let id = |name: &str| {
                    let program = runs.iter().find(|program| program.name == name);
                    program
                        .map(|program| program.id)
                        .with_context(|| format!("{name} is not attached"))
                };
                Ok([id("received")?, id("sent")?])
            }
        }
    }
}

/// Traffic alone, without the scheduler half: as on a kernel that lets no program read its memory.
fn ours() -> Result<Attached> {
    let mut facts = Facts::probe(None);
    facts.lockdown = Some("confidentiality".to_owned());
    let (plan, mut features) = plan(&facts);
    Ok(Attached::Ours(Box::new(Kernel::load(
        &plan,
        &mut features,
        None,
    )?)))
}

fn empty() -> Result<Attached> {
    Ok(Attached::Empty(Packets::attach()?))
}

#[allow(clippy::cast_precision_loss, reason = "nanoseconds of seconds")]
/// Nanoseconds per packet [in, out] while a load runs, and what the load achieved without counting them.
fn one(pods: &Pods, load: Load, lasting: Duration, attached: &Attached) -> Result<([f64; 2], f64)> {
    let achieved = load.run(pods, lasting)?;
    let _counting = programs::count()?;
    let before = programs::loaded()?;
    load.run(pods, lasting)?;
    let after = programs::loaded()?;
    let [received, sent] = attached.ids()?;
    let per_run = |id: u32| {
        let runs = |loaded: &Loaded| loaded.get(&id).map(|(_, runs)| *runs);
        let (before, after) = runs(&before).zip(runs(&after)).context("the program is gone")?;
        if after.count == before.count {
            bail!("not one packet passed: is the program attached?");
        }
        Ok((after.nanoseconds - before.nanoseconds) as f64 / (after.count - before.count) as f64)
    };
    Ok(([per_run(received)?, per_run(sent)?], achieved))
}

pub(crate) fn measure(effort: &Effort) -> Result<Vec<Figure>> {
    eprintln!("packets between two network namespaces");
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    // The kernel side's log is read by a task.
    let _context = runtime.enter();
    let pods = Pods::create()?;
    let section = "a packet: two network namespaces, the node's between them";
    let mut figures = Vec::new();
    for load in Load::ALL {
        let mut cost = [[Vec::new(), Vec::new()], [Vec::new(), Vec::new()]];
        let mut slowdown = [Vec::new(), Vec::new()];
        for round in 0..effort.rounds {
            for turn in 0..2 {
                let subject = (round + turn) % 2;
                // Each is set against a run without it just before: a noisy machine is another one a minute later.
                let bare = load.run(&pods, effort.turns)?;
                let attached = if subject == 0 { empty()? } else { ours()? };
                let ([received, sent], achieved) = one(&pods, load, effort.turns, &attached)?;
                cost[subject][0].push(received);
                cost[subject][1].push(sent);
                slowdown[subject].push((bare / achieved - 1.0) * 100.0);
            }
        }
        for (direction, name) in ["in", "out"].into_iter().enumerate() {
            let (empty, ours) = (&cost[0][direction], &cost[1][direction]);
            let of = |what: &str| format!("{}, {name}: {what}", load.name());
            figures.push(Figure::new(section, of("empty"), "ns", empty, Bounds::NONE));
            figures.push(Figure::new(section, of("ours"), "ns", ours, Bounds::NONE));
            figures.push(Figure::new(
                section,
                of("ours over empty"),
                "×",
                &ratios(ours, empty),
                Bounds::new(3.0, 2.0),
            ));
        }
        for (subject, name) in ["empty", "ours"].into_iter().enumerate() {
            let bounds = if subject == 1 {
                Bounds::keep(5.0)
            } else {
                Bounds::NONE
            };
            let of = format!("{}, slow-down: {name}", load.name());
            figures.push(Figure::new(section, of, "%", &slowdown[subject], bounds));
        }
    }
    Ok(figures)
}
