//! The command line, declared once: help and completions come out of it.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;
use partywall_aggregator_core::fence::Question;
use partywall_proto::v1::BreachKind;

use crate::when::When;

const EXAMPLES: &str = "\
Start here:
  sudo partywall demo                  see neighbours named on this machine, in half a minute
  sudo partywall up                    watch this host: agent and aggregator in one process
  partywall top                        look at it, from a second terminal

Then:
  partywall breaches                   who broke what, with evidence
  partywall breaches --watch --json    the same as a stream, one JSON object a line
  partywall explain 1f6d               the whole evidence of one, and what would have to change
  partywall flows --cross-tenant --watch    who reaches whom over the wall, and what policies say
  partywall tenants --aggregator https://aggregator.partywall.svc:7441 --tls-ca ca.crt --tls-cert tls.crt --tls-key tls.key
  partywall tenants --explain blue     by which rule a namespace got its tenant
  partywall history --from -24h        what fired, as far back as the trail goes
  partywall audit --from -2h --pair red,blue    did red reach blue: yes, no, or unknown
  partywall headroom                   use against capacity, and whether a zone may be lost
  partywall policy check --cluster-from DIR --from red/web --to blue/db --port 5432
  partywall policy suggest --cluster-from DIR    NetworkPolicies that close what is open
  partywall completions bash > /etc/bash_completion.d/partywall

Exit codes:
  0  done (a reader that closes the pipe is done, too)
  1  failed; `demo`: the case was not proved; `policy check`: denied, `policy diff`: newly denied, nothing else;
     `audit`: yes, `audit verify`: the chain is broken
  2  the command line makes no sense, or `policy` cannot use what it names
  3  no aggregator answered
  4  this host or user lacks what the command needs; `audit`, `audit verify`: no answer could be had
  5  `policy check`, `policy diff`: unknown whether it is allowed; `audit`: unknown
  130  interrupted";

/// Names the tenant that took another's CPU or memory, or reached its pods, and shows the evidence.
#[derive(Debug, Parser)]
#[command(name = "partywall", version, after_help = EXAMPLES, arg_required_else_help = true)]
#[command(disable_help_subcommand = true, max_term_width = 100)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub common: Common,
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct Common {
    /// Where the aggregator answers
    #[arg(long, global = true, value_name = "URL", env = "PARTYWALL_AGGREGATOR")]
    #[arg(default_value = "http://127.0.0.1:7441")]
    pub aggregator: String,
    /// Print JSON instead of tables: one document, or one object a line where it streams
    #[arg(long, global = true)]
    pub json: bool,
    #[command(flatten)]
    pub tls: Tls,
}

/// Of an aggregator at https://.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct Tls {
    /// Certificate of the authority that signed the aggregator's, in PEM
    #[arg(long, global = true, value_name = "FILE", env = "PARTYWALL_TLS_CA")]
    pub tls_ca: Option<PathBuf>,
    /// This client's certificate, in PEM
    #[arg(long, global = true, value_name = "FILE", env = "PARTYWALL_TLS_CERT")]
    pub tls_cert: Option<PathBuf>,
    /// The key of this client's certificate, in PEM
    #[arg(long, global = true, value_name = "FILE", env = "PARTYWALL_TLS_KEY")]
    pub tls_key: Option<PathBuf>,
}

/// Which of the aggregator's clusters is asked about.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct Of {
    /// Only this cluster, where the aggregator serves several
    #[arg(long, value_name = "NAME")]
    pub cluster: Option<String>,
}

