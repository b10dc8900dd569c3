//! `--kube-api`: which API server, and how to be let in.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use anyhow::Context as _;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};

const IN_CLUSTER: &str = "in-cluster";

/// Where an API server is told of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// The service account of the pod that this runs in.
    InCluster,
    Kubeconfig {
        path: PathBuf,
        /// `None`: its current one.
        context: Option<String>,
    },
}

impl FromStr for Target {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == IN_CLUSTER {
            return Ok(Self::InCluster);
        }
        let (path, context) = match text.split_once('#') {
            Some((_, "")) => return Err("names no context after #".to_owned()),
            Some((path, context)) => (path, Some(context.to_owned())),
            None => (text, None),
        };
        if path.is_empty() {
            return Err(format!("is neither {IN_CLUSTER} nor a kubeconfig"));
        }
        Ok(Self::Kubeconfig {
            path: path.into(),
            context,
        })
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::InCluster => f.write_str(IN_CLUSTER),
            Self::Kubeconfig { path, context } => {
                write!(f, "{}", path.display())?;
                context.iter().try_for_each(|context| write!(f, "#{context}"))
            }
        }
    }
}

impl Target {
    /// A client, and where it will ask. Nothing is asked yet: a server that is away now comes back.
    ///
    /// # Errors
    /// The kubeconfig or the service account cannot be read, or makes no sense.
    pub async fn client(&self) -> anyhow::Result<(Client, String)> {
        let mut config = match self {
            Self::InCluster => Config::incluster().context("this process runs in no cluster")?,
            Self::Kubeconfig { path, context } => {
                let file = Kubeconfig::read_from(path)?;
                let options = KubeConfigOptions {
                    context: context.clone(),
                    ..KubeConfigOptions::default()
                };
                Config::from_custom_kubeconfig(file, &options).await?
            }
        };
        // Whoever watches backs off by itself, and counts it.
        config.default_retry = false;
        let server = config.cluster_url.to_string();
        Ok((Client::try_from(config)?, server))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_context_may_be_named_after_a_kubeconfig() {
        let kubeconfig = |path: &str, context: Option<&str>| Target::Kubeconfig {
            path: path.into(),
            context: context.map(str::to_owned),
        };
        assert_eq!("in-cluster".parse(), Ok(Target::InCluster));
        assert_eq!("/k/config".parse(), Ok(kubeconfig("/k/config", None)));
        assert_eq!("/k/config#a@b".parse(), Ok(kubeconfig("/k/config", Some("a@b"))));
        for text in ["#a", "/k#"] {
            assert!(text.parse::<Target>().is_err(), "{text}");
        }
        assert_eq!(
            "/k/config#a".parse::<Target>().unwrap().to_string(),
            "/k/config#a"
        );
    }
}
