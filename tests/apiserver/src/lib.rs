//! A server that speaks list, watch and TokenReview as a Kubernetes API server does, for tests: over HTTP on loopback, or over TLS.
//!
//! Objects are kept under one growing version, as in etcd. Lists come in pages of one moment, whose tokens expire; items of built-in kinds leave
//! out their kind. Watches begin at a version, send bookmarks, end in time, and answer 410 where that version is forgotten. What is asked is
//! recorded, and what goes wrong is switched on by the test: [`Fault`].

mod dir;
mod fault;
mod http;
pub mod kinds;
mod link;
mod review;
pub mod store;
mod watch;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow};
use rustls::ServerConfig;
use rustls::pki_types::PrivatePkcs8KeyDer;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

pub use dir::Follower;
pub use fault::{Fault, What};
use http::Snapshots;
use kinds::Resource;
use link::{Socket, Switch};
pub use review::Token;
use store::{Name, Store};

/// The bearer token that clients must send; [`Server::kubeconfig`] has it.
const CLIENT_TOKEN: &str = "partywall-test-client";

/// What was asked of the server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// `list`, `watch`, `get` or `create`; else the method.
    pub verb: &'static str,
    pub path: String,
    /// As it was sent.
    pub query: String,
    pub at: Instant,
}

impl Request {
    /// A parameter's value, as it was sent.
    pub fn parameter(&self, name: &str) -> Option<&str> {
        http::parameter(&self.query, name)
    }
}

/// A running server; dropped, it ends.
#[derive(Debug)]
pub struct Server {
    inner: Arc<Inner>,
    address: SocketAddr,
    /// Its certificate in PEM; `None`: plain text.
    certificate: Option<String>,
    task: tokio::task::JoinHandle<()>,
}

#[derive(Debug)]
struct Inner {
    store: Mutex<Store>,
    /// The store's version after each change.
    changed: tokio::sync::watch::Sender<u64>,
    orders: tokio::sync::watch::Sender<Orders>,
    snapshots: Mutex<Snapshots>,
    faults: Mutex<Vec<Fault>>,
    requests: Mutex<Vec<Request>>,
    tokens: Mutex<BTreeMap<String, Token>>,
    settings: Mutex<Settings>,
    switch: Arc<Switch>,
}

/// What watches that are open were told, by how often.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Orders {
    end: u64,
    expire: u64,
}

#[derive(Clone, Debug)]
struct Settings {
    bookmark_every: Duration,
    /// 410 as the HTTP status of the answer, as aggregated servers give it; else as an event, as kube-apiserver does.
    gone_as_status: bool,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Server {
    /// # Errors
    /// The address cannot be bound.
    pub async fn start(address: SocketAddr) -> Result<Self> {
        let listener = TcpListener::bind(address).await;
        let listener = listener.with_context(|| format!("listening at {address}"))?;
        Self::serve(listener, None)
    }

    /// Over TLS, as pods reach the real one, on a socket that may have been made in another network namespace.
    ///
    /// # Errors
    /// The socket has no address.
    pub fn over_tls(listener: TcpListener) -> Result<Self> {
        let name = listener.local_addr()?.ip().to_string();
        let own = rcgen::generate_simple_self_signed([name])?;
        let key = PrivatePkcs8KeyDer::from(own.signing_key.serialize_der());
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(vec![own.cert.der().clone()], key.into())?;
        Self::serve(
            listener,
            Some((own.cert.pem(), TlsAcceptor::from(Arc::new(config)))),
        )
    }

    fn serve(listener: TcpListener, tls: Option<(String, TlsAcceptor)>) -> Result<Self> {
        let (certificate, tls) = tls.unzip();
        let switch = Switch::new();
        let inner = Arc::new(Inner {
            store: Mutex::default(),
            changed: tokio::sync::watch::Sender::new(0),
            orders: tokio::sync::watch::Sender::default(),
            snapshots: Mutex::default(),
            faults: Mutex::default(),
            requests: Mutex::default(),
            tokens: Mutex::default(),
            settings: Mutex::new(Settings {
                bookmark_every: Duration::from_secs(60),
                gone_as_status: false,
            }),
            switch: Arc::clone(&switch),
        });
        let socket = Socket::new(listener, tls, switch)?;
        let address = axum::serve::Listener::local_addr(&socket)?;
        let router = http::router(Arc::clone(&inner));
        let task = tokio::spawn(async move {
            // It ends with its task.
            let _ = axum::serve(socket, router).await;
        });
        Ok(Self {
            inner,
            address,
            certificate,
            task,
        })
    }

    /// On a free port of the loopback interface.
    ///
    /// # Errors
    /// None can be had.
    pub async fn on_loopback() -> Result<Self> {
        Self::start(SocketAddr::from(([127, 0, 0, 1], 0))).await
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    pub fn url(&self) -> String {
        let scheme = if self.certificate.is_some() {
            "https"
        } else {
            "http"
        };
        format!("{scheme}://{}", self.address)
    }

    /// The files that a kubelet puts into a pod for its service account, by name.
    pub fn service_account(&self, namespace: &str) -> BTreeMap<&'static str, String> {
        BTreeMap::from([
            ("token", CLIENT_TOKEN.to_owned()),
            ("namespace", namespace.to_owned()),
            ("ca.crt", self.certificate.clone().unwrap_or_default()),
        ])
    }

    /// What a client needs to be let in.
    pub fn kubeconfig(&self) -> String {
        let url = self.url();
        let config = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "test",
            "clusters": [{"name": "test", "cluster": {"server": url}}],
            "users": [{"name": "test", "user": {"token": CLIENT_TOKEN}}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
        });
        // JSON is YAML.
        format!("{config:#}\n")
    }