impl Of {
    /// On a line of a stream, which does not know how many clusters there are: the name, where it was not asked for and is not the one that a
    /// cluster has to which nobody gave a name.
    pub(crate) fn worth_naming<'a>(&self, cluster: &'a str) -> &'a str {
        if self.cluster.is_some() || cluster == "default" {
            ""
        } else {
            cluster
        }
    }
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Make three tenants on this machine, let one disturb and reach another, and see it named
    #[command(after_help = DEMO)]
    Demo(Demo),
    /// Watch this host without Kubernetes: agent and aggregator in one process
    #[command(after_help = UP)]
    Up(Up),
    /// Look at tenants, pods, the ledger, breaches and flows, live
    #[command(after_help = TOP)]
    Top(Top),
    /// List tenants: what they use, wait for, lose to others and take from others
    #[command(after_help = TENANTS)]
    Tenants(Tenants),
    /// List flows: who reaches whom, and what the fence says of it
    #[command(after_help = FLOWS)]
    Flows(FlowArgs),
    /// List breaches: who broke what, against whom, with evidence
    #[command(after_help = BREACHES)]
    Breaches(Breaches),
    /// Tell everything known of one breach, and what would have to change
    #[command(after_help = EXPLAIN)]
    Explain(Explain),
    /// Show use against capacity by node pool and zone, and whether a zone may be lost
    #[command(after_help = HEADROOM)]
    Headroom(HeadroomArgs),
    /// List each time that a breach fired, as far back as the trail goes
    #[command(after_help = HISTORY)]
    History(History),
    /// Say whether one tenant reached another between two times; verify and export the trail
    #[command(after_help = AUDIT)]
    Audit(AuditArgs),
    /// Ask what the NetworkPolicies of a cluster say, and write better ones
    #[command(after_help = POLICY, arg_required_else_help = true)]
    Policy {
        #[command(subcommand)]
        command: PolicyCommand,
    },
    /// Print a completion script for a shell
    #[command(after_help = COMPLETIONS)]
    Completions {
        /// The shell to complete for
        shell: Shell,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum PolicyCommand {
    /// Say whether a connection is allowed, and by which policy and rule
    #[command(after_help = CHECK)]
    Check(PolicyCheck),
    /// Write NetworkPolicies that close what is open between tenants, and keep what was seen in use
    #[command(after_help = SUGGEST)]
    Suggest(PolicySuggest),
    /// Say what changed policies would newly deny or allow among the flows seen, before they are applied
    #[command(after_help = DIFF)]
    Diff(PolicyDiff),
}

const DEMO: &str = "\
What happens:
  Three tenants get real cgroups and real work on one CPU of this machine. `blue` serves and stays under its
  request, `green` is an honest neighbour, `red` bursts far over its request after a few seconds. The agent's
  eBPF programs count who ran while whom waited; the aggregator names red, and red alone.
  Then red's pod opens a TCP connection to blue's, in real network namespaces with nothing in the way. It is named
  with both pods, port and bytes, and a NetworkPolicy that would close it is suggested; nothing applies it.
  Everything is removed again, and that is checked.

Needs: root, or CAP_BPF, CAP_PERFMON, CAP_NET_ADMIN and CAP_SYS_ADMIN and the right to make cgroups; a kernel with
BTF; `ip` and `nft` (Debian packages iproute2 and nftables).

Examples:
  sudo partywall demo
  sudo partywall demo --seconds 60           a longer noisy phase
  sudo partywall demo --json | jq .breaches  one document when it is over
  sudo partywall demo --json | jq .flat_network.suggestion.policies
  cargo run --release -- demo                from a clone, as root";

const UP: &str = "\
Examples:
  sudo partywall up                            every systemd unit and container that uses CPU, as tenant `system`
  sudo partywall up --policy host.yaml         tenants and requests by path rules of the policy file
  partywall top                                look at it, from a second terminal

A policy file for a host that serves two teams:
  paths:
    - { prefix: /system.slice/nginx.service, tenant: web, name: nginx, cpu_request_cores: 0.5 }
    - { prefix: /system.slice/backup.service, tenant: ops, name: backup, cpu_request_cores: 0.1 }

SIGINT or SIGTERM ends it: the last reports are sent, every eBPF program is detached. RUST_LOG=info tells more.";

const TOP: &str = "\
Keys:
  1 2 3 4 5, tab   tenants, pods, ledger, breaches, flows
  arrows, j k      move; the ledger also moves sideways
  s                sort by the next column
  /                filter by name; enter keeps it, esc clears it
  p                pause
  ?                what the words mean
  q                quit

Examples:
  partywall top
  partywall top --once                 all five views as text, no terminal needed
  partywall top --json | jq .ledger    everything as one document";

const TENANTS: &str = "\
Examples:
  partywall tenants
  partywall tenants --explain blue           by which rule a namespace got its tenant
  partywall tenants --cluster eu-1           of one cluster, where the aggregator serves several
  partywall tenants --json | jq '.tenants[] | select(.stolen_cores > 0.1) | .name'";

const FLOWS: &str = "\
Verdicts:
  allowed   the policy file admits it, or a NetworkPolicy isolates an end and admits it
  open      delivered, and no NetworkPolicy isolates either end: the flat network let it through
  leaked    delivered, though the policies in force deny it: the fence is not enforced
  blocked   tried, not delivered
  unknown   the other end cannot be named, or policies are in force that are not evaluated
  within    both ends are one tenant's, or one is nobody's

Listed are the 4,096 flows with the most bytes; with --watch so many of each verdict. How many
there are besides is said below the table, while it watches on stderr, with --json as `left_out`.

Examples:
  partywall flows --cross-tenant                       between different tenants only
  partywall flows --from red --to blue/web             a tenant, `namespace/` or a pod on either side
  partywall flows --verdict open --verdict leaked      the holes
  partywall flows --cross-tenant --watch               new flows and changed verdicts, until Ctrl-C
  partywall flows --json | jq '.flows[] | select(.verdict == \"leaked\")'";

const BREACHES: &str = "\
Examples:
  partywall breaches                     what holds now: pending and firing
  partywall breaches --all               with what was resolved
  partywall breaches --tenant red        only those that name red, on either side
  partywall breaches --watch             what holds now, then every change, until Ctrl-C
  partywall breaches --watch --json | jq -c 'select(.state == \"firing\")'";

const EXPLAIN: &str = "\
BREACH is the beginning of a breach's fingerprint, as `partywall breaches` lists it: as many digits as
tell it from others. Known are breaches that live, those that were resolved within the last hour, and of
older ones what the aggregator's trail keeps.

What is told: the timeline, who ran while the victim waited, what those concerned use and were
promised, the thresholds and objects that made it a breach, what would have to change (as YAML, never
applied), and what is not known.

Examples:
  partywall explain 1f6d
  partywall explain 1f6d --yaml-only             what would have to change, as YAML alone
  partywall explain 1f6d --json | jq '.remedies[0].yaml' -r

Exit codes:
  0  told
  1  no breach has a fingerprint that begins so
  2  several have (they are listed), or it is none
  3  no aggregator answered";

const HEADROOM: &str = "\
Use is that of pods: now, and the highest mean over a minute within the last 24 hours (shorter after a
start of the aggregator). Capacity is what pods may have: `allocatable` of the Node objects.
A zone that is lost: its pods are placed on the nodes of the other zones, largest first, up to the mark
(`headroom.mark` of the policy file, 80 %): once by their highest minute, once by their requests.

