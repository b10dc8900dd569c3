//! The image as a node runs it: started by runc with the rights, mounts and arguments of the rendered manifests, in network namespaces of
//! its own, beside the demo's tenants, whose culprit it has to name. Links are encrypted with the certificates that the chart makes, agents show
//! tokens, and the aggregator learns of the cluster from an API server.

mod bundle;
mod container;
mod manifest;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::ErrorKind,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use partywall_apiserver::{Server, Token};
use partywall_proto::v1::{
    Breach, BreachKind, BreachState, GetSnapshotRequest, Snapshot, query_service_client::QueryServiceClient,
};
use partywall_workload::{
    NODE_IPV4, Network, Pod, PodLink, PodSpec, Work,
    manifest::{Phase, namespace_yaml, node_yaml, pod_yaml},
};
use serde::Serialize;
use serde_json::Value;
use tokio::{net::TcpListener, time::sleep};
use tonic::transport::{Certificate, ClientTlsConfig, Endpoint, Identity};

use crate::{api::Api, bpf::Objects, http, manifests::Documents, processes::NODE, run::cpu_request};
use bundle::{SERVICE_ACCOUNT, Surroundings};
use container::{Container, at_node};
use manifest::{PodTemplate, Rights, TlsSecret};

/// What the image is tested with.
pub(crate) struct Files<'a> {
    pub(crate) layout: &'a Path,
    pub(crate) manifests: &'a Path,
    pub(crate) seccomp: &'a Path,
}

/// The image's only one.
const TAG: &str = env!("CARGO_PKG_VERSION");
const NAMESPACE: &str = "partywall";
/// Of the agent; its certificate has the same name.
const ACCOUNT: &str = "partywall-agent";
const AGENT_SECRET: &str = "partywall-agent-tls";
/// The Service's name, by which the agent finds the aggregator.
const SERVICE: &str = "partywall-aggregator.partywall.svc";
const AGENT: Ipv4Addr = Ipv4Addr::new(10, 244, 0, 20);
const AGGREGATOR: Ipv4Addr = Ipv4Addr::new(10, 244, 0, 21);

/// BPF, PERFMON, NET_ADMIN: bits 39, 38 and 12 of linux/capability.h.
const THREE: u64 = 1 << 39 | 1 << 38 | 1 << 12;
/// Nobody's, as the chart has it.
const NONROOT: u32 = 65_532;

/// Without which the demo's story cannot be told.
const FEATURES: [&str; 4] = ["run_time", "ledger", "flows", "cgroup_events"];

/// The tenant of what is no pod.
const SYSTEM: &str = "system";

/// Blue alone: any tenant that is named now is named wrongly.
const QUIET: Duration = Duration::from_secs(4);
/// From red's start; the project's own limit is 5 s, this machine may be busy with a build.
const NAMED_PATIENCE: Duration = Duration::from_secs(20);
/// The kernel frees programs and maps after a grace period.
const FREED_PATIENCE: Duration = Duration::from_secs(5);

#[derive(Debug, Serialize)]
pub(crate) struct Proved {
    /// From red's start.
    named_after_s: f64,
    summary: String,
    agent_capabilities: String,
    aggregator_user: u32,
    programs: usize,
    maps: usize,
    /// What the aggregator asked of the API, each kind of question once: all of it is in its ClusterRole.
    asked: BTreeSet<String>,
}

impl Proved {
    pub(crate) fn line(&self) -> String {
        format!(
            "image: {} programs and {} maps with CapEff {}, aggregator as user {}, mTLS, tokens reviewed, {} rights of its role used and no other; named after {:.1} s: {}",
            self.programs,
            self.maps,
            self.agent_capabilities,
            self.aggregator_user,
            self.asked.len(),
            self.named_after_s,
            self.summary
        )
    }
}

