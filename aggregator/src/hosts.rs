//! Whose names the HTTP port answers to. A web page of somebody else's can give its own name this address (DNS rebinding), and a browser then lets it
//! read what is answered; the name is all that tells such a request from another. An address as the name is not theirs to give, nor is `localhost`.

use std::net::IpAddr;

use axum::http::uri::Authority;
use axum::http::{HeaderMap, header};

/// Whether a request for the names of `hosts` may have these headers. No browser leaves `Host` out.
pub(crate) fn admits(hosts: &[String], headers: &HeaderMap) -> bool {
    let Some(asked) = headers.get(header::HOST) else {
        return true;
    };
    let asked = asked
        .to_str()
        .ok()
        .and_then(|text| text.parse::<Authority>().ok());
    asked.is_some_and(|asked| {
        let host = asked.host().trim_end_matches('.');
        let address = host.trim_start_matches('[').trim_end_matches(']');
        address.parse::<IpAddr>().is_ok()
            || host.eq_ignore_ascii_case("localhost")
            || hosts.iter().any(|known| host.eq_ignore_ascii_case(known))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_others_are_not_answered_to() {
        let hosts = ["partywall.example.com".to_owned()];
        for (asked, wanted) in [
            ("partywall.example.com", true),
            ("Partywall.Example.com.:8443", true),
            ("localhost:7442", true),
            ("127.0.0.1:7442", true),
            ("10.1.2.3", true),
            ("[::1]:7442", true),
            ("[fd00::1]", true),
            ("evil.example", false),
            ("partywall.example.com.evil.example", false),
            ("127.0.0.1.evil.example:7442", false),
            ("localhost.evil.example", false),
            ("", false),
            ("a b", false),
        ] {
            let headers = HeaderMap::from_iter([(header::HOST, asked.parse().unwrap())]);
            assert_eq!(admits(&hosts, &headers), wanted, "{asked:?}");
        }
        assert!(admits(&hosts, &HeaderMap::new()));
    }
}
