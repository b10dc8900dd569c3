//! Questions whose answers are made for one who asks: a few at once, the others wait, and not for ever.

use std::sync::Arc;

use tokio::sync::Semaphore;
use tokio::time::timeout;

use crate::limits::{PAGE_ANSWERS_AT_ONCE, PAGE_ANSWERS_WAITING, QUERY_PATIENCE};
use crate::metrics::StreamRefusal;
use crate::state::State;

/// Why there is no answer.
#[derive(Debug)]
pub(crate) enum Problem {
    NotFound(String),
    Busy,
    Failed(String),
}

#[derive(Debug)]
pub(crate) struct Asked {
    state: Arc<State>,
    /// Those that are answered and those that wait for it.
    inside: Arc<Semaphore>,
    answering: Arc<Semaphore>,
}

impl Asked {
    pub(crate) fn new(state: Arc<State>) -> Self {
        Self {
            state,
            inside: Arc::new(Semaphore::new(PAGE_ANSWERS_AT_ONCE + PAGE_ANSWERS_WAITING)),
            answering: Arc::new(Semaphore::new(PAGE_ANSWERS_AT_ONCE)),
        }
    }

    /// `make`'s answer, which is JSON.
    pub(crate) async fn answer<T: Send + 'static>(
        &self,
        make: impl FnOnce() -> Result<T, Problem> + Send + 'static,
    ) -> Result<T, Problem> {
        let busy = || {
            self.state.metrics.refuse_stream(StreamRefusal::QueriesBusy);
            Problem::Busy
        };
        let inside = Arc::clone(&self.inside).try_acquire_owned().map_err(|_| busy())?;
        let waited = timeout(QUERY_PATIENCE, Arc::clone(&self.answering).acquire_owned()).await;
        let Ok(Ok(answering)) = waited else {
            return Err(busy());
        };
        // Ten thousand pods are looked through: not on a thread that serves sockets.
        let made = tokio::task::spawn_blocking(move || {
            // Given back when the work is done, also where nobody waits for it any more.
            let _turn = (inside, answering);
            make()
        });
        made.await
            .unwrap_or_else(|error| Err(Problem::Failed(error.to_string())))
    }
}