Examples:
  partywall headroom
  partywall headroom --json | jq '.zones[] | select(.by_use.fits != true) | .summary'";

const HISTORY: &str = "\
Times are RFC 3339 (2026-11-21T14:00:00Z), \"2026-11-21 14:00\" or 2026-11-21 (both UTC), -2h, -7d, now.

Examples:
  partywall history --from -24h
  partywall history --from 2026-11-01 --to 2026-12-01 --tenant red --csv > november.csv
  partywall history --kind FenceLeak --kind FlatNetwork --limit 20
  partywall history --json | jq '.[] | select(.end_unknown != \"\")'";

const AUDIT: &str = "\
Times are RFC 3339 (2026-11-21T14:00:00Z), \"2026-11-21 14:00\" or 2026-11-21 (both UTC), -2h, -7d, now.

Answers:
  yes       something of it arrived: with what, how much, when
  no        nothing arrived, and the whole time was seen
  unknown   nothing was seen to arrive, and not everything was looked at: which gaps

Examples:
  partywall audit --from \"2026-11-21 14:00\" --to \"2026-11-21 15:00\" --pair red,blue
  partywall audit --from -2h --tenant red --json | jq .answer
  partywall audit verify                            is anything missing? prints the head, to be noted elsewhere
  partywall audit verify --head 4711:9f86...        and is what was noted still in it?
  partywall audit export --format jsonl --out copies
  partywall audit export --format openreports --from -24h | kubectl apply -f -

