//! What peers may take of the aggregator's sockets, memory and time. What reports may hold is in the core's own `limits`; how large a message may be,
//! in `partywall-proto`. Whatever is turned away is counted by reason, see docs/links.md.

use std::time::Duration;

use partywall_aggregator_core::limits::MAX_NODES;

/// Connections at once: each node's, as many again that reconnect before their old one is noticed dead, and a thousand clients.
pub const MAX_CONNECTIONS: usize = 2 * MAX_NODES + 1_000;
/// Of one address. A site behind address translation is one address: a thousand nodes that all reconnect.
pub const MAX_CONNECTIONS_PER_PEER: usize = 2_000;
/// TLS handshakes at once, some 40 KiB each; and of one address, so that one that stays silent in all of its own leaves room for others.
pub const MAX_HANDSHAKES: usize = 1_024;
pub const MAX_HANDSHAKES_PER_PEER: usize = 256;
/// A handshake is two round trips and a millisecond of work: a poor link needs one second.
pub const HANDSHAKE: Duration = Duration::from_secs(5);
/// A connection on which nothing was asked for so long is none of an agent or a client.
pub const FIRST_REQUEST: Duration = Duration::from_secs(10);
/// A peer that does not answer a ping for this long is gone: its stream is ended, its agent may come again.
pub const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
pub const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);
/// No byte for so long: pings are answered by whoever lives, so that this is a peer that takes no part in the protocol.
pub const SILENCE: Duration = Duration::from_secs(30);
/// After an error of `accept` that is not a peer's (no file descriptor, no memory) the next try waits.
pub const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Requests at once on one connection: an agent needs one, a client two.
pub const STREAMS_PER_CONNECTION: u32 = 16;
/// Bytes of a request's header fields: a token has some 1,500.
pub const MAX_HEADER_BYTES: u32 = 16 * 1024;
/// Requests that a peer took back before they were looked at; more end its connection (rapid reset). An honest one takes back what times out.
pub const MAX_PENDING_RESETS: usize = 20;

/// How long a stream and its connection last where certificates or tokens say who it is, so that what was taken away ends in this time.
/// A fifth more or less at random: streams that began together must not end together.
pub const STREAM_LIFE: Duration = Duration::from_secs(15 * 60);
pub const STREAM_LIFE_SPREAD: f64 = 0.2;
/// Longer than any stream of an agent's; a client's requests take seconds. What is open then has the grace to end.
pub const CONNECTION_LIFE: Duration = Duration::from_secs(20 * 60);
pub const CONNECTION_GRACE: Duration = Duration::from_secs(60);

/// Streams of reports at once.
pub const MAX_STREAMS: usize = 2 * MAX_NODES;
/// Of one node: its own, and those of its past that are not noticed dead yet.
pub const MAX_STREAMS_PER_NODE: usize = 4;
/// Reports that one node may have counted: an agent makes at most ten a second, and one that was cut off for half an hour has 1,800 waiting.
/// What comes faster is read later, which holds up its sender alone.
pub const REPORTS_PER_SECOND: f64 = 100.0;
pub const REPORTS_AT_ONCE: f64 = 50.0;
/// The same in bytes: a node of 110 busy pods reports some 50 KiB a second.
pub const REPORT_BYTES_PER_SECOND: f64 = 8.0 * 1024.0 * 1024.0;
pub const REPORT_BYTES_AT_ONCE: f64 = 16.0 * 1024.0 * 1024.0;

/// Questions answered at once: each holds a cluster's lock for milliseconds, and one CPU.
pub const QUERIES_AT_ONCE: usize = 2;
/// Questions that wait, and for how long.
pub const QUERIES_WAITING: usize = 64;
pub const QUERY_PATIENCE: Duration = Duration::from_secs(5);
/// The same of the page's questions, beside those: who looks must not hold up who asks.
pub const PAGE_ANSWERS_AT_ONCE: usize = 1;
pub const PAGE_ANSWERS_WAITING: usize = 32;
/// Clients that watch breaches.
pub const MAX_WATCHES: usize = 256;
