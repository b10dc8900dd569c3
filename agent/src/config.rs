//! What was typed → what it means.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use clap::{Parser, Subcommand, ValueEnum};
use tonic::codegen::http::Uri;

use crate::link::{LinkConfig, TlsFiles};
use crate::uplink::SpoolConfig;

/// Shortest and longest time between two readings. Below, reading costs more than it tells; above, a breach is not seen
/// within seconds, and a short-lived pod is only its total.
pub const INTERVAL: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(60));
/// Smallest and largest bound of the queue, in bytes of encoded reports.
pub const QUEUE_BYTES: (usize, usize) = (64 * 1024, 1024 * 1024 * 1024);
/// Smallest and largest bound of the spool, in bytes. Below, a few of the largest messages there are would fill it; above, catching up takes days.
pub const SPOOL_BYTES: (u64, u64) = (32 << 20, 64 << 30);
/// Longest name that Kubernetes gives a node.
const NODE_MAX: usize = 253;

const EXAMPLES: &str = "\
Start here:
  partywall-agent check      what this kernel lets the agent see, and what is lost without the rest
  sudo partywall-agent --insecure-plaintext       report to an aggregator on this machine
  sudo partywall-agent --aggregator https://aggregator.partywall.svc:7441 \
    --tls-ca ca.crt --tls-cert tls.crt --tls-key tls.key

It needs CAP_BPF, CAP_PERFMON and CAP_NET_ADMIN, or root. While the aggregator is away, reports wait
in memory, up to --queue-bytes, or in --spool-dir, up to --spool-bytes. SIGTERM and SIGINT stop it; what
waits is sent before it ends, or stays in --spool-dir.";

/// Counts on one node who waited for CPU and who ran meanwhile, and reports it to the aggregator.
#[derive(Clone, Debug, Parser)]
#[command(name = "partywall-agent", version, after_help = EXAMPLES, max_term_width = 100)]
#[command(args_conflicts_with_subcommands = true, disable_help_subcommand = true)]
pub struct Args {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    run: RunArgs,
}

/// What the agent shall do.
#[derive(Clone, Debug, Subcommand)]
pub enum Command {
    /// Count and report until told to stop (what happens without a command)
    Run(RunArgs),
    /// Say what this kernel lets the agent see, and what is lost without the rest
    Check(CheckArgs),
}

#[derive(Clone, Debug, clap::Args)]
pub struct RunArgs {
    /// Name of this node, as Kubernetes has it [default: this machine's host name]
    #[arg(long, env = "NODE_NAME", value_name = "NAME")]
    pub node: Option<String>,
    /// Where the aggregator takes reports
    #[arg(
        long,
        env = "PARTYWALL_AGGREGATOR",
        value_name = "URL",
        default_value = "http://127.0.0.1:7441"
    )]
    pub aggregator: String,
    #[command(flatten)]
    pub link: LinkArgs,
    /// Report without TLS, to an http:// address: whoever is on the way may read and change everything
    #[arg(long)]
    pub insecure_plaintext: bool,
    /// Name of the cluster that this node is of, as the aggregator has it [default: the aggregator's own]
    #[arg(long, env = "PARTYWALL_CLUSTER", value_name = "NAME", default_value = "")]
    pub cluster: String,
    /// Time between two readings, 100ms to 60s
    #[arg(long, value_name = "DURATION", default_value = "1s")]
    pub interval: String,
    /// Where cgroup v2 is mounted [default: found in /proc/self/mountinfo]
    #[arg(long, value_name = "DIR")]
    pub cgroup_root: Option<PathBuf>,
    /// Address of /metrics, /healthz and /readyz; port 0 takes a free one
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:7443")]
    pub http_listen: String,
    /// Bound of the reports kept while the aggregator is away, in bytes or with KiB, MiB, GiB; 64KiB to 1GiB
    #[arg(long, value_name = "BYTES", default_value = "16MiB")]
    pub queue_bytes: String,
    /// Keep reports here while the aggregator is away, and over restarts of the agent [default: in memory alone]
    #[arg(long, env = "PARTYWALL_SPOOL_DIR", value_name = "DIR")]
    pub spool_dir: Option<PathBuf>,
    /// Bound of the reports in --spool-dir, in bytes or with KiB, MiB, GiB; 32MiB to 64GiB
    #[arg(long, value_name = "BYTES", default_value = "256MiB")]
    pub spool_bytes: String,
    /// Load this eBPF object instead of the built-in one
    #[arg(long, value_name = "FILE")]
    pub object: Option<PathBuf>,
    /// How log lines are written to stderr
    #[arg(long, value_name = "FORMAT", default_value = "text")]
    pub log_format: LogFormat,
}