Exit codes:
  0  no; `verify`: the chain is whole; `export`: done
  1  yes; `verify`: the chain is broken; `export`: failed
  2  the command line makes no sense, or a file cannot be read
  3  no aggregator answered
  4  there is no answer: this aggregator keeps no trail, there is no record, the question is too large,
     or it cannot be printed
  5  unknown; `verify`: the head is older than what is kept";

const VERIFY: &str = "\
The whole chain is read and recomputed here; nothing that the aggregator says of itself is believed.
The chain shows that nothing was removed, changed or put in between. Against a chain that was made anew
as a whole, and against one that was cut off at its end, a head helps that was noted elsewhere.

Examples:
  partywall audit verify
  partywall audit verify --head 4711:9f86...
  partywall audit verify --file copies/trail.jsonl";

const EXPORT: &str = "\
Formats:
  jsonl         the chain, a record a line; `partywall audit verify --file` takes it. Always whole
  csv           a table of everything: breaches, what crossed, what was not seen, starts
  openreports   openreports.io/v1alpha1 Report, one for each namespace, as YAML
  policyreport  wgpolicyk8s.io/v1alpha2 PolicyReport, the same

Results of the last two: fail (a pod or the tenant of the namespace broke it), warn (it was done to a pod
of it, is nobody's breach, or came near), pass (FlatNetwork and FenceLeak: nothing fired, and the whole
time was seen), skip (nothing fired, and not everything was seen, or nobody knows whether it was).

Examples:
  partywall audit export --format jsonl --out copies
  partywall audit export --format csv --from -30d > trail.csv
  partywall audit export --format policyreport --from -24h --out reports";

const POLICY: &str = "\
Examples:
  partywall policy check --cluster-from DIR --from red/web --to blue/db --port 5432
  partywall policy check --cluster-from DIR --matrix --port 80
  partywall policy suggest --cluster-from DIR > suggested/policies.yaml
  partywall policy diff --cluster-from DIR --changed suggested";

const CHECK: &str = "\
DIR holds what kubectl writes; everything that bears upon a verdict:
  kubectl get -A -o yaml > DIR/all.yaml \\
    namespaces,pods,nodes,services,endpointslices.discovery.k8s.io,networkpolicies.networking.k8s.io
and, where there are such kinds:
  kubectl get -A -o yaml > DIR/cilium.yaml ciliumnetworkpolicies,ciliumclusterwidenetworkpolicies

Examples:
  partywall policy check --cluster-from DIR --from red/web --to blue/db --port 5432/TCP
  partywall policy check --cluster-from DIR --from blue/web --to 203.0.113.9 --port 443
  partywall policy check --cluster-from DIR --from blue/web --to green/dns --port dns/UDP
  partywall policy check --cluster-from DIR --from node:node-a --to blue/web --port 8080
  partywall policy check --cluster-from DIR --from red/web --to blue/db --port ICMP --json | jq .verdict
  partywall policy check --cluster-from DIR --matrix --port 80 --namespace red --namespace blue

