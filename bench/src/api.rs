//! The API at 64 connections: reading one agent, and a durable write.

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::{Request, client::conn::http1};
use hyper_util::rt::TokioIo;
use serde_json::json;
use tokio::net::TcpStream;

use crate::{Figure, server::Server, statistics::median};

const CONNECTIONS: usize = 64;
const ROUNDS: usize = 5;
const ROUND: Duration = Duration::from_secs(3);

pub(crate) async fn measure(program: &Path) -> anyhow::Result<Vec<Figure>> {
    let server = Server::start(program, None).await?;
    server.post("/castari/api/v1/agents", &json!({ "name": "hello" })).await?;
    let (mut reads, mut writes) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        reads.push(load(&server, "GET", "").await?);
        writes.push(load(&server, "PATCH", r#"{"description":"changed"}"#).await?);
    }
    let (reads, writes) = (median(reads), median(writes));
    Ok(vec![
        Figure::new("api", "GET one agent, 64 connections", reads, "requests/s")
            .aim("≥ 10,000 on two cores", reads >= 10_000.0),
        Figure::new("api", "PATCH one agent (durable), 64 connections", writes, "requests/s")
            .aim("≥ 2,000 on two cores", writes >= 2_000.0),
    ])
}

/// Requests per second of all connections together. The client runs on the same cores as the server.
async fn load(server: &Server, method: &'static str, body: &'static str) -> anyhow::Result<f64> {
    let address = server.url.strip_prefix("http://").context("http")?.to_owned();
    let done = Arc::new(AtomicU64::new(0));
    let begin = Instant::now();
    let workers: Vec<_> = (0..CONNECTIONS)
        .map(|_| {
            let (address, key, done) = (address.clone(), server.key.clone(), Arc::clone(&done));
            tokio::spawn(async move {
                let stream = TcpStream::connect(&address).await?;
                stream.set_nodelay(true)?;
                let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
                tokio::spawn(connection);
                while begin.elapsed() < ROUND {
                    let request = Request::builder()
                        .method(method)
                        .uri("/castari/api/v1/agents/hello")
                        .header("host", &address)
                        .header("authorization", format!("Bearer {key}"))
                        .header("content-type", "application/json")
                        .body(Full::new(Bytes::from_static(body.as_bytes())))?;
                    let response = sender.send_request(request).await?;
                    ensure!(response.status() == 200, "answered {}", response.status());
                    response.into_body().collect().await?;
                    done.fetch_add(1, Ordering::Relaxed);
                }
                Ok(())
            })
        })
        .collect();
    for worker in workers {
        worker.await??;
    }
    #[expect(clippy::cast_precision_loss, reason = "some ten thousands")]
    let done = done.load(Ordering::Relaxed) as f64;
    Ok(done / begin.elapsed().as_secs_f64())
}
