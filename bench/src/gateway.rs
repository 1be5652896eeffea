//! What the gateway adds to calling the provider directly: to the whole answer, and to the first byte of a stream.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use anyhow::ensure;
use backlot_testkit::scripted_model::{ScriptedModel, Turn};
use futures::StreamExt as _;
use serde_json::json;

use crate::{
    Figure,
    server::{Server, http},
    statistics::{median, micros, percentile},
};

const ROUNDS: usize = 5;
const CALLS: usize = 200;

pub(crate) async fn measure(program: &Path) -> anyhow::Result<Vec<Figure>> {
    let model = ScriptedModel::start().await;
    model.respond_with(|_| Turn::text("A short answer of a few words."));
    let server = Server::start(program, Some(&model.anthropic_url())).await?;
    let direct = format!("{}/v1/messages", model.anthropic_url());
    let through = format!("{}/gateway/anthropic/v1/messages", server.url);
    let client = http()?;
    let mut added = [Vec::new(), Vec::new()];
    let mut bare = [Vec::new(), Vec::new()];
    for _ in 0..ROUNDS {
        for (index, stream) in [false, true].into_iter().enumerate() {
            let (mut direct_times, mut through_times) = (Vec::new(), Vec::new());
            for _ in 0..CALLS {
                direct_times.push(call(&client, &direct, "provider-key", stream).await?);
                through_times.push(call(&client, &through, &server.key, stream).await?);
            }
            model.forget_requests();
            let direct = micros(percentile(&mut direct_times, 0.5));
            if let (Some(bare), Some(added)) = (bare.get_mut(index), added.get_mut(index)) {
                bare.push(direct);
                added.push(micros(percentile(&mut through_times, 0.5)) - direct);
            }
        }
    }
    let [whole, first] = added.map(median);
    let [direct_whole, direct_first] = bare.map(median);
    Ok(vec![
        Figure::new("gateway", "provider directly, whole answer, p50", direct_whole, "µs"),
        Figure::new("gateway", "added to the whole answer, p50", whole, "µs").aim("≤ 200 µs", whole <= 200.0),
        Figure::new("gateway", "provider directly, first byte of a stream, p50", direct_first, "µs"),
        Figure::new("gateway", "added to the first byte, p50", first, "µs").aim("≤ 300 µs", first <= 300.0),
    ])
}

/// Time to the whole answer, or to the first byte of a stream.
async fn call(client: &reqwest::Client, url: &str, key: &str, stream: bool) -> anyhow::Result<Duration> {
    let body = json!({
        "model": "claude-sonnet-4-5-20250929", "max_tokens": 100, "stream": stream,
        "messages": [{ "role": "user", "content": "hello" }],
    });
    let begin = Instant::now();
    let response =
        client.post(url).header("x-api-key", key).header("anthropic-version", "2023-06-01").json(&body).send().await?;
    ensure!(response.status().is_success(), "{url} answered {}: {}", response.status(), response.text().await?);
    let mut bytes = response.bytes_stream();
    let mut first = None;
    while let Some(piece) = bytes.next().await {
        piece?;
        first.get_or_insert_with(|| begin.elapsed());
    }
    let whole = begin.elapsed();
    Ok(if stream { first.unwrap_or(whole) } else { whole })
}
