//! Durable steps per second of the run journal, on SQLite with every commit on disk.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use backlot_db::{Db, args};
use backlot_domain::{
    RandomIds, SystemClock,
    runs::{Effect, Executor, NewRun, Outcome, RunContext, Runs, Settings},
};
use serde_json::Value;

use crate::{Figure, statistics::median};

const ROUNDS: usize = 5;
const ROUND: Duration = Duration::from_secs(2);

/// Runs that do nothing but steps until the round is over.
struct Stepper {
    steps: Arc<AtomicU64>,
    until: Instant,
    slots: usize,
}

#[async_trait::async_trait]
impl Executor for Stepper {
    async fn execute(&self, run: &RunContext) -> Outcome {
        let mut number = 0_u32;
        while Instant::now() < self.until {
            let key = number.to_string();
            let step = run.step(&key, "step", Effect::Once, Value::Null, async { Ok(Value::Null) });
            if let Err(failure) = step.await {
                return Outcome::failed(failure);
            }
            number += 1;
            self.steps.fetch_add(1, Ordering::Relaxed);
        }
        Outcome::completed(Value::Null)
    }

    fn slots(&self) -> usize {
        self.slots
    }
}

pub(crate) async fn measure() -> anyhow::Result<Vec<Figure>> {
    let mut figures = Vec::new();
    for parallel in [1, 64] {
        let mut rates = Vec::new();
        for _ in 0..ROUNDS {
            rates.push(round(parallel).await?);
        }
        let what = format!("durable steps (intent and result), {parallel} runs at once");
        figures.push(Figure::new("journal", what, median(rates), "steps/s"));
    }
    Ok(figures)
}

async fn round(parallel: usize) -> anyhow::Result<f64> {
    let folder = tempfile::tempdir()?;
    let db = Db::open(&format!("sqlite://{}", folder.path().join("journal.db").display())).await?;
    db.write(|tx| {
        Box::pin(async move {
            tx.execute("INSERT INTO accounts (id, created_at) VALUES ($1, 0)", args!["usr_bench"]).await.map(drop)
        })
    })
    .await?;
    let runs = Runs::new(db.clone(), Arc::new(SystemClock), Arc::new(RandomIds), Settings::default());
    let steps = Arc::new(AtomicU64::new(0));
    let begin = Instant::now();
    let executor = Stepper { steps: Arc::clone(&steps), until: begin + ROUND, slots: parallel };
    runs.register("bench", Arc::new(executor));
    runs.spawn_workers().await?;
    let mut ids = Vec::new();
    for _ in 0..parallel {
        let new = NewRun {
            prefix: "run",
            kind: "bench",
            account_id: String::from("usr_bench"),
            subject: String::from("bench"),
            session: None,
            parent_id: None,
            input: Value::Null,
            deadline: None,
            idempotency_key: None,
        };
        ids.push(runs.start(new, None).await?.run.id);
    }
    for id in ids {
        runs.wait(&id).await?;
    }
    runs.drain(Duration::from_secs(1)).await;
    db.close().await;
    #[expect(clippy::cast_precision_loss, reason = "some ten thousands")]
    let steps = steps.load(Ordering::Relaxed) as f64;
    Ok(steps / begin.elapsed().as_secs_f64())
}