/// How to be let in. Files are read again for each connection.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct LinkArgs {
    /// Authorities of the aggregator's certificate, PEM
    #[arg(long, env = "PARTYWALL_TLS_CA", value_name = "FILE")]
    pub tls_ca: Option<PathBuf>,
    /// This agent's certificate, PEM, with what lies between it and its authority
    #[arg(long, env = "PARTYWALL_TLS_CERT", value_name = "FILE")]
    pub tls_cert: Option<PathBuf>,
    /// Private key of --tls-cert, PEM
    #[arg(long, env = "PARTYWALL_TLS_KEY", value_name = "FILE")]
    pub tls_key: Option<PathBuf>,
    /// A service account's token, which says to the aggregator which node this is
    #[arg(long, env = "PARTYWALL_TOKEN_FILE", value_name = "FILE")]
    pub token_file: Option<PathBuf>,
}

impl LinkArgs {
    /// `None`: not all three.
    pub fn tls(&self) -> Option<TlsFiles> {
        Some(TlsFiles {
            ca: self.tls_ca.clone()?,
            cert: self.tls_cert.clone()?,
            key: self.tls_key.clone()?,
        })
    }
}

#[derive(Clone, Debug, clap::Args)]
pub struct CheckArgs {
    /// Print one JSON document instead of a table
    #[arg(long)]
    pub json: bool,
    /// Where cgroup v2 is mounted [default: found in /proc/self/mountinfo]
    #[arg(long, value_name = "DIR")]
    pub cgroup_root: Option<PathBuf>,
    /// Also say whether this aggregator can be reached
    #[arg(long, env = "PARTYWALL_AGGREGATOR", value_name = "URL")]
    pub aggregator: Option<String>,
    #[command(flatten)]
    pub link: LinkArgs,
    /// Also say whether reports can be kept here
    #[arg(long, env = "PARTYWALL_SPOOL_DIR", value_name = "DIR")]
    pub spool_dir: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people
    Text,
    /// One JSON object a line
    Json,
}

impl Args {
    /// What to do; `run` when no command was given.
    pub fn into_command(self) -> Command {
        self.command.unwrap_or(Command::Run(self.run))
    }
}

/// A running agent's settings. [`Config::check`] says whether they make sense.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Kubernetes node name, or the host name outside Kubernetes.
    pub node: String,
    pub link: LinkConfig,
    pub insecure_plaintext: bool,
    /// Between two readings.
    pub interval: Duration,
    /// Mount point of cgroup v2. `None`: found in /proc/self/mountinfo.
    pub cgroup_root: Option<PathBuf>,
    /// Port 0: any free one.
    pub http_listen: SocketAddr,
    /// Bound of the unacknowledged reports, encoded.
    pub queue_bytes: usize,
    /// Where they wait when memory is not enough.
    pub spool: Option<SpoolConfig>,
    /// eBPF object to load instead of the built-in one.
    pub object: Option<PathBuf>,
}

/// What is wrong with a setting: the flag, the value that was given, and what would do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{flag} {value:?}: {problem}")]
pub struct ConfigError {
    pub flag: &'static str,
    pub value: String,
    pub problem: String,
}

impl ConfigError {
    fn new(flag: &'static str, value: impl fmt::Display, problem: impl fmt::Display) -> Self {
        Self {
            flag,
            value: value.to_string(),
            problem: problem.to_string(),
        }
    }
}

impl TryFrom<RunArgs> for Config {
    type Error = ConfigError;

