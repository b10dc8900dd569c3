//! What is looked at of every request before anything of its body.

use std::sync::Arc;

use tonic::{Request, Status};

use super::Peer;
use crate::metrics::StreamRefusal;
use crate::state::State;

/// Marks the connection as one in use, and turns away what is compressed: a message is bounded by its size on the wire, and a small one may become
/// huge when it is unpacked. Agents and clients never compress.
pub fn at_the_door(state: Arc<State>) -> impl Fn(Request<()>) -> Result<Request<()>, Status> + Clone {
    move |request| {
        if let Some(peer) = request.extensions().get::<Peer>() {
            peer.asked();
        }
        let encoding = request.metadata().get("grpc-encoding");
        if encoding.is_some_and(|e| e.as_encoded_bytes() != b"identity") {
            state.metrics.refuse_stream(StreamRefusal::Compressed);
            return Err(Status::unimplemented("compressed messages are not taken"));
        }
        Ok(request)
    }
}