Exit codes:
  0  allowed, or open: no policy isolates either end (it says which); --matrix: done
  1  denied
  2  the command line makes no sense, or a pod or file that it names is not there or broken
  4  the answer could not be written
  5  unknown: there are policies of kinds that are not evaluated, or something is not known that it depends on";

const SUGGEST: &str = "\
What is written, for each group of pods with the same labels that was reached: one NetworkPolicy
that admits
  - the tenant's own namespaces, on every port;
  - what was delivered from system pods and nodes, and what the policy file or a NetworkPolicy
    allows between tenants: that peer, on that port.
Everything else is closed by it. Pods that a NetworkPolicy isolates already are left alone, so
nothing that is denied now is admitted. The comments say who used each rule, how often, when last,
and which flows it closes or cuts.

Examples:
  partywall policy suggest --cluster-from DIR > suggested/policies.yaml
  partywall policy diff --cluster-from DIR --changed suggested     what would it deny?
  kubectl apply --dry-run=server -f suggested/
  partywall flows --json > flows.json; partywall policy suggest --flows flows.json --cluster-from DIR
  partywall policy suggest --cluster-from DIR --tenant blue --egress --keep-outside
  partywall policy suggest --cluster-from DIR --json | jq '.flows[] | select(.fate == \"still_open\")'

Without --cluster-from no labels are known: there is one policy for each namespace, and policies
in force are not seen.

Exit codes:
  0  done, also when there is nothing to suggest (it says why)
  2  the command line makes no sense, or a file cannot be used
  3  no aggregator answered
  4  it could not be written";

const DIFF: &str = "\
The changed directory holds NetworkPolicies as `kubectl apply` takes them: each replaces the one of
its name, or is new. With --replace it holds all that there will be, and the others are gone.
Each names its namespace. Namespace objects in it count too; other kinds are not looked at.

Examples:
  partywall policy diff --cluster-from DIR --changed suggested
  partywall policy diff --cluster-from DIR --changed git/policies --replace --flows flows.json
  partywall policy diff --cluster-from DIR --changed suggested --json | jq '.changes[] | select(.change == \"newly_denied\")'

Exit codes:
  0  nothing that was delivered is newly denied
  1  something that was delivered is newly denied
  2  the command line makes no sense, or a file cannot be used
  3  no aggregator answered
  4  the answer could not be written
  5  nothing is known to be newly denied, but of a flow that was delivered it cannot be said, or
     there is no flow that anything can be said of, or the aggregator knew more than it listed, or
     a changed policy is for a namespace that is in neither directory (mistyped?)";

const COMPLETIONS: &str = "\
Examples:
  partywall completions bash > /etc/bash_completion.d/partywall
  partywall completions zsh > \"${fpath[1]}/_partywall\"
  partywall completions fish > ~/.config/fish/completions/partywall.fish";

