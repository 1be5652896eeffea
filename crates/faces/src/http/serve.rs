//! Accepting connections, with limits on what a client may hold open.

use std::{convert::Infallible, future::Future, net::SocketAddr, pin::pin, time::Duration};

use axum::{
    Router,
    extract::{ConnectInfo, FromRequestParts, Request},
    http::request::Parts,
};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::{conn::auto, graceful::GracefulShutdown},
};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt as _;

/// Limits of connections.
#[derive(Debug, Clone)]
pub struct ConnectionLimits {
    /// Longest wait for the head of a request, also between two requests of one connection.
    pub head_timeout: Duration,
    /// Largest head of a request in bytes.
    pub head_bytes: usize,
    /// Connections at a time; further ones wait in the system's queue.
    pub connections: usize,
    /// How long answers that are under way may take to finish once the server drains.
    pub drain: Duration,
}

impl Default for ConnectionLimits {
    fn default() -> Self {
        Self {
            head_timeout: Duration::from_secs(60),
            head_bytes: 64 * 1024,
            connections: 10_000,
            drain: Duration::from_secs(25),
        }
    }
}

/// Fires when the listener that a request came through takes no more: endless answers end then.
#[derive(Debug, Clone, Default)]
pub(crate) struct Closing(CancellationToken);

impl Closing {
    /// Ends when the listener closes.
    pub(crate) fn token(&self) -> CancellationToken {
        self.0.clone()
    }

    /// Whether the listener has closed.
    pub(crate) fn has_begun(&self) -> bool {
        self.0.is_cancelled()
    }
}

impl<S: Sync> FromRequestParts<S> for Closing {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        // A router that is driven without a listener never closes.
        Ok(parts.extensions.get::<Self>().cloned().unwrap_or_default())
    }
}

/// Serves `router` on `listener` until `shutdown` ends, then takes no new connection, lets answers that are under way
/// finish, and returns.
///
/// Errors of single connections end these connections only; a failing `accept` (too many open files) is tried again.
pub async fn serve(
    listener: TcpListener,
    router: Router,
    limits: ConnectionLimits,
    shutdown: impl Future<Output = ()> + Send,
) {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.head_timeout)
        .max_buf_size(limits.head_bytes)
        .half_close(false);
    let places = std::sync::Arc::new(tokio::sync::Semaphore::new(limits.connections));
    let graceful = GracefulShutdown::new();
    let closing = Closing::default();
    let mut shutdown = pin!(shutdown);
    loop {
        let accepted = tokio::select! {
            biased;
            () = &mut shutdown => break,
            accepted = accept(&listener, &places) => accepted,
        };
        let (stream, address, place) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection; trying again");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        // Small answers must not wait for more.
        let _unsupported_is_fine = stream.set_nodelay(true);
        let (router, closing) = (router.clone(), closing.clone());
        let service = hyper::service::service_fn(move |mut request: Request<hyper::body::Incoming>| {
            request.extensions_mut().insert(ConnectInfo(address));
            request.extensions_mut().insert(closing.clone());
            router.clone().oneshot(request)
        });
        let connection = graceful.watch(builder.serve_connection(TokioIo::new(stream), service).into_owned());
        tokio::spawn(async move {
            let _place = place;
            if let Err(error) = connection.await {
                tracing::debug!(%error, "a connection ended early");
            }
        });
    }
    drop(listener);
    closing.0.cancel();
    if tokio::time::timeout(limits.drain, graceful.shutdown()).await.is_err() {
        tracing::warn!(
            seconds = limits.drain.as_secs(),
            "some answers did not finish while draining; giving up on them"
        );
    }
}

async fn accept(
    listener: &TcpListener,
    places: &std::sync::Arc<tokio::sync::Semaphore>,
) -> std::io::Result<(tokio::net::TcpStream, SocketAddr, tokio::sync::OwnedSemaphorePermit)> {
    let place = std::sync::Arc::clone(places).acquire_owned().await.map_err(std::io::Error::other)?;
    let (stream, address) = listener.accept().await?;
    Ok((stream, address, place))
}
