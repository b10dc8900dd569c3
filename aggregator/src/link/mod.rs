//! The way in: connections of agents and clients, with or without TLS, and what of them is turned away before anything of it is read.
//!
//! Every connection takes its handshake from the certificates that are in force at that moment; see [`tls`] for how they change.

mod accept;
mod conn;
mod door;
mod name;
pub mod tls;

pub use accept::accept;
pub use conn::{Conn, Peer};
pub use door::at_the_door;
pub use name::Refusal;
