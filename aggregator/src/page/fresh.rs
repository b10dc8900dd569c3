//! One answer for each judgement, made when it is first asked for: a hundred people that look cost what one costs.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use axum::body::Bytes;
use tokio::sync::Mutex;

use super::answer::{Asked, Problem};
use super::view;
use crate::clock::unix_ns;
use crate::state::State;

/// Nobody has asked for so long: what was made last is let go of.
const FORGOTTEN: Duration = Duration::from_secs(30);

#[derive(Debug)]
pub(crate) struct Fresh {
    state: Arc<State>,
    asked: Asked,
    started_unix_ns: u64,
    /// Held while an answer is made: those that ask meanwhile get the same.
    made: Arc<Mutex<Option<Arc<Made>>>>,
    /// Times that somebody asked.
    times: Arc<AtomicU64>,
}

/// An answer, for as long as nothing is judged anew.
#[derive(Debug)]
pub(crate) struct Made {
    /// The moment of the judgement that it is of, of each cluster.
    judged: Vec<u64>,
    pub(crate) etag: String,
    pub(crate) body: Bytes,
}

impl Fresh {
    pub(crate) fn new(state: Arc<State>) -> Self {
        Self {
            asked: Asked::new(Arc::clone(&state)),
            state,
            started_unix_ns: unix_ns(),
            made: Arc::default(),
            times: Arc::default(),
        }
    }

    pub(crate) async fn get(&self) -> Result<Arc<Made>, Problem> {
        self.times.fetch_add(1, Ordering::Relaxed);
        let mut made = self.made.lock().await;
        let judged: Vec<u64> = self.state.clusters().map(|c| c.lock().judged().mono_ns).collect();
        if let Some(made) = made.as_ref().filter(|made| made.judged == judged) {
            return Ok(Arc::clone(made));
        }
        let state = Arc::clone(&self.state);
        let body = self.asked.answer(move || view::everything(&state)).await?;
        // The moments alone would do for one aggregator: with its start, an answer of the one before is none of this one's.
        let moment = judged.iter().fold(0u64, |sum, ns| sum.wrapping_add(*ns));
        let fresh = Arc::new(Made {
            judged,
            etag: format!("\"{:x}-{moment:x}\"", self.started_unix_ns),
            body: body.into(),
        });
        if made.replace(Arc::clone(&fresh)).is_none() {
            self.forget_in_time();
        }
        Ok(fresh)
    }

    /// With a thousand nodes it is some megabytes, which nobody needs at night.
    fn forget_in_time(&self) {
        let (made, times) = (Arc::downgrade(&self.made), Arc::clone(&self.times));
        tokio::spawn(async move {
            loop {
                let before = times.load(Ordering::Relaxed);
                tokio::time::sleep(FORGOTTEN).await;
                let Some(made) = made.upgrade() else { return };
                let mut made = made.lock().await;
                if times.load(Ordering::Relaxed) == before {
                    *made = None;
                    return;
                }
            }
        });
    }
}
