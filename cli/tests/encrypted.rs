//! The built program over TLS: a real aggregator behind an endpoint that asks clients for certificates.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod support;

use std::net::SocketAddr;
use std::path::Path;
use std::process::Output;
use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use support::{Cluster, complaint, partywall, stdout};
use tokio::net::{TcpListener, TcpStream};

/// Writes `NAME.crt` of an authority, and what it signs.
struct Authority(Issuer<'static, KeyPair>);

impl Authority {
    fn new(dir: &Path, name: &str) -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, name);
        let key = KeyPair::generate().unwrap();
        let cert = params.self_signed(&key).unwrap();
        std::fs::write(dir.join(format!("{name}.crt")), cert.pem()).unwrap();
        Self(Issuer::new(params, key))
    }

    /// `NAME.crt` and `NAME.key`, for a host or client of this name.
    fn sign(&self, dir: &Path, name: &str, subject: &str) {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec![subject.to_owned()]).unwrap();
        let cert = params.signed_by(&key, &self.0).unwrap();
        std::fs::write(dir.join(format!("{name}.crt")), cert.pem()).unwrap();
        std::fs::write(dir.join(format!("{name}.key")), key.serialize_pem()).unwrap();
    }
}

/// Ends TLS as `server`, of clients that `ca` signed, and hands on to `to`.
async fn endpoint(dir: &Path, to: SocketAddr) -> SocketAddr {
    let certificates = |file: &str| -> Vec<CertificateDer<'static>> {
        let found = CertificateDer::pem_file_iter(dir.join(file)).unwrap();
        found.map(Result::unwrap).collect()
    };
    let mut roots = RootCertStore::empty();
    roots.add(certificates("ca.crt").remove(0)).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider));
    let key = PrivateKeyDer::from_pem_file(dir.join("server.key")).unwrap();
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_client_cert_verifier(verifier.build().unwrap())
        .with_single_cert(certificates("server.crt"), key)
        .unwrap();
    config.alpn_protocols = vec![b"h2".to_vec()];
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((peer, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                // A client that is not let in is the test's business, not the endpoint's.
                let Ok(mut peer) = acceptor.accept(peer).await else {
                    return;
                };
                let mut inner = TcpStream::connect(to).await.unwrap();
                let _ended = tokio::io::copy_bidirectional(&mut peer, &mut inner).await;
            });
        }
    });
    address
}

async fn ask(arguments: Vec<String>) -> Output {
    let mut command = partywall(&["tenants"]);
    command.args(arguments);
    tokio::task::spawn_blocking(move || command.output().unwrap())
        .await
        .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn only_who_trusts_and_is_trusted_gets_an_answer() {
    let cluster = Cluster::start().await;
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let ca = Authority::new(dir, "ca");
    ca.sign(dir, "server", "127.0.0.1");
    ca.sign(dir, "client", "someone");
    ca.sign(dir, "other", "somebody-else");
    Authority::new(dir, "stranger").sign(dir, "impostor", "someone");
    std::fs::write(dir.join("empty.pem"), "").unwrap();
    let address = endpoint(dir, cluster.grpc).await;
    let url = format!("https://{address}");
    let file = |name: &str| dir.join(name).display().to_string();
    let with = |options: &[(&str, &str)]| {
        let mut arguments = vec!["--aggregator".to_owned(), url.clone()];
        for (option, name) in options {
            arguments.extend([(*option).to_owned(), file(name)]);
        }
        ask(arguments)
    };
    let good = [
        ("--tls-ca", "ca.crt"),
        ("--tls-cert", "client.crt"),
        ("--tls-key", "client.key"),
    ];
    let output = with(&good).await;
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert!(stdout(&output).starts_with("TENANT"), "{output:?}");

    // The same from the environment.
    let mut command = partywall(&["tenants"]);
    command.env("PARTYWALL_AGGREGATOR", &url);
    for (variable, name) in [("CA", "ca.crt"), ("CERT", "client.crt"), ("KEY", "client.key")] {
        command.env(format!("PARTYWALL_TLS_{variable}"), file(name));
    }
    let output = tokio::task::spawn_blocking(move || command.output().unwrap());
    assert_eq!(output.await.unwrap().status.code(), Some(0));

    // Who cannot agree with the other side hears which file to look at.
    for options in [
        &[("--tls-ca", "stranger.crt"), good[1], good[2]][..],
        &[
            good[0],
            ("--tls-cert", "impostor.crt"),
            ("--tls-key", "impostor.key"),
        ],
        &good[..1],
    ] {
        let output = with(options).await;
        let line = complaint(&output);
        let named = [&url, "--tls-ca", "--tls-cert"];
        assert!(
            named.iter().all(|word| line.contains(word)),
            "{options:?}: {line}"
        );
        assert_eq!(output.status.code(), Some(3), "{options:?}: {line}");
    }

    // What cannot be meant is said before anything is sent.
    let missing = file("missing.crt");
    for (options, wanted) in [
        (&[][..], "https needs --tls-ca"),
        (&good[..2], "--tls-cert needs --tls-key"),
        (&[good[0], good[2]], "--tls-key needs --tls-cert"),
        (&[("--tls-ca", "missing.crt")], &format!("--tls-ca {missing}: ")),
        (&[("--tls-ca", "empty.pem")], "empty.pem: holds no certificate"),
        (&[("--tls-ca", "client.key")], "client.key: holds no certificate"),
        (
            &[good[0], good[1], ("--tls-key", "client.crt")],
            "client.crt: holds no private key",
        ),
        (&[good[0], good[1], ("--tls-key", "other.key")], "--tls-key"),
    ] {
        let output = with(options).await;
        let line = complaint(&output);
        assert!(line.contains(wanted), "{options:?}: {line}");
        assert_eq!(output.status.code(), Some(2), "{options:?}: {line}");
    }
    let plain = [
        "--aggregator".to_owned(),
        format!("http://{address}"),
        "--tls-ca".to_owned(),
        file("ca.crt"),
    ];
    let output = ask(plain.to_vec()).await;
    assert!(complaint(&output).contains("are for https"));
    assert_eq!(output.status.code(), Some(2));
    let output = ask(plain[..2].to_vec()).await;
    assert_eq!(output.status.code(), Some(3), "{output:?}");
}