pub(crate) async fn image(files: &Files<'_>, cgroup_mount: &Path, dir: &Path) -> Result<Proved> {
    let read = |path: &Path| fs::read_to_string(path).with_context(|| path.display().to_string());
    let documents = Documents::parse(&read(files.manifests)?)?;
    let seccomp: Value = serde_json::from_str(&read(files.seccomp)?)?;
    let (agent, aggregator) = (
        PodTemplate::of(&documents, "DaemonSet")?,
        PodTemplate::of(&documents, "Deployment")?,
    );
    let network = Network::create()?;
    let node = network.connect_to_node();
    let objects = dir.join("objects");
    write_objects(&objects)?;
    let api = Api::serve(on_the_node(&node)?, &objects)?;
    let mut stage = Stage {
        layout: files.layout,
        documents: &documents,
        seccomp,
        dir,
        cgroup_mount,
        objects,
        api,
        node: network.connect_to_node(),
        network,
    };
    let (blue, red) = (
        stage.tenant("blue", "web", 2, 0.5)?,
        stage.tenant("red", "batch", 3, 0.1)?,
    );

    let asking = Asking {
        node: &node,
        address: SocketAddr::from((AGGREGATOR, aggregator.container()?.port("grpc")?)),
        identity: TlsSecret::of(&documents, AGENT_SECRET)?,
    };
    let mut aggregator_runs = stage.start("aggregator", &aggregator, AGGREGATOR).await?;
    let mut agent_runs = stage.start("agent", &agent, AGENT).await?;
    let programs = rights(&agent_runs, &aggregator_runs)?;
    features(&node, &agent)?;

    let cpus = [last_cpu()?];
    let _serving = blue.start(
        &Work::Duty {
            busy_ms: 30.0,
            idle_ms: 70.0,
            threads: 1,
        },
        Some(&cpus),
    )?;
    sleep(QUIET).await;
    // A machine that builds beside the test disturbs blue too, and rightly: that is nobody's fault.
    let mut early = asking.firing()?;
    early.retain(|breach| breach.tenant != SYSTEM);
    ensure!(
        early.is_empty(),
        "raised while no tenant disturbed another: {early:?}"
    );
    let _spinning = red.start(&Work::Spin { threads: 3 }, Some(&cpus))?;
    let began = Instant::now();
    let named = loop {
        sleep(Duration::from_millis(250)).await;
        agent_runs.still_runs()?;
        aggregator_runs.still_runs()?;
        if let Some(breach) = asking.firing()?.into_iter().find(is_culprit) {
            break breach;
        }
        if began.elapsed() > NAMED_PATIENCE {
            bail!(
                "red was not named within {} s: {:?}\n{}\n{}",
                NAMED_PATIENCE.as_secs(),
                asking.firing()?,
                agent_runs.log(),
                aggregator_runs.log()
            );
        }
    };
    asking.refuses_strangers()?;
    let asked = stage.asked(&Rights::of(&documents)?)?;
    let proved = Proved {
        named_after_s: began.elapsed().as_secs_f64(),
        summary: named.summary,
        agent_capabilities: agent_runs.status("CapEff")?,
        aggregator_user: NONROOT,
        programs: programs.programs.len(),
        maps: programs.maps.len(),
        asked,
    };
    agent_runs.stop(agent.termination_grace_period_seconds).await?;
    aggregator_runs
        .stop(aggregator.termination_grace_period_seconds)
        .await?;
    let stopped = Instant::now();
    while !programs.left()?.is_empty() {
        ensure!(
            stopped.elapsed() < FREED_PATIENCE,
            "left in the kernel: {:?}",
            programs.left()?
        );
        sleep(Duration::from_millis(20)).await;
    }
    Ok(proved)
}

/// The demo's finding.
fn is_culprit(breach: &Breach) -> bool {
    breach.kind() == BreachKind::NoisyNeighbour
        && breach.tenant == "red"
        && breach.against == "blue"
        && breach.subject == "blue/web"
        && breach.culprits.iter().any(|culprit| culprit.pod == "red/batch")
}

/// A client at the node.
struct Asking<'a> {
    node: &'a PodLink,
    address: SocketAddr,
    identity: TlsSecret,
}

impl Asking<'_> {
    /// By its name in the certificate: the node has no DNS.
    fn tls(&self) -> ClientTlsConfig {
        ClientTlsConfig::new()
            .domain_name(SERVICE)
            .ca_certificate(Certificate::from_pem(&self.identity.ca))
    }

    fn snapshot(&self, endpoint: &Endpoint) -> Result<Snapshot> {
        at_node(self.node, async || {
            let mut client = QueryServiceClient::new(endpoint.connect().await?);
            Ok(client
                .get_snapshot(GetSnapshotRequest::default())
                .await?
                .into_inner())
        })
    }

    fn firing(&self) -> Result<Vec<Breach>> {
        let own = Identity::from_pem(&self.identity.cert, &self.identity.key);
        let endpoint = Endpoint::from_shared(format!("https://{}", self.address))?;
        let mut breaches = self
            .snapshot(&endpoint.tls_config(self.tls().identity(own))?)?
            .breaches;
        breaches.retain(|breach| breach.state() == BreachState::Firing);
        Ok(breaches)
    }

    /// Neither plain text nor a client without a certificate is answered.
    fn refuses_strangers(&self) -> Result<()> {
        let plain = Endpoint::from_shared(format!("http://{}", self.address))?;
        let nobody = Endpoint::from_shared(format!("https://{}", self.address))?.tls_config(self.tls())?;
        for (what, endpoint) in [("plain text", plain), ("a client without a certificate", nobody)] {
            ensure!(self.snapshot(&endpoint).is_err(), "{what} was answered");
        }
        Ok(())
    }
}