    fn try_from(args: RunArgs) -> Result<Self, ConfigError> {
        let interval = parse_duration(&args.interval);
        let queue_bytes = parse_bytes(&args.queue_bytes);
        let spool_bytes = parse_bytes(&args.spool_bytes)
            .map_err(|problem| ConfigError::new("--spool-bytes", &args.spool_bytes, problem))?;
        let spool = args.spool_dir.map(|dir| SpoolConfig {
            dir,
            bytes: spool_bytes as u64,
        });
        let config = Self {
            // An empty NODE_NAME is a manifest that forgot its field reference, and is told so.
            node: args.node.unwrap_or_else(host_name),
            interval: interval.map_err(|problem| ConfigError::new("--interval", &args.interval, problem))?,
            cgroup_root: args.cgroup_root,
            http_listen: args.http_listen.parse().map_err(|_| {
                let problem = "is no address and port, such as 127.0.0.1:7443 or [::]:7443";
                ConfigError::new("--http-listen", &args.http_listen, problem)
            })?,
            queue_bytes: queue_bytes
                .map_err(|problem| ConfigError::new("--queue-bytes", &args.queue_bytes, problem))?,
            spool,
            object: args.object,
            link: link(args.aggregator, args.link, args.cluster)?,
            insecure_plaintext: args.insecure_plaintext,
        };
        config.check()?;
        Ok(config)
    }
}

impl Config {
    /// # Errors
    ///
    /// Names the first flag whose value makes no sense.
    pub fn check(&self) -> Result<(), ConfigError> {
        check_node(&self.node).map_err(|problem| ConfigError::new("--node", &self.node, problem))?;
        let LinkConfig {
            endpoint,
            cluster,
            tls,
            ..
        } = &self.link;
        check_endpoint(endpoint, tls.is_some(), self.insecure_plaintext)
            .map_err(|problem| ConfigError::new("--aggregator", endpoint, problem))?;
        if !cluster.is_empty() {
            check_node(cluster).map_err(|problem| {
                let problem = problem.replace("no node name", "no cluster name");
                ConfigError::new("--cluster", cluster, problem)
            })?;
        }
        if !(INTERVAL.0..=INTERVAL.1).contains(&self.interval) {
            let value = format!("{:?}", self.interval);
            return Err(ConfigError::new(
                "--interval",
                value,
                "must lie between 100ms and 60s",
            ));
        }
        if !(QUEUE_BYTES.0..=QUEUE_BYTES.1).contains(&self.queue_bytes) {
            let problem = "must lie between 64KiB (65536) and 1GiB (1073741824)";
            return Err(ConfigError::new("--queue-bytes", self.queue_bytes, problem));
        }
        if let Some(SpoolConfig { dir, bytes }) = &self.spool {
            if dir.as_os_str().is_empty() {
                return Err(ConfigError::new(
                    "--spool-dir",
                    "",
                    "is empty; leave it out for no spool",
                ));
            }
            if !(SPOOL_BYTES.0..=SPOOL_BYTES.1).contains(bytes) {
                let problem = "must lie between 32MiB (33554432) and 64GiB (68719476736)";
                return Err(ConfigError::new("--spool-bytes", bytes, problem));
            }
        }
        Ok(())
    }
}

/// A DNS-1123 subdomain, as Kubernetes demands of node names.
fn check_node(name: &str) -> Result<(), String> {
    if name.is_empty() {
        return Err(
            "is empty; give the node's name, or leave NODE_NAME unset to use the host name".to_owned(),
        );
    }
    if name.len() > NODE_MAX {
        return Err(format!(
            "is {} bytes long, at most {NODE_MAX} are allowed",
            name.len()
        ));
    }
    let valid = name.split('.').all(|label| {
        let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        !label.is_empty() && !label.starts_with('-') && !label.ends_with('-') && label.bytes().all(inner)
    });
    if valid {
        Ok(())
    } else {
        Err("is no node name: only a-z, 0-9, '-' and '.', each part beginning and ending with a letter or digit".to_owned())
    }
}

