//! Whose question is answered next: a few at once, some more wait for a while.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;
use tonic::Status;

use crate::limits::{QUERIES_AT_ONCE, QUERIES_WAITING, QUERY_PATIENCE};
use crate::metrics::{Metrics, StreamRefusal};

#[derive(Debug)]
pub struct Turns {
    /// Those that are answered and those that wait for it.
    inside: Arc<Semaphore>,
    answering: Arc<Semaphore>,
}

impl Default for Turns {
    fn default() -> Self {
        Self {
            inside: Arc::new(Semaphore::new(QUERIES_AT_ONCE + QUERIES_WAITING)),
            answering: Arc::new(Semaphore::new(QUERIES_AT_ONCE)),
        }
    }
}

impl Turns {
    /// Held while a question is answered.
    ///
    /// # Errors
    /// There are too many.
    pub async fn next(&self, metrics: &Metrics) -> Result<[OwnedSemaphorePermit; 2], Status> {
        let busy = || {
            metrics.refuse_stream(StreamRefusal::QueriesBusy);
            Status::unavailable("too many questions at once; ask again later")
        };
        let inside = Arc::clone(&self.inside).try_acquire_owned().map_err(|_| busy())?;
        match timeout(QUERY_PATIENCE, Arc::clone(&self.answering).acquire_owned()).await {
            Ok(Ok(answering)) => Ok([inside, answering]),
            _ => Err(busy()),
        }
    }
}
