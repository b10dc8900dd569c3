//! Whom to tell, as it is typed and what it means.

use std::path::PathBuf;

use super::alert::Links;
use super::endpoint::{Endpoint, redacted};
use crate::config::ConfigError;
use crate::sinks::alertmanager;

/// Targets of one kind: each is a task and a queue.
const MAX_TARGETS: usize = 16;

#[derive(Clone, Debug, Default, clap::Args)]
pub struct PushArgs {
    /// Push firing and resolved breaches to this Alertmanager; more than once: all of them are told everything
    #[arg(long, value_name = "URL|@FILE")]
    pub alertmanager: Vec<String>,
    /// File with a bearer token for every --alertmanager, which must be https; read anew each time
    #[arg(long, value_name = "FILE")]
    pub alertmanager_token_file: Option<PathBuf>,
    /// POST each breach that begins or ceases to fire there as JSON (docs/alerts.md); @FILE: the URL is in it, as it is a secret
    #[arg(long, value_name = "URL|@FILE")]
    pub webhook: Vec<String>,
    /// File with a bearer token for every --webhook, which must be https; read anew each time
    #[arg(long, value_name = "FILE")]
    pub webhook_token_file: Option<PathBuf>,
    /// Authorities whose certificates Alertmanagers and webhooks have, PEM [default: the system's]
    #[arg(long, value_name = "FILE")]
    pub push_ca: Option<PathBuf>,
    /// Where people reach this aggregator's page: alerts lead there
    #[arg(long, value_name = "URL")]
    pub external_url: Option<String>,
    /// Where you publish docs/runbook.md: alerts lead to their part of it [default: its path in the project's repository]
    #[arg(long, value_name = "URL")]
    pub runbook_url: Option<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PushConfig {
    pub alertmanagers: Vec<Endpoint>,
    pub alertmanager_token: Option<PathBuf>,
    pub webhooks: Vec<Endpoint>,
    pub webhook_token: Option<PathBuf>,
    pub ca: Option<PathBuf>,
    pub links: Links,
}

impl TryFrom<PushArgs> for PushConfig {
    type Error = ConfigError;

    fn try_from(args: PushArgs) -> Result<Self, ConfigError> {
        let below = |text: &str| Endpoint::parse(text)?.below(alertmanager::PATH);
        let alertmanagers = endpoints("--alertmanager", &args.alertmanager, below)?;
        let webhooks = endpoints("--webhook", &args.webhook, Endpoint::parse)?;
        let link = |flag, url: Option<String>| {
            let Some(url) = url else { return Ok(None) };
            Endpoint::parse(url.trim_start_matches('@'))
                .map_err(|problem| ConfigError::new(flag, redacted(&url), problem))?;
            Ok(Some(url.trim_end_matches('/').to_owned()))
        };
        let links = Links {
            external: link("--external-url", args.external_url)?,
            runbook: link("--runbook-url", args.runbook_url)?,
        };
        for (flag, file, targets, of) in [
            (
                "--alertmanager-token-file",
                &args.alertmanager_token_file,
                &alertmanagers,
                "--alertmanager",
            ),
            (
                "--webhook-token-file",
                &args.webhook_token_file,
                &webhooks,
                "--webhook",
            ),
        ] {
            let Some(file) = file else { continue };
            if targets.is_empty() {
                return Err(ConfigError::new(
                    flag,
                    file.display(),
                    format!("needs {of} beside it"),
                ));
            }
            if let Some(plain) = targets.iter().find(|target| !target.is_https()) {
                let problem = format!("would go to {} in plain text: {of} must be https", plain.shown());
                return Err(ConfigError::new(flag, file.display(), problem));
            }
        }
        Ok(Self {
            alertmanagers,
            alertmanager_token: args.alertmanager_token_file,
            webhooks,
            webhook_token: args.webhook_token_file,
            ca: args.push_ca,
            links,
        })
    }
}

fn endpoints(
    flag: &'static str,
    typed: &[String],
    parse: impl Fn(&str) -> Result<Endpoint, String>,
) -> Result<Vec<Endpoint>, ConfigError> {
    let mut endpoints = Vec::new();
    for text in typed {
        let wrong = |problem: String| ConfigError::new(flag, redacted(text), problem);
        let endpoint = parse(text).map_err(wrong)?;
        if endpoints.contains(&endpoint) {
            return Err(wrong("is there twice".to_owned()));
        }
        if endpoints.len() >= MAX_TARGETS {
            return Err(wrong(format!("is one too many: {MAX_TARGETS} at the most")));
        }
        endpoints.push(endpoint);
    }
    Ok(endpoints)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(args: PushArgs) -> Result<PushConfig, String> {
        PushConfig::try_from(args).map_err(|e| e.to_string())
    }

    fn typed(urls: &[&str]) -> Vec<String> {
        urls.iter().map(|url| (*url).to_owned()).collect()
    }

    #[test]
    fn errors_name_flag_and_value_without_secrets() {
        let table = [
            (
                PushArgs {
                    alertmanager: typed(&["am:9093"]),
                    ..PushArgs::default()
                },
                ["--alertmanager", "am:9093", "http://alertmanager"],
            ),
            (
                PushArgs {
                    alertmanager: typed(&["http://am:9093", "http://am:9093/"]),
                    ..PushArgs::default()
                },
                ["--alertmanager", "http://am:9093/", "twice"],
            ),
            (
                PushArgs {
                    webhook: typed(&["https://u:s3cr3t@h/x"]),
                    ..PushArgs::default()
                },
                ["--webhook", "https://…@h/…", "token file"],
            ),
            (
                PushArgs {
                    webhook: typed(&["http://h/x"]),
                    webhook_token_file: Some("/t".into()),
                    ..PushArgs::default()
                },
                ["--webhook-token-file", "/t", "http://h in plain text"],
            ),
            (
                PushArgs {
                    alertmanager_token_file: Some("/t".into()),
                    ..PushArgs::default()
                },
                ["--alertmanager-token-file", "/t", "needs --alertmanager"],
            ),
            (
                PushArgs {
                    runbook_url: Some("docs".to_owned()),
                    ..PushArgs::default()
                },
                ["--runbook-url", "docs", "is no URL"],
            ),
        ];
        for (args, needles) in table {
            let error = config(args).expect_err(needles[0]);
            for needle in needles {
                assert!(error.contains(needle), "{error} lacks {needle}");
            }
            assert!(!error.contains("s3cr3t"), "{error}");
        }
    }

    #[test]
    fn what_is_typed_is_what_is_told() {
        let config = config(PushArgs {
            alertmanager: typed(&["http://am:9093", "https://other/prefix"]),
            webhook: typed(&["https://h/x?token=1"]),
            runbook_url: Some("https://docs.example/runbook.md".to_owned()),
            external_url: Some("https://partywall.example/".to_owned()),
            ..PushArgs::default()
        });
        let config = config.unwrap();
        assert_eq!(config.alertmanagers[1].uri.path(), "/prefix/api/v2/alerts");
        assert_eq!(config.webhooks[0].uri.query(), Some("token=1"));
        assert_eq!(
            config.links.external.as_deref(),
            Some("https://partywall.example")
        );
    }
}
