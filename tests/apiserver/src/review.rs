//! TokenReview: whose a service account's token is, and for whom it was made.

use std::collections::BTreeMap;

use serde_json::{Value, json};

/// The audience of tokens that name none.
const OWN: &str = "https://kubernetes.default.svc.cluster.local";

/// What the server knows of a token.
#[derive(Clone, Debug, Default)]
pub struct Token {
    /// `system:serviceaccount:NAMESPACE:NAME`
    pub user: String,
    pub uid: String,
    pub audiences: Vec<String>,
    /// The pod that it is bound to: name and UID.
    pub pod: Option<(String, String)>,
    /// The node of that pod, which servers tell since 1.30: name and UID.
    pub node: Option<(String, String)>,
    /// Why it is refused.
    pub refused: Option<String>,
}

/// The answer to a review: the object with its status.
pub(crate) fn review(mut object: Value, tokens: &BTreeMap<String, Token>) -> Value {
    let asked: Vec<String> = object
        .pointer("/spec/audiences")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .filter_map(|a| a.as_str().map(str::to_owned))
        .collect();
    let asked = if asked.is_empty() {
        vec![OWN.to_owned()]
    } else {
        asked
    };
    let token = object.pointer("/spec/token").and_then(Value::as_str);
    let known = token.and_then(|text| tokens.get(text));
    object["status"] = match known {
        None => refused("[invalid bearer token, unknown]"),
        Some(token) => match &token.refused {
            Some(problem) => refused(&format!("[invalid bearer token, {problem}]")),
            None => {
                let common: Vec<&String> = token.audiences.iter().filter(|a| asked.contains(a)).collect();
                if common.is_empty() {
                    refused(&format!(
                        "[invalid bearer token, token audiences {:?} is invalid for the target audiences {asked:?}]",
                        token.audiences
                    ))
                } else {
                    json!({"authenticated": true, "audiences": common, "user": user(token)})
                }
            }
        },
    };
    object["apiVersion"] = json!("authentication.k8s.io/v1");
    object["kind"] = json!("TokenReview");
    object["metadata"] = json!({"creationTimestamp": null});
    object
}

fn refused(error: &str) -> Value {
    json!({"user": {}, "error": error})
}

fn user(token: &Token) -> Value {
    let namespace = token.user.split(':').nth(2).unwrap_or_default();
    let mut extra =
        json!({"authentication.kubernetes.io/credential-id": ["JTI=1d7c1b2e-8f4f-4b55-8d53-0f7d6a3b9c21"]});
    for (key, bound) in [("pod", &token.pod), ("node", &token.node)] {
        if let Some((name, uid)) = bound {
            extra[format!("authentication.kubernetes.io/{key}-name")] = json!([name]);
            extra[format!("authentication.kubernetes.io/{key}-uid")] = json!([uid]);
        }
    }
    json!({
        "username": token.user, "uid": token.uid, "extra": extra,
        "groups": ["system:serviceaccounts", format!("system:serviceaccounts:{namespace}"), "system:authenticated"],
    })
}
