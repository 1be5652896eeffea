//! Whether this process wants work.

use tokio_util::sync::CancellationToken;

/// Told to whoever asks `/readyz`. Cheap to clone; all clones are the same.
#[derive(Debug, Clone, Default)]
pub struct Readiness(CancellationToken);

impl Readiness {
    /// From now on this process wants no new work: load balancers should send it elsewhere. It cannot be taken back.
    pub fn drain(&self) {
        self.0.cancel();
    }

    /// Whether [`Readiness::drain`] was called.
    #[must_use]
    pub fn is_draining(&self) -> bool {
        self.0.is_cancelled()
    }
}
