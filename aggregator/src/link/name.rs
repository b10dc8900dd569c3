//! Why a connection was turned away.

use std::io;

use rustls::CertificateError;

/// What is counted, as `partywall_aggregator_connections_refused_total{reason}`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Refusal {
    TooMany,
    TooManyOfPeer,
    TooManyHandshakes,
    TooManyHandshakesOfPeer,
    /// The handshake was not finished in time.
    HandshakeTimeout,
    /// It was ended by the peer before it was finished.
    HandshakeCut,
    NoCertificate,
    ExpiredCertificate,
    /// Of no authority in `--tls-client-ca`.
    UnknownAuthority,
    /// Not meant for clients, not valid yet, or its signature is wrong.
    BadCertificate,
    /// The peer does not accept the aggregator's own certificate.
    RefusedByPeer,
    /// What the peer speaks is no TLS that is accepted here.
    NoTls,
    /// Nothing was asked in time.
    NoRequest,
    Silent,
}

impl Refusal {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::TooMany => "too_many",
            Self::TooManyOfPeer => "too_many_of_peer",
            Self::TooManyHandshakes => "too_many_handshakes",
            Self::TooManyHandshakesOfPeer => "too_many_handshakes_of_peer",
            Self::HandshakeTimeout => "handshake_timeout",
            Self::HandshakeCut => "handshake_cut",
            Self::NoCertificate => "no_certificate",
            Self::ExpiredCertificate => "expired_certificate",
            Self::UnknownAuthority => "unknown_authority",
            Self::BadCertificate => "bad_certificate",
            Self::RefusedByPeer => "refused_by_peer",
            Self::NoTls => "no_tls",
            Self::NoRequest => "no_request",
            Self::Silent => "silent",
        }
    }

    /// Of a handshake that failed.
    pub(super) fn of_handshake(error: &io::Error) -> Self {
        let Some(tls) = error.get_ref().and_then(|e| e.downcast_ref::<rustls::Error>()) else {
            return Self::HandshakeCut;
        };
        match tls {
            rustls::Error::NoCertificatesPresented => Self::NoCertificate,
            rustls::Error::InvalidCertificate(why) => match why {
                CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
                    Self::ExpiredCertificate
                }
                CertificateError::UnknownIssuer => Self::UnknownAuthority,
                _ => Self::BadCertificate,
            },
            rustls::Error::AlertReceived(_) => Self::RefusedByPeer,
            _ => Self::NoTls,
        }
    }
}
