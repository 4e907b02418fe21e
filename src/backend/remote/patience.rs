//! Asking again: what failed in passing is tried with growing, random pauses, for a limited time.

use std::pin::pin;
use std::time::Duration;

use futures_util::future::{Either, select};

/// The longest pause before the second attempt; it doubles from one to the next.
const PAUSE: Duration = Duration::from_millis(100);
/// No pause is longer.
const PAUSE_MAX: Duration = Duration::from_secs(10);

/// Makes attempts, at least one, until one gives an answer that another could not change, or
/// `patience` ends.
pub(super) async fn ask<T, E>(
    patience: Duration,
    is_passing: impl Fn(&E) -> bool,
    attempt: impl AsyncFn() -> Result<T, E>,
) -> Result<T, E> {
    let mut over = pin!(tokio::time::sleep(patience));
    let mut pause = PAUSE;
    loop {
        let error = match attempt().await {
            Err(error) if is_passing(&error) => error,
            result => return result,
        };
        let paused = pin!(tokio::time::sleep(jittered(pause)));
        if let Either::Left(_) = select(over.as_mut(), paused).await {
            return Err(error);
        }
        pause = (pause * 2).min(PAUSE_MAX);
    }
}

/// A random part of the pause, so that those who failed together do not come back together.
fn jittered(pause: Duration) -> Duration {
    let mut random = [0; 4];
    // Without randomness the pause is merely the same for all.
    let part = getrandom::fill(&mut random)
        .map_or(1.0, |()| f64::from(u32::from_le_bytes(random)) / f64::from(u32::MAX));
    pause.mul_f64(part.max(0.1))
}