/// All three TLS files or none.
fn link(endpoint: String, args: LinkArgs, cluster: String) -> Result<LinkConfig, ConfigError> {
    let tls = args.tls();
    let flags = [
        ("--tls-ca", args.tls_ca),
        ("--tls-cert", args.tls_cert),
        ("--tls-key", args.tls_key),
    ];
    if tls.is_none()
        && let Some((flag, file)) = flags
            .iter()
            .find_map(|(flag, file)| Some((*flag, file.as_ref()?)))
    {
        let missing: Vec<&str> = flags
            .iter()
            .filter(|(_, file)| file.is_none())
            .map(|(flag, _)| *flag)
            .collect();
        let problem = format!("needs {} beside it", missing.join(" and "));
        return Err(ConfigError::new(flag, file.display(), problem));
    }
    Ok(LinkConfig {
        endpoint,
        cluster,
        tls,
        token: args.token_file,
    })
}

/// `tls`: there are files for it. `plaintext`: it was said that there need be none.
fn check_endpoint(url: &str, tls: bool, plaintext: bool) -> Result<(), &'static str> {
    const EXPECTED: &str = "must be https://host:port, such as https://aggregator.partywall.svc:7441 (or http://host:port with --insecure-plaintext)";
    let uri = Uri::from_str(url).map_err(|_| EXPECTED)?;
    match (uri.scheme_str(), tls, plaintext) {
        (Some("https"), true, false) | (Some("http"), false, true) => {}
        (Some("https"), false, _) => return Err("needs --tls-ca, --tls-cert and --tls-key"),
        (Some("https"), true, true) => return Err("is encrypted: leave --insecure-plaintext out"),
        (Some("http"), true, _) => return Err("is plain text: with --tls-ca it must be https://host:port"),
        (Some("http"), false, false) => {
            return Err(
                "is plain text: use https:// with --tls-ca, --tls-cert and --tls-key, or say --insecure-plaintext",
            );
        }
        _ => return Err(EXPECTED),
    }
    let authority = uri.authority().ok_or(EXPECTED)?;
    let complete = !authority.host().is_empty() && authority.port_u16().is_some_and(|port| port != 0);
    // Everything else in a URL would be ignored, which is worse than an error.
    let bare = matches!(uri.path(), "" | "/")
        && uri.query().is_none()
        && !authority.as_str().contains('@')
        && !url.contains('#');
    if complete && bare { Ok(()) } else { Err(EXPECTED) }
}

/// kubelet registers a node by its host name in lower case.
fn host_name() -> String {
    rustix::system::uname()
        .nodename()
        .to_string_lossy()
        .trim()
        .to_ascii_lowercase()
}

/// `500ms`, `1s`, `1.5s`, `1m`.
fn parse_duration(text: &str) -> Result<Duration, &'static str> {
    const EXPECTED: &str = "is no duration: a number with ms, s or m, such as 500ms or 1s";
    let split = text
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .ok_or(EXPECTED)?;
    let (number, unit) = text.split_at(split);
    let seconds_per_unit = match unit {
        "ms" => 1e-3,
        "s" => 1.0,
        "m" => 60.0,
        _ => return Err(EXPECTED),
    };
    let number: f64 = number.parse().map_err(|_| EXPECTED)?;
    Duration::try_from_secs_f64(number * seconds_per_unit).map_err(|_| EXPECTED)
}