#[derive(Clone, Debug, Args)]
pub(crate) struct Demo {
    /// How long red is noisy, in seconds; at least 6: a breach takes up to 5 to fire
    #[arg(long, value_name = "N", default_value_t = 12, value_parser = clap::value_parser!(u32).range(6..=3600))]
    pub seconds: u32,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct Up {
    /// Policy file: thresholds, tenants, path rules; read again when it changes
    #[arg(long, value_name = "FILE")]
    pub policy: Option<PathBuf>,
    /// Directory of Kubernetes YAML that names the pods found on this host; read again when it changes
    #[arg(long, value_name = "DIR")]
    pub cluster_from: Option<PathBuf>,
    /// Where the aggregator takes reports and answers questions
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:7441")]
    pub grpc_listen: SocketAddr,
    /// Where the aggregator serves the page, /metrics, /healthz and /readyz
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:7442")]
    pub http_listen: SocketAddr,
    /// Where the agent serves /metrics, /healthz and /readyz
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:7443")]
    pub agent_http_listen: SocketAddr,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct Top {
    /// Print all five views once as text
    #[arg(long)]
    pub once: bool,
    #[command(flatten)]
    pub of: Of,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct Tenants {
    /// Say by which rule this namespace got its tenant, and why no other did
    #[arg(long, value_name = "NAMESPACE")]
    pub explain: Option<String>,
    #[command(flatten)]
    pub of: Of,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct FlowArgs {
    /// Only flows between different tenants
    #[arg(long)]
    pub cross_tenant: bool,
    /// Only flows opened by this tenant, `namespace/` or `namespace/pod`
    #[arg(long, value_name = "WHO")]
    pub from: Option<String>,
    /// Only flows to this tenant, `namespace/` or `namespace/pod`
    #[arg(long, value_name = "WHO")]
    pub to: Option<String>,
    /// Only flows of this verdict; may be repeated
    #[arg(long, value_enum)]
    pub verdict: Vec<VerdictArg>,
    /// Print new flows and changed verdicts until interrupted
    #[arg(long)]
    pub watch: bool,
    #[command(flatten)]
    pub of: Of,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum VerdictArg {
    Allowed,
    Open,
    Leaked,
    Blocked,
    Unknown,
    Within,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct Breaches {
    /// Keep printing every change until interrupted
    #[arg(long)]
    pub watch: bool,
    /// Only breaches that name this tenant, on either side
    #[arg(long, value_name = "TENANT")]
    pub tenant: Option<String>,
    /// Also those that were resolved, as far back as the aggregator keeps them
    #[arg(long, conflicts_with = "watch")]
    pub all: bool,
    #[command(flatten)]
    pub of: Of,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct Explain {
    /// Fingerprint of the breach, or its first digits
    pub breach: String,
    /// Print only the YAML of what would have to change
    #[arg(long, conflicts_with = "json")]
    pub yaml_only: bool,
    #[command(flatten)]
    pub of: Of,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct HeadroomArgs {
    #[command(flatten)]
    pub of: Of,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct History {
    /// Fired at this time or later, or earlier and not resolved before it; without it as far back as the trail goes
    #[arg(long, value_name = "TIME", allow_hyphen_values = true)]
    pub from: Option<When>,
    /// Fired before this time [default: now]
    #[arg(long, value_name = "TIME", allow_hyphen_values = true)]
    pub to: Option<When>,
    /// Only breaches that name this tenant, on either side
    #[arg(long, value_name = "TENANT")]
    pub tenant: Option<String>,
    /// Only breaches of this kind, such as FenceLeak; may be given several times
    #[arg(long, value_name = "KIND", value_parser = kind)]
    pub kind: Vec<BreachKind>,
    /// At most so many, the newest; 0: as many as there are
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub limit: u32,
    /// Only what stands before this entry, for the page before: what a list that was cut by --limit says
    #[arg(long, value_name = "CURSOR")]
    pub before: Option<String>,
    /// Print a table for spreadsheets
    #[arg(long, conflicts_with = "json")]
    pub csv: bool,
    #[command(flatten)]
    pub of: Of,
}

fn kind(typed: &str) -> Result<BreachKind, String> {
    let all = || (1..).map_while(|number| BreachKind::try_from(number).ok());
    let name = |kind: BreachKind| crate::model::kind(kind.into());
    let found = all().find(|kind| name(*kind).eq_ignore_ascii_case(typed));
    found.ok_or_else(|| {
        let names: Vec<String> = all().map(name).collect();
        format!("no kind of breach; there is {}", names.join(", "))
    })
}

#[derive(Clone, Debug, Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub(crate) struct AuditArgs {
    #[command(subcommand)]
    pub command: Option<AuditCommand>,
    #[command(flatten)]
    pub ask: AuditAsk,
}

#[derive(Clone, Debug, Subcommand)]
pub(crate) enum AuditCommand {
    /// Recompute the chain: was anything removed or changed?
    #[command(after_help = VERIFY)]
    Verify(AuditVerify),
    /// Copy the trail: as its chain, as a table, or as objects of report APIs
    #[command(after_help = EXPORT)]
    Export(AuditExport),
}

#[derive(Clone, Debug, Args)]
pub(crate) struct AuditAsk {
    /// From this time on
    #[arg(long, value_name = "TIME", required = true, allow_hyphen_values = true)]
    pub from: Option<When>,
    /// Until this time [default: now]
    #[arg(long, value_name = "TIME", allow_hyphen_values = true)]
    pub to: Option<When>,
    /// Only pairs with this tenant, on either side
    #[arg(long, value_name = "TENANT", conflicts_with = "pair")]
    pub tenant: Option<String>,
    /// Did the first reach the second? Two tenants: who opened, and who was reached
    #[arg(long, value_name = "FROM,TO", value_parser = crate::trail::pair)]
    pub pair: Option<(String, String)>,
    /// Print a table for spreadsheets
    #[arg(long, conflicts_with = "json")]
    pub csv: bool,
    /// Print one JSON object a line, for each pair
    #[arg(long, conflicts_with_all = ["json", "csv"])]
    pub json_lines: bool,
    #[command(flatten)]
    pub of: Of,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct AuditVerify {
    /// A head that was noted earlier: is it still in the chain?
    #[arg(long, value_name = "SEQUENCE:HASH")]
    pub head: Option<crate::trail::Head>,
    /// Verify an export instead, as `audit export --format jsonl` writes it
    #[arg(long, value_name = "FILE")]
    pub file: Option<PathBuf>,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct AuditExport {
    /// What to write
    #[arg(long, value_name = "FORMAT")]
    pub format: ExportFormat,
    /// From this time on; without it as far back as the trail goes
    #[arg(long, value_name = "TIME", allow_hyphen_values = true)]
    pub from: Option<When>,
    /// Until this time [default: now]
    #[arg(long, value_name = "TIME", allow_hyphen_values = true)]
    pub to: Option<When>,
    /// Directory to write into, where a copy is replaced once the next is whole; `-`, or left out: stdout
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    #[command(flatten)]
    pub of: Of,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum ExportFormat {
    Csv,
    Jsonl,
    Openreports,
    Policyreport,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct PolicyCheck {
    /// Directory of Kubernetes YAML or JSON, as `kubectl get -o yaml` writes it
    #[arg(long, value_name = "DIR")]
    pub cluster_from: PathBuf,
    /// Who opens the connection: NAMESPACE/POD, an IP address, or node:NAME
    #[arg(long, value_name = "END", required_unless_present = "matrix")]
    pub from: Option<String>,
    /// Who is to take it: NAMESPACE/POD, an IP address, or node:NAME
    #[arg(long, value_name = "END", required_unless_present = "matrix")]
    pub to: Option<String>,
    /// 80, 80/TCP, 53/udp, a port's name as the receiving pod has it (http/TCP), or ICMP
    #[arg(long, value_name = "PORT")]
    pub port: Question,
    /// Policy file: which namespace belongs to which tenant
    #[arg(long, value_name = "FILE")]
    pub policy: Option<PathBuf>,
    /// All pairs of pods instead of one
    #[arg(long, conflicts_with_all = ["from", "to"])]
    pub matrix: bool,
    /// With --matrix: only pods of this namespace; may be given several times
    #[arg(long, value_name = "NAMESPACE", requires = "matrix")]
    pub namespace: Vec<String>,
}

#[derive(Clone, Debug, Default, Args)]
pub(crate) struct PolicySuggest {
    /// Flows saved by `partywall flows --json`, also with --watch; without it the aggregator is asked
    #[arg(long, value_name = "FILE")]
    pub flows: Option<PathBuf>,
    /// Directory of Kubernetes YAML or JSON: the pods' labels, and the policies in force
    #[arg(long, value_name = "DIR")]
    pub cluster_from: Option<PathBuf>,
    /// Policy file: which namespace belongs to which tenant
    #[arg(long, value_name = "FILE", requires = "cluster_from")]
    pub policy: Option<PathBuf>,
    /// Only policies for this namespace; may be given several times
    #[arg(long, value_name = "NAMESPACE")]
    pub namespace: Vec<String>,
    /// Only policies for namespaces of this tenant; may be given several times
    #[arg(long, value_name = "TENANT")]
    pub tenant: Vec<String>,
    /// Also close what goes out: the tenant's own namespaces, DNS, and what was seen in use stay
    #[arg(long)]
    pub egress: bool,
    /// Keep flows between different tenants that nothing allows today; the comment says whose they are
    #[arg(long)]
    pub keep_cross_tenant: bool,
    /// Keep flows with addresses outside of the cluster, as an ipBlock for each
    #[arg(long)]
    pub keep_outside: bool,
    #[command(flatten)]
    pub of: Of,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct PolicyDiff {
    /// Directory of Kubernetes YAML or JSON, as `kubectl get -o yaml` writes it: the cluster as it is
    #[arg(long, value_name = "DIR")]
    pub cluster_from: PathBuf,
    /// Directory of the changed NetworkPolicies
    #[arg(long, value_name = "DIR")]
    pub changed: PathBuf,
    /// The changed ones are all that there will be
    #[arg(long)]
    pub replace: bool,
    /// Flows saved by `partywall flows --json`, also with --watch; without it the aggregator is asked
    #[arg(long, value_name = "FILE")]
    pub flows: Option<PathBuf>,
    #[command(flatten)]
    pub of: Of,
}

/// A parser's complaint as one line: what is wrong, a tip where there is one, where to read on.
pub(crate) fn one_line(error: &clap::Error) -> String {
    let text = error.render().to_string();
    let mut lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    let mut line = lines
        .next()
        .unwrap_or("the command line makes no sense")
        .to_owned();
    if let Some(rest) = line.strip_prefix("error: ") {
        line = rest.to_owned();
    }
    // "the following required arguments were not provided:" and its kin name them on the lines below.
    while line.ends_with(':')
        && let Some(next) = lines.next()
    {
        line = format!("{line} {next}");
    }
    let hints: Vec<&str> = lines
        .filter(|line| line.starts_with("tip:") || line.starts_with("[possible values:"))
        .collect();
    for hint in hints {
        line = format!("{line}; {hint}");
    }
    format!("{line}; see `partywall --help`")
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_command_has_examples() {
        for command in Cli::command().get_subcommands() {
            assert!(
                command.get_after_help().is_some(),
                "{} has none",
                command.get_name()
            );
        }
    }

    #[test]
    fn complaints_fit_on_one_line() {
        for (typed, wanted) in [
            (vec!["partywall", "tenant"], "unrecognized subcommand 'tenant'"),
            (vec!["partywall", "breaches", "--wach"], "--watch"),
            (vec!["partywall", "demo", "--seconds", "1"], "6..=3600"),
            (vec!["partywall", "up", "--grpc-listen", "x"], "--grpc-listen"),
            (vec!["partywall", "completions"], "<SHELL>"),
            (vec!["partywall", "completions", "tcsh"], "bash"),
            (
                vec![
                    "partywall",
                    "policy",
                    "check",
                    "--cluster-from",
                    ".",
                    "--port",
                    "80",
                ],
                "--from <END>",
            ),
            (
                vec![
                    "partywall",
                    "policy",
                    "check",
                    "--cluster-from",
                    ".",
                    "--port",
                    "x/y",
                ],
                "none of TCP",
            ),
            (
                vec!["partywall", "breaches", "--all", "--watch"],
                "cannot be used with",
            ),
        ] {
            let error = Cli::try_parse_from(&typed).expect_err("taken");
            let line = one_line(&error);
            assert!(line.contains(wanted) && !line.contains('\n'), "{typed:?}: {line}");
        }
    }
}
