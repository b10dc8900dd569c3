//! TokenReview: what is asked, and what the answer means.

use std::sync::Arc;

use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec, TokenReviewStatus};
use kube::Api;
use kube::api::PostParams;
use partywall_aggregator_core::identity::is_object_name;

use crate::metrics::StreamRefusal;

/// Set by API servers from 1.30 on; the other by all that bind tokens to pods.
const NODE_NAME: &str = "authentication.kubernetes.io/node-name";
const POD_UID: &str = "authentication.kubernetes.io/pod-uid";

/// Whose token it must be, and for whom it must be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expected {
    pub audience: String,
    pub namespace: String,
    pub name: String,
}

/// Who has a token that is good.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Holder {
    Node(Arc<str>),
    /// UID.
    Pod(Arc<str>),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Of(Holder),
    Refused {
        refusal: StreamRefusal,
        problem: Arc<str>,
    },
}

pub(super) async fn ask(
    api: &Api<TokenReview>,
    audience: &str,
    token: &str,
) -> Result<TokenReviewStatus, kube::Error> {
    let review = TokenReview {
        spec: TokenReviewSpec {
            audiences: Some(vec![audience.to_owned()]),
            token: token.to_owned(),
        },
        ..TokenReview::default()
    };
    let answer = api.create(&PostParams::default(), &review).await?;
    Ok(answer.status.unwrap_or_default())
}

impl Expected {
    /// An API that knows nothing of audiences leaves them out: then the token may be anybody's to present.
    pub(super) fn judge(&self, status: TokenReviewStatus) -> Verdict {
        let refused = |refusal, problem: String| Verdict::Refused {
            refusal,
            problem: problem.into(),
        };
        if status.authenticated != Some(true) {
            let error = status.error.unwrap_or_default();
            let error: String = error.chars().filter(|c| !c.is_control()).take(200).collect();
            return refused(
                StreamRefusal::BadToken,
                format!("the API refuses the token: {error}"),
            );
        }
        let audiences = status.audiences.unwrap_or_default();
        if !audiences.contains(&self.audience) {
            let problem = format!("the token is not bound to the audience {:?}", self.audience);
            return refused(StreamRefusal::WrongAudience, problem);
        }
        let user = status.user.unwrap_or_default();
        let wanted = format!("system:serviceaccount:{}:{}", self.namespace, self.name);
        if user.username.as_deref() != Some(&wanted) {
            let problem = format!("the token is not {wanted}'s");
            return refused(StreamRefusal::WrongAccount, problem);
        }
        let extra = user.extra.unwrap_or_default();
        let first = |key| {
            extra
                .get(key)
                .and_then(|values| values.first())
                .filter(|v| is_object_name(v))
        };
        match (first(NODE_NAME), first(POD_UID)) {
            (Some(node), _) => Verdict::Of(Holder::Node(node.as_str().into())),
            (None, Some(pod)) => Verdict::Of(Holder::Pod(pod.as_str().into())),
            (None, None) => refused(
                StreamRefusal::Unbound,
                "the token is bound to no pod: a projected one is wanted".to_owned(),
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::authentication::v1::UserInfo;

    fn expected() -> Expected {
        Expected {
            audience: "partywall".into(),
            namespace: "monitoring".into(),
            name: "partywall-agent".into(),
        }
    }

    fn good() -> TokenReviewStatus {
        let extra = [(NODE_NAME, "node-a"), (POD_UID, "uid-1")];
        TokenReviewStatus {
            authenticated: Some(true),
            audiences: Some(vec!["partywall".into()]),
            error: None,
            user: Some(UserInfo {
                username: Some("system:serviceaccount:monitoring:partywall-agent".into()),
                extra: Some(extra.map(|(k, v)| (k.to_owned(), vec![v.to_owned()])).into()),
                ..UserInfo::default()
            }),
        }
    }

    #[test]
    fn a_token_of_the_agent_names_its_node_or_its_pod() {
        assert_eq!(
            expected().judge(good()),
            Verdict::Of(Holder::Node("node-a".into()))
        );
        let mut old = good();
        old.user
            .as_mut()
            .unwrap()
            .extra
            .as_mut()
            .unwrap()
            .remove(NODE_NAME);
        assert_eq!(expected().judge(old), Verdict::Of(Holder::Pod("uid-1".into())));
    }

    #[test]
    fn every_other_token_is_refused_by_reason() {
        type Spoil = fn(&mut TokenReviewStatus);
        let table: &[(StreamRefusal, Spoil)] = &[
            (StreamRefusal::BadToken, |s| s.authenticated = Some(false)),
            (StreamRefusal::BadToken, |s| s.authenticated = None),
            (StreamRefusal::WrongAudience, |s| s.audiences = None),
            (StreamRefusal::WrongAudience, |s| {
                s.audiences = Some(vec!["vault".into()]);
            }),
            (StreamRefusal::WrongAccount, |s| s.user = None),
            (StreamRefusal::WrongAccount, |s| {
                s.user.as_mut().unwrap().username = Some("system:serviceaccount:monitoring:default".into());
            }),
            (StreamRefusal::Unbound, |s| s.user.as_mut().unwrap().extra = None),
            (StreamRefusal::Unbound, |s| {
                let extra = s.user.as_mut().unwrap().extra.as_mut().unwrap();
                extra.insert(NODE_NAME.into(), vec![]);
                extra.insert(POD_UID.into(), vec!["../x".into()]);
            }),
        ];
        for (wanted, spoil) in table {
            let mut status = good();
            spoil(&mut status);
            match expected().judge(status) {
                Verdict::Refused { refusal, .. } => assert_eq!(refusal, *wanted),
                Verdict::Of(holder) => panic!("{holder:?} instead of {wanted:?}"),
            }
        }
    }
}