/// An API server where pods reach the node.
fn on_the_node(node: &PodLink) -> Result<Server> {
    let socket = node.within(|| std::net::TcpListener::bind((NODE_IPV4, 0)))??;
    socket.set_nonblocking(true)?;
    Server::over_tls(TcpListener::from_std(socket)?)
}

/// What is there before the first pod.
fn write_objects(dir: &Path) -> Result<()> {
    fs::create_dir_all(dir)?;
    fs::write(dir.join("node.yaml"), node_yaml(NODE, &[NODE_IPV4.into()])?)?;
    let namespaces = [NAMESPACE, "blue", "red"].map(|name| namespace_yaml(name, &BTreeMap::new()));
    for (number, yaml) in namespaces.into_iter().enumerate() {
        fs::write(dir.join(format!("namespace-{number}.yaml")), yaml?)?;
    }
    Ok(())
}

/// What the two processes may, by the kernel's word; gives what the agent has in the kernel.
fn rights(agent: &Container, aggregator: &Container) -> Result<Objects> {
    for (container, wanted) in [(agent, THREE), (aggregator, 0)] {
        for set in ["CapEff", "CapPrm", "CapBnd"] {
            let found = container.status(set)?;
            ensure!(
                u64::from_str_radix(&found, 16) == Ok(wanted),
                "{set} is {found}, not {wanted:016x}\n{}",
                container.log()
            );
        }
        for (key, wanted) in [
            ("CapInh", "0000000000000000"),
            ("CapAmb", "0000000000000000"),
            ("NoNewPrivs", "1"),
            ("Seccomp", "2"),
        ] {
            let found = container.status(key)?;
            ensure!(
                found == wanted,
                "{key} is {found}, not {wanted}\n{}",
                container.log()
            );
        }
        read_only(&container.within("/written"))?;
        fs::write(container.within("/var/lib/partywall/written"), "")
            .context("the one directory that is to be written cannot be")?;
    }
    read_only(&agent.within("/host/cgroup/written"))?;
    ensure!(
        fs::symlink_metadata(agent.within(SERVICE_ACCOUNT)).is_err(),
        "the agent has a token for the API"
    );
    for (container, wanted) in [(agent, 0), (aggregator, NONROOT)] {
        let ids = container.status("Uid")?;
        ensure!(
            ids.split_whitespace().all(|id| id.parse() == Ok(wanted)),
            "user ids are {ids}, not {wanted}"
        );
    }
    let objects = Objects::of(agent.pid)?;
    ensure!(
        !objects.programs.is_empty() && !objects.maps.is_empty(),
        "the agent is ready and has no program or no map: {objects:?}"
    );
    Ok(objects)
}

/// Making a directory fails because the file system is read-only, not for want of a right.
fn read_only(path: &Path) -> Result<()> {
    match fs::create_dir(path) {
        Err(error) if error.kind() == ErrorKind::ReadOnlyFilesystem => Ok(()),
        Err(error) => bail!("{}: refused for another reason: {error}", path.display()),
        Ok(()) => {
            let _gone = fs::remove_dir(path);
            bail!("{} can be written", path.display())
        }
    }
}

/// What the agent says that it uses, where Prometheus asks.
fn features(node: &PodLink, agent: &PodTemplate) -> Result<()> {
    let port = agent.container()?.port("http")?;
    let (code, metrics) = at_node(node, async || http::get((AGENT, port).into(), "/metrics").await)?;
    ensure!(code == 200, "/metrics: {code}");
    for feature in FEATURES {
        let line = format!("partywall_agent_feature{{feature=\"{feature}\"}} 1");
        ensure!(
            metrics.lines().any(|found| found == line),
            "/metrics has no {line}:\n{metrics}"
        );
    }
    Ok(())
}