/// `65536`, `64KiB`, `16MiB`, `1GiB`.
fn parse_bytes(text: &str) -> Result<usize, &'static str> {
    const EXPECTED: &str = "is no size: a whole number of bytes, or one with KiB, MiB or GiB, such as 16MiB";
    let split = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let bytes_per_unit = match unit {
        "" => 1,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        _ => return Err(EXPECTED),
    };
    let number: usize = number.parse().map_err(|_| EXPECTED)?;
    number.checked_mul(bytes_per_unit).ok_or(EXPECTED)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(flags: &[&str]) -> Result<Config, ConfigError> {
        encrypted(&[&["--insecure-plaintext"], flags].concat())
    }

    fn encrypted(flags: &[&str]) -> Result<Config, ConfigError> {
        let args = Args::try_parse_from([&["partywall-agent", "--node", "node-a"], flags].concat()).unwrap();
        match args.into_command() {
            Command::Run(run) => run.try_into(),
            Command::Check(_) => panic!("not run"),
        }
    }

    #[test]
    fn the_command_line_is_well_formed() {
        use clap::CommandFactory;
        Args::command().debug_assert();
    }

    #[test]
    fn defaults_are_those_of_the_documentation() {
        let expected = Config {
            node: "node-a".to_owned(),
            link: LinkConfig::plaintext("http://127.0.0.1:7441"),
            insecure_plaintext: true,
            interval: Duration::from_secs(1),
            cgroup_root: None,
            http_listen: "127.0.0.1:7443".parse().unwrap(),
            queue_bytes: 16 * 1024 * 1024,
            spool: None,
            object: None,
        };
        assert_eq!(config(&[]), Ok(expected));
    }

    #[test]
    fn flags_mean_what_they_say() {
        let config = config(&[
            "--interval",
            "0.5s",
            "--queue-bytes",
            "64KiB",
            "--http-listen",
            "[::1]:0",
            "--cgroup-root",
            "/c",
            "--object",
            "/o",
            "--aggregator",
            "http://[fd00::1]:7441/",
            "--log-format",
            "json",
        ])
        .unwrap();
        assert_eq!(config.interval, Duration::from_millis(500));
        assert_eq!(config.queue_bytes, 65_536);
        assert_eq!(config.http_listen, "[::1]:0".parse().unwrap());
        assert_eq!(config.cgroup_root, Some("/c".into()));
        assert_eq!(config.object, Some("/o".into()));
        assert_eq!(config.link.endpoint, "http://[fd00::1]:7441/");
    }

    #[test]
    fn nothing_is_sent_in_plain_text_that_was_not_said() {
        let https = ["--aggregator", "https://a:1"];
        let files = ["--tls-ca", "ca", "--tls-cert", "c", "--tls-key", "k"];
        let both = [&https[..], &files[..]].concat();
        let token = [&both[..], &["--token-file", "t", "--cluster", "east"]].concat();
        let link = encrypted(&token).unwrap().link;
        assert_eq!(link.tls.as_ref().map(|t| &t.ca), Some(&"ca".into()));
        assert_eq!((link.token, link.cluster.as_str()), (Some("t".into()), "east"));
        let wrong: &[(Vec<&str>, &str, &str)] = &[
            (vec![], "--aggregator", "--insecure-plaintext"),
            (
                vec!["--aggregator", "http://a:1"],
                "--aggregator",
                "--tls-ca, --tls-cert and --tls-key",
            ),
            (
                https.to_vec(),
                "--aggregator",
                "--tls-ca, --tls-cert and --tls-key",
            ),
            (
                [&both[..], &["--insecure-plaintext"]].concat(),
                "--aggregator",
                "leave --insecure-plaintext out",
            ),
            (files.to_vec(), "--aggregator", "must be https"),
            ([&https[..], &files[..4]].concat(), "--tls-ca", "needs --tls-key"),
            (
                [&both[..], &["--cluster", "East"]].concat(),
                "--cluster",
                "no cluster name",
            ),
        ];
        for (flags, flag, problem) in wrong {
            let error = encrypted(flags).expect_err(problem);
            assert_eq!(error.flag, *flag, "{error}");
            assert!(error.problem.contains(problem), "{error}");
        }
    }

    #[test]
    fn run_is_the_default_command_and_check_is_another() {
        let parse = |words: &[&str]| Args::try_parse_from(words).map(Args::into_command);
        let same = |words: &[&str]| matches!(parse(words), Ok(Command::Run(run)) if run.interval == "2s");
        assert!(same(&["partywall-agent", "--interval", "2s"]));
        assert!(same(&["partywall-agent", "run", "--interval", "2s"]));
        assert!(
            matches!(parse(&["partywall-agent", "check", "--json"]), Ok(Command::Check(check)) if check.json)
        );
        assert!(parse(&["partywall-agent", "--interval", "2s", "check"]).is_err());
        assert!(parse(&["partywall-agent", "--intervall", "2s"]).is_err());
    }

    #[test]
    fn a_wrong_value_is_named_with_its_flag() {
        let long = "a".repeat(254);
        let cases: &[(&str, &str, &str)] = &[
            ("--interval", "99ms", "between"),
            ("--interval", "60001ms", "between"),
            ("--interval", "2m", "between"),
            ("--interval", "0s", "between"),
            ("--interval", "1", "duration"),
            ("--interval", "", "duration"),
            ("--interval", "s", "duration"),
            ("--interval", "1h", "duration"),
            ("--interval", "1.2.3s", "duration"),
            ("--interval", "NaNs", "duration"),
            ("--interval", "99999999999999999999999999s", "duration"),
            ("--queue-bytes", "65535", "between"),
            ("--queue-bytes", "2GiB", "between"),
            ("--queue-bytes", "16MB", "size"),
            ("--queue-bytes", "1.5MiB", "size"),
            ("--queue-bytes", "", "size"),
            ("--queue-bytes", "99999999999999999999", "size"),
            ("--queue-bytes", "18446744073709551615GiB", "size"),
            ("--spool-bytes", "33554431", "between"),
            ("--spool-bytes", "65GiB", "between"),
            ("--spool-bytes", "256MB", "size"),
            ("--aggregator", "127.0.0.1:7441", "http://host:port"),
            ("--aggregator", "http://127.0.0.1", "http://host:port"),
            ("--aggregator", "http://:7441", "http://host:port"),
            ("--aggregator", "http://a:0", "http://host:port"),
            ("--aggregator", "http://a:99999", "http://host:port"),
            ("--aggregator", "http://a:1/x", "http://host:port"),
            ("--aggregator", "http://a:1/?q", "http://host:port"),
            ("--aggregator", "http://u:p@a:1", "http://host:port"),
            ("--aggregator", "http://a:1#f", "http://host:port"),
            ("--aggregator", "ftp://a:1", "http://host:port"),
            ("--aggregator", "", "http://host:port"),
            ("--aggregator", "https://a:1", "--tls-ca"),
            ("--http-listen", "7443", "address and port"),
            ("--http-listen", "localhost:7443", "address and port"),
            ("--http-listen", "127.0.0.1:70000", "address and port"),
            ("--node", "", "empty"),
            ("--node", "Node", "no node name"),
            ("--node", "a_b", "no node name"),
            ("--node", "-a", "no node name"),
            ("--node", "a.", "no node name"),
            ("--node", "a..b", "no node name"),
            ("--node", "a\nb", "no node name"),
            ("--node", &long, "254 bytes"),
        ];
        for (flag, value, problem) in cases {
            let flags = [format!("{flag}={value}")];
            let args = Args::try_parse_from(["partywall-agent", &flags[0]]).unwrap();
            let Command::Run(run) = args.into_command() else {
                panic!("not run");
            };
            let run = RunArgs {
                node: run.node.or(Some("node-a".to_owned())),
                insecure_plaintext: true,
                // What is not used is not looked at.
                spool_dir: run.spool_dir.or(Some("/spool".into())),
                ..run
            };
            let error = Config::try_from(run).expect_err(&flags[0]);
            assert_eq!(error.flag, *flag, "{error}");
            assert!(error.problem.contains(problem), "{flag} {value:?} says: {error}");
            assert!(!error.to_string().contains('\n'), "{error}");
            let given = error.to_string();
            assert!(
                problem == &"between" || given.contains(&format!("{value:?}")),
                "{given}"
            );
        }
    }

    #[test]
    fn the_edges_are_allowed() {
        let node = format!("{}.{}", "a".repeat(126), "b".repeat(126));
        let fine: &[&[&str]] = &[
            &["--interval", "100ms"],
            &["--interval", "60s"],
            &["--interval", "1m"],
            &["--queue-bytes", "65536"],
            &["--queue-bytes", "1GiB"],
            &["--spool-dir", "/spool", "--spool-bytes", "32MiB"],
            &["--spool-dir", "/spool", "--spool-bytes", "64GiB"],
            &["--aggregator", "http://aggregator.partywall.svc:7441"],
        ];
        for flags in fine {
            config(flags).unwrap_or_else(|error| panic!("{error}"));
        }
        assert_eq!(node.len(), 253);
        assert_eq!(check_node(&node), Ok(()));
    }

    #[test]
    fn without_a_name_the_host_is_the_node() {
        let name = host_name();
        assert!(!name.is_empty());
        assert_eq!(name, name.to_lowercase());
    }
}
