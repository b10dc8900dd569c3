//! A node that exists in reports alone: its pods' flows grow as the plan says, and it goes away as the plan says.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    net::{Ipv4Addr, SocketAddr},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context, Result, ensure};
use partywall_proto::v1::{
    Coverage, Entity, Feature, Flow, FlowSample, Outcome, Pod, Receipt, Report, Role, Traffic, entity::Kind,
    ingest_service_client::IngestServiceClient,
};
use tokio::{
    sync::mpsc,
    time::{Instant, interval, timeout},
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Streaming, transport::Endpoint};

use super::plan::{Burst, Outage, Place};

pub(super) const EVERY: Duration = Duration::from_millis(200);
const WINDOW: usize = 16;
const CONNECT: Duration = Duration::from_millis(300);

pub(crate) fn unix_ns() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

/// What a node did: the truth that answers are held against.
#[derive(Debug, Default)]
pub(super) struct Done {
    /// Nobody can know what happened between these on it: its counters were lost. Unix nanoseconds.
    pub(super) blind: Vec<(u64, u64)>,
    /// When each burst was told of: burst → the capture of its report and of the one before.
    pub(super) told: BTreeMap<usize, (u64, u64)>,
}

struct Known {
    flow: Flow,
    traffic: Traffic,
}

/// Both ends' address, the port, and who opened.
type FlowKey = (Place, Place, bool);

pub(super) struct Node {
    name: String,
    places: Vec<Place>,
    /// What happens here: burst, its number, and whether this is the opener's end. In the order of time.
    events: VecDeque<(usize, Burst, bool)>,
    outages: VecDeque<Outage>,
    end_ns: u64,
    began: Instant,
    run: u64,
    sequence: u64,
    flows: BTreeMap<FlowKey, Known>,
    new_flows: Vec<FlowKey>,
    announced: bool,
    announce_all: bool,
    queue: VecDeque<Report>,
    in_flight: usize,
    last_ns: u64,
    done: Done,
}

type Stream = (mpsc::Sender<Report>, Streaming<Receipt>);

impl Node {
    pub(super) fn new(
        name: &str,
        places: Vec<Place>,
        events: VecDeque<(usize, Burst, bool)>,
        outages: VecDeque<Outage>,
        end_ns: u64,
    ) -> Self {
        Self {
            name: name.to_owned(),
            places,
            events,
            outages,
            end_ns,
            began: Instant::now(),
            run: unix_ns(),
            sequence: 0,
            flows: BTreeMap::new(),
            new_flows: Vec::new(),
            announced: false,
            announce_all: false,
            queue: VecDeque::new(),
            in_flight: 0,
            last_ns: 0,
            done: Done::default(),
        }
    }