/// The node and what is on it.
struct Stage<'a> {
    layout: &'a Path,
    documents: &'a Documents,
    seccomp: Value,
    dir: &'a Path,
    cgroup_mount: &'a Path,
    /// What the API server serves.
    objects: PathBuf,
    api: Api,
    node: PodLink,
    network: Network,
}

impl Stage<'_> {
    fn pod(&self, namespace: &str, name: &str, address: Ipv4Addr, cores: f64) -> Result<Pod> {
        let mut spec = PodSpec::new(namespace, name);
        spec.requests = cpu_request(cores);
        spec.pod_ips = vec![address.to_string()];
        spec.host_ips = vec![NODE_IPV4.to_string()];
        let file = self.objects.join(format!("pod-{namespace}-{name}.yaml"));
        fs::write(file, pod_yaml(&spec, NODE, Phase::Running)?)?;
        Ok(Pod::create(spec, self.cgroup_mount)?)
    }

    fn tenant(&mut self, namespace: &str, name: &str, host: u8, cores: f64) -> Result<Pod> {
        let address = Ipv4Addr::new(10, 244, 0, host);
        let mut pod = self.pod(namespace, name, address, cores)?;
        pod.connect(self.network.connect(&[address.into()])?);
        Ok(pod)
    }

    /// Unpacks the image for this pod, starts it and waits until it is ready.
    async fn start(&mut self, name: &str, template: &PodTemplate, address: Ipv4Addr) -> Result<Container> {
        let bundle = self.dir.join(name);
        bundle::unpack(self.layout, TAG, &bundle)?;
        let hosts = bundle.join("hosts");
        fs::write(&hosts, format!("127.0.0.1 localhost\n{AGGREGATOR} {SERVICE}\n"))?;
        let link = self.network.connect(&[IpAddr::V4(address)])?;
        let mut pod = self.pod(NAMESPACE, name, address, 0.05)?;
        let server = &self.api.server;
        let bound = (name.to_owned(), pod.spec().uid.clone());
        let token = |audience: &str| {
            let text = format!("{name}-for-{audience}");
            let token = Token {
                user: format!("system:serviceaccount:{NAMESPACE}:{ACCOUNT}"),
                uid: "5a0e4c1d-account".to_owned(),
                audiences: vec![audience.to_owned()],
                pod: Some(bound.clone()),
                node: Some((NODE.to_owned(), "6b1f-node".to_owned())),
                refused: None,
            };
            server.add_token(&text, token);
            text
        };
        let container = template.container()?;
        let config = bundle::config(
            template,
            &Surroundings {
                rootfs: &bundle.join("rootfs"),
                volumes: &bundle.join("volumes"),
                network: link.path(),
                cgroup: format!("/{}", pod.spec().container_cgroup()),
                hosts: &hosts,
                seccomp: &self.seccomp,
                documents: self.documents,
                api: server.address(),
                service_account: &server.service_account(NAMESPACE),
                token: &token,
            },
        )?;
        pod.connect(link);
        let mut started = Container::start(name, &bundle, &config, pod).await?;
        let (path, port) = container.readiness()?;
        started.ready(&self.node, (address, port).into(), path).await?;
        Ok(started)
    }

    /// What the API was asked, which must be within what the role says.
    fn asked(&self, rights: &Rights) -> Result<BTreeSet<String>> {
        let mut asked = BTreeSet::new();
        for request in self.api.server.requests() {
            let question = format!("{} {}", request.verb, request.path);
            ensure!(
                rights.admit(request.verb, &request.path),
                "{question}: no rule of the ClusterRole has it"
            );
            asked.insert(question);
        }
        for needed in [
            "watch /api/v1/pods",
            "create /apis/authentication.k8s.io/v1/tokenreviews",
        ] {
            ensure!(asked.contains(needed), "{needed} was not asked: {asked:?}");
        }
        Ok(asked)
    }
}

/// The first ones serve most interrupts.
fn last_cpu() -> Result<usize> {
    let status = fs::read_to_string("/proc/self/status")?;
    let list = status
        .lines()
        .find_map(|line| line.strip_prefix("Cpus_allowed_list:"));
    list.and_then(|list| list.trim().rsplit([',', '-']).next()?.parse().ok())
        .context("/proc/self/status names no allowed CPU")
}
