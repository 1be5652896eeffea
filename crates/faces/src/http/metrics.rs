//! Figures for Prometheus: where they are kept and what they are called.
//!
//! The domain counts through the `metrics` facade; this is where the counts end up. Labels take few values by design:
//! route patterns instead of addresses, no account, no agent, no id.

use std::{sync::OnceLock, time::Duration};

use metrics::{Unit, counter, describe_counter, describe_gauge, describe_histogram, histogram};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};

/// Upper bounds of the latency buckets, in seconds: from a cached read to the longest invocation.
const LATENCY_BUCKETS: &[f64] =
    &[0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0];
/// How often raw samples are folded into buckets, so that they do not pile up when nobody asks.
const UPKEEP: Duration = Duration::from_secs(5);

static RECORDER: OnceLock<Option<PrometheusHandle>> = OnceLock::new();

/// Starts keeping figures, once per process. What was counted before is lost, so the server calls this first.
pub fn install() {
    RECORDER.get_or_init(|| {
        let built = PrometheusBuilder::new()
            .set_buckets_for_metric(Matcher::Suffix(String::from("_seconds")), LATENCY_BUCKETS)
            .and_then(PrometheusBuilder::install_recorder);
        let handle = match built {
            Ok(handle) => handle,
            Err(error) => {
                tracing::error!(%error, "no metrics: another recorder is installed");
                return None;
            }
        };
        describe();
        let upkeep = handle.clone();
        let started = std::thread::Builder::new().name(String::from("metrics")).spawn(move || {
            loop {
                std::thread::sleep(UPKEEP);
                upkeep.run_upkeep();
            }
        });
        if let Err(error) = started {
            tracing::error!(%error, "metrics are folded only when they are read");
        }
        Some(handle)
    });
}

/// Everything counted so far in the text format of Prometheus; absent when another recorder took the place.
pub(crate) fn render() -> Option<String> {
    RECORDER.get()?.as_ref().map(PrometheusHandle::render)
}

pub(crate) fn count_request(face: &'static str, route: &str, method: &'static str, status: u16, elapsed: Duration) {
    counter!(
        "backlot_http_requests_total",
        "face" => face, "route" => route.to_owned(), "method" => method, "status" => status.to_string()
    )
    .increment(1);
    histogram!("backlot_http_request_duration_seconds", "face" => face, "route" => route.to_owned())
        .record(elapsed.as_secs_f64());
}

fn describe() {
    describe_counter!("backlot_http_requests_total", "Requests by face, route pattern, method and status");
    describe_histogram!(
        "backlot_http_request_duration_seconds",
        Unit::Seconds,
        "Time to the head of the answer, by face and route pattern"
    );
    describe_gauge!("backlot_runs_executing", "Runs that this process executes now, by kind");
    describe_counter!("backlot_runs_started_total", "Runs that this process began to execute, by kind");
    describe_counter!("backlot_runs_ended_total", "Runs that this process ended, by kind and status");
    describe_gauge!("backlot_sandboxes", "Sandboxes that exist now, by use");
    describe_counter!("backlot_model_calls_total", "Model calls by provider and status");
    describe_counter!("backlot_model_tokens_total", "Tokens by provider and direction");
}
