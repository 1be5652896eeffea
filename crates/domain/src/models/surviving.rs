//! Work that goes on when nobody waits for it any longer.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

/// A future that is carried on in the background when it is dropped unfinished, for `limit` at most.
///
/// A provider charges for a call whose client went away; only by hearing it out is known how much. Nothing is spawned
/// while the client stays, so that the usual case costs nothing.
pub(super) struct Surviving<F: Future<Output: Send + 'static> + Send + 'static> {
    work: Option<Pin<Box<F>>>,
    limit: Duration,
}

impl<F: Future<Output: Send + 'static> + Send + 'static> Surviving<F> {
    pub(super) fn new(limit: Duration, work: F) -> Self {
        Self { work: Some(Box::pin(work)), limit }
    }
}

impl<F: Future<Output: Send + 'static> + Send + 'static> Future for Surviving<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        let Some(work) = &mut self.work else { return Poll::Pending };
        let output = std::task::ready!(work.as_mut().poll(context));
        self.work = None;
        Poll::Ready(output)
    }
}

impl<F: Future<Output: Send + 'static> + Send + 'static> Drop for Surviving<F> {
    fn drop(&mut self) {
        if let Some(work) = self.work.take()
            && let Ok(runtime) = tokio::runtime::Handle::try_current()
        {
            let limit = self.limit;
            runtime.spawn(async move {
                // What comes of it is dropped here, and sees to its own end.
                let _nobody_waits = tokio::time::timeout(limit, work).await;
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tokio::sync::Notify;

    use super::*;

    #[tokio::test]
    async fn dropped_work_goes_on() {
        let (go, gone) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        let work = {
            let (go, gone) = (Arc::clone(&go), Arc::clone(&gone));
            async move {
                go.notified().await;
                gone.notify_one();
            }
        };
        let mut surviving = Box::pin(Surviving::new(Duration::from_secs(60), work));
        assert!(futures::poll!(surviving.as_mut()).is_pending());
        drop(surviving);
        go.notify_one();
        gone.notified().await;
    }

    #[tokio::test]
    async fn finished_work_gives_its_result() {
        assert_eq!(Surviving::new(Duration::ZERO, async { 7 }).await, 7);
    }
}
