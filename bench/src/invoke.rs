//! `POST invoke` of a trivial node agent, and what it adds to running that program bare.

use std::{path::Path, process::Stdio, time::Instant};

use anyhow::ensure;
use serde_json::json;

use crate::{
    Figure,
    server::Server,
    statistics::{median, micros, millis, percentile},
};

const ROUNDS: usize = 5;
const CALLS: usize = 30;
const PROGRAM: &str = "process.stdout.write('hello')";

pub(crate) async fn measure(program: &Path) -> anyhow::Result<Vec<Figure>> {
    let server = Server::start(program, None).await?;
    server.deploy("hello", "index.js", PROGRAM).await?;
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("index.js");
    std::fs::write(&file, PROGRAM)?;
    let (mut bare, mut ours, mut ours_p99) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let (mut bare_times, mut our_times) = (Vec::new(), Vec::new());
        for _ in 0..CALLS {
            let begin = Instant::now();
            let output = tokio::process::Command::new("node")
                .arg(&file)
                .env_clear()
                .env("PATH", "/usr/local/bin:/usr/bin:/bin")
                .stdin(Stdio::null())
                .output()
                .await?;
            bare_times.push(begin.elapsed());
            ensure!(output.stdout == b"hello", "node said {output:?}");
            let begin = Instant::now();
            let answer = server.post("/castari/api/v1/agents/hello/invoke", &json!({ "prompt": "" })).await?;
            our_times.push(begin.elapsed());
            ensure!(answer["response_content"] == "hello", "the agent said {answer}");
            // As a caller who is not the next in line: the next sandbox is prepared meanwhile.
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
        bare.push(micros(percentile(&mut bare_times, 0.5)));
        ours.push(micros(percentile(&mut our_times, 0.5)));
        ours_p99.push(millis(percentile(&mut our_times, 0.99)));
    }
    let added = median(ours.iter().zip(&bare).map(|(ours, bare)| (ours - bare) / 1e3).collect());
    Ok(vec![
        Figure::new("invoke", "node, bare, p50", median(bare) / 1e3, "ms"),
        Figure::new("invoke", "POST invoke, p50", median(ours) / 1e3, "ms"),
        Figure::new("invoke", "POST invoke, p99", median(ours_p99), "ms"),
        Figure::new("invoke", "added by us, p50", added, "ms").aim("≤ 10 ms", added <= 10.0),
    ])
}