    /// Until the plan is over and everything has its receipt.
    pub(super) async fn run(mut self, to: SocketAddr) -> Result<Done> {
        let mut clock = interval(EVERY);
        let mut stream: Option<Stream> = None;
        let mut dead_since: Option<u64> = None;
        loop {
            let receipt = async {
                match &mut stream {
                    Some((_, receipts)) => receipts.message().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                receipt = receipt => match receipt {
                    Ok(Some(receipt)) => self.receipt(&receipt)?,
                    Ok(None) | Err(_) => stream = None,
                },
                _ = clock.tick() => {
                    let now_ns = unix_ns();
                    let outage = self.outages.front().copied().filter(|o| o.from_ns <= now_ns);
                    let over = outage.is_some_and(|o| o.to_ns <= now_ns);
                    if over {
                        self.outages.pop_front();
                    }
                    match outage.filter(|_| !over) {
                        // Its last reports have their receipts: what was counted is no question.
                        Some(outage) if !outage.keeps => {
                            if dead_since.is_none() && self.queue.is_empty() {
                                stream = None;
                                dead_since = Some(self.last_ns);
                            }
                        }
                        cut => {
                            if let Some(since) = dead_since.take() {
                                self.begin_anew(since, now_ns);
                            }
                            if now_ns < self.end_ns {
                                self.report(now_ns);
                            }
                            if cut.is_some() {
                                stream = None;
                            } else if stream.is_none() {
                                stream = self.connect(to).await;
                            }
                        }
                    }
                }
            }
            self.send(stream.as_ref());
            if unix_ns() >= self.end_ns && self.queue.is_empty() {
                return Ok(self.done);
            }
        }
    }

    /// Another agent: all counters begin at nothing, and what happened meanwhile nobody counted.
    fn begin_anew(&mut self, since_ns: u64, now_ns: u64) {
        self.run = now_ns;
        self.sequence = 0;
        self.flows.clear();
        self.new_flows.clear();
        self.announced = false;
        while self
            .events
            .front()
            .is_some_and(|(_, burst, _)| burst.at_ns < now_ns)
        {
            self.events.pop_front();
        }
        self.done.blind.push((since_ns, now_ns));
    }

    fn send(&mut self, stream: Option<&Stream>) {
        let Some((out, _)) = stream else { return };
        while self.in_flight < WINDOW.min(self.queue.len()) {
            let mut report = self.queue[self.in_flight].clone();
            let now_ns = unix_ns();
            report.waited_ns = Some(now_ns.saturating_sub(report.captured_unix_ns));
            if std::mem::take(&mut self.announce_all) {
                // As an agent does: all names before what is sent next.
                report.entities = self.entities();
                report.flows = self.flows.values().map(|known| known.flow.clone()).collect();
            }
            if out.try_send(report).is_err() {
                break;
            }
            self.in_flight += 1;
        }
    }

    async fn connect(&mut self, to: SocketAddr) -> Option<Stream> {
        self.in_flight = 0;
        let endpoint = Endpoint::from_shared(format!("http://{to}")).ok()?;
        let channel = timeout(CONNECT, endpoint.connect()).await.ok()?.ok()?;
        let (out, reports) = mpsc::channel(WINDOW);
        let mut client = IngestServiceClient::new(channel);
        let opened = timeout(CONNECT, client.ingest(ReceiverStream::new(reports))).await;
        self.announce_all = true;
        Some((out, opened.ok()?.ok()?.into_inner()))
    }

    fn receipt(&mut self, receipt: &Receipt) -> Result<()> {
        let report = self.queue.pop_front().context("a receipt for nothing")?;
        ensure!(report.sequence == receipt.sequence, "{}: out of order", self.name);
        ensure!(
            matches!(receipt.outcome(), Outcome::Accepted | Outcome::Duplicate),
            "{}: report {}: {}",
            self.name,
            report.sequence,
            receipt.reason
        );
        self.in_flight -= 1;
        self.announce_all |= receipt.announce_all;
        Ok(())
    }

    fn entities(&self) -> Vec<Entity> {
        let of = |(index, place): (usize, &Place)| Entity {
            index: index as u32 + 1,
            born_boot_ns: 0,
            kind: Some(Kind::Pod(Pod { uid: place.uid() })),
        };
        self.places.iter().enumerate().map(of).collect()
    }

    /// What happened since the last one.
    fn report(&mut self, now_ns: u64) {
        self.sequence += 1;
        let mut changed = BTreeSet::new();
        while let Some((number, burst, opens)) = self.events.pop_front_if(|(_, b, _)| b.at_ns <= now_ns) {
            changed.insert(self.grow(&burst, opens));
            self.done.told.insert(number, (self.last_ns, now_ns));
        }
        let mut report = Report {
            node: self.name.clone(),
            boot_id: "sim".into(),
            agent_start_unix_ns: self.run,
            sequence: self.sequence,
            captured_unix_ns: now_ns,
            captured_boot_ns: self.began.elapsed().as_nanos() as u64 + 1_000_000_000,
            online_cpus: 2,
            coverage: Some(Coverage {
                features: vec![Feature {
                    name: "flows".into(),
                    present: true,
                    reason: String::new(),
                }],
                losses: Vec::new(),
            }),
            ..Report::default()
        };
        if !std::mem::replace(&mut self.announced, true) {
            report.entities = self.entities();
        }
        for key in std::mem::take(&mut self.new_flows) {
            report.flows.push(self.flows[&key].flow.clone());
        }
        for key in changed {
            let known = &self.flows[&key];
            report.flow_samples.push(FlowSample {
                flow: known.flow.index,
                traffic: Some(known.traffic),
            });
        }
        self.last_ns = now_ns;
        self.queue.push_back(report);
    }

    fn grow(&mut self, burst: &Burst, opens: bool) -> FlowKey {
        let key = (burst.from.clone(), burst.to.clone(), opens);
        if !self.flows.contains_key(&key) {
            let (own, peer) = if opens {
                (&burst.from, &burst.to)
            } else {
                (&burst.to, &burst.from)
            };
            let entity = self
                .places
                .iter()
                .position(|place| place == own)
                .unwrap_or_default();
            let bytes = |address: Ipv4Addr| address.octets().to_vec();
            let flow = Flow {
                index: self.flows.len() as u32 + 1,
                entity: entity as u32 + 1,
                local: bytes(own.address).into(),
                peer: bytes(peer.address).into(),
                protocol: 6,
                port: 8_080,
                role: if opens { Role::Opened } else { Role::Accepted }.into(),
            };
            self.flows.insert(
                key.clone(),
                Known {
                    flow,
                    traffic: Traffic::default(),
                },
            );
            self.new_flows.push(key.clone());
        }
        if let Some(Known { traffic, .. }) = self.flows.get_mut(&key) {
            traffic.sent_packets += 10;
            traffic.sent_bytes += 4_000;
            traffic.received_packets += 10;
            traffic.received_bytes += 4_000;
            traffic.opened += u64::from(opens);
            traffic.established += 1;
        }
        key
    }
}