    /// Creates or replaces every object of a YAML text (documents, lists) as `kubectl apply` would.
    ///
    /// # Errors
    /// The text is no YAML, or an object is of no kind that is served.
    pub fn apply_yaml(&self, text: &str) -> Result<()> {
        dir::objects(text)?
            .iter()
            .try_for_each(|object| self.apply(object))
    }

    /// Creates or replaces one object.
    ///
    /// # Errors
    /// It is of no kind that is served.
    pub fn apply(&self, object: &Value) -> Result<()> {
        let resource = resource_of(object)?;
        self.change(|store| store.apply(resource, object));
        Ok(())
    }

    /// The same without defaults: what an admission webhook or an older version left behind. `plural` is the resource's.
    ///
    /// # Errors
    /// There is no such resource.
    pub fn put_raw(&self, plural: &str, object: Value) -> Result<()> {
        let resource = Resource::named(plural).with_context(|| format!("{plural:?} is not served"))?;
        self.change(|store| store.put(resource, object));
        Ok(())
    }

    /// False: there was none.
    pub fn delete(&self, plural: &str, namespace: &str, name: &str) -> bool {
        let name: Name = (namespace.to_owned(), name.to_owned());
        Resource::named(plural).is_some_and(|resource| self.change(|store| store.delete(resource, &name)))
    }

    /// Every object of the kind, as `kubectl get -o json` writes them: one list, each item with its kind.
    pub fn dump(&self, plural: &str) -> Value {
        let store = lock(&self.inner.store);
        let items: Vec<&Value> = store.objects(plural).map(|(_, object)| &**object).collect();
        json!({"apiVersion": "v1", "kind": "List", "metadata": {"resourceVersion": ""}, "items": items})
    }

    /// Brings the definition of a custom resource, or takes it away with all its objects.
    pub fn define(&self, plural: &str, is_there: bool) {
        let Some(resource) = Resource::named(plural).filter(|r| r.custom) else {
            return;
        };
        if is_there {
            lock(&self.inner.store).defined.insert(resource.plural);
            return;
        }
        self.change(|store| {
            let names: Vec<Name> = store
                .objects(resource.plural)
                .map(|(name, _)| name.clone())
                .collect();
            for name in names {
                store.delete(resource, &name);
            }
            store.defined.remove(resource.plural);
        });
        self.end_watches();
    }

    pub fn add_token(&self, text: &str, token: Token) {
        lock(&self.inner.tokens).insert(text.to_owned(), token);
    }

    /// A minute where nothing is said, as the real one.
    pub fn set_bookmark_interval(&self, every: Duration) {
        lock(&self.inner.settings).bookmark_every = every;
    }

    pub fn set_gone_as_status(&self, is_so: bool) {
        lock(&self.inner.settings).gone_as_status = is_so;
    }

    /// The newest fault that fits a request is taken.
    pub fn fault(&self, fault: Fault) {
        lock(&self.inner.faults).push(fault);
    }

    pub fn clear_faults(&self) {
        lock(&self.inner.faults).clear();
    }

    /// Forgets all changes so far: a watch that begins before now is answered with 410.
    pub fn compact(&self) {
        self.change(Store::compact);
    }

    /// Tokens of lists that are under way are answered with 410 from now on.
    pub fn expire_pages(&self) {
        lock(&self.inner.snapshots).clear();
    }

    /// Open watches end, as they do after their time.
    pub fn end_watches(&self) {
        self.inner.orders.send_modify(|orders| orders.end += 1);
    }

    /// Open watches are told 410 as an event, and end.
    pub fn expire_watches(&self) {
        self.inner.orders.send_modify(|orders| orders.expire += 1);
    }

    /// Every connection is cut, in the middle of whatever it carries; the server goes on.
    pub fn cut_connections(&self) {
        self.inner.switch.cut();
    }

    /// Every connection is cut and new ones are refused until [`Server::come_back`].
    pub fn go_away(&self) {
        self.inner.switch.close();
    }

    /// At the same port.
    pub fn come_back(&self) {
        self.inner.switch.open();
    }

    /// Everything that was asked, in order.
    pub fn requests(&self) -> Vec<Request> {
        lock(&self.inner.requests).clone()
    }

    pub fn forget_requests(&self) {
        lock(&self.inner.requests).clear();
    }

    fn change<T>(&self, change: impl FnOnce(&mut Store) -> T) -> T {
        let mut store = lock(&self.inner.store);
        let outcome = change(&mut store);
        let version = store.version();
        drop(store);
        self.inner.changed.send_replace(version);
        outcome
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
        self.inner.switch.close();
    }
}

fn resource_of(object: &Value) -> Result<&'static Resource> {
    let text = |key| object.get(key).and_then(Value::as_str).unwrap_or_default();
    Resource::of(object).ok_or_else(|| {
        anyhow!(
            "apiVersion {:?}, kind {:?} is not served",
            text("apiVersion"),
            text("kind")
        )
    })
}
