//! SQLite: four readers, and one writer task with group commit.

use std::{panic::AssertUnwindSafe, path::Path, time::Duration};

use futures::{FutureExt as _, future::BoxFuture};
use sqlx::{
    SqlitePool,
    sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous},
};
use tokio::sync::{broadcast, mpsc, oneshot};

use crate::{Connection, Error, Signal, Tx, connection::EngineConnection, signal::BACKLOG};

/// Writes that share one commit at most. More would make the first of them wait for the last.
const GROUP: usize = 128;
/// Writes that may wait for the writer; beyond that callers wait to be let in.
const QUEUE: usize = 1024;

pub(crate) struct Sqlite {
    readers: SqlitePool,
    writer: mpsc::Sender<Box<dyn Job>>,
    writer_pool: SqlitePool,
    pub(crate) signals: broadcast::Sender<Signal>,
}

impl Sqlite {
    pub(crate) async fn open(path: &str) -> Result<Self, Error> {
        if let Some(parent) = Path::new(path).parent().filter(|p| !p.as_os_str().is_empty()) {
            std::fs::create_dir_all(parent)
                .map_err(|error| Error::Address(format!("cannot create {}: {error}", parent.display())))?;
        }
        let options = SqliteConnectOptions::new()
            .filename(path)
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full)
            .foreign_keys(true)
            .busy_timeout(Duration::from_secs(10))
            .statement_cache_capacity(256);
        let writer_pool = SqlitePoolOptions::new().max_connections(1).connect_with(options.clone()).await?;
        let readers = SqlitePoolOptions::new()
            .min_connections(1)
            .max_connections(4)
            .acquire_timeout(Duration::from_secs(10))
            .connect_with(options.pragma("query_only", "ON"))
            .await?;
        let (writer, jobs) = mpsc::channel(QUEUE);
        let (signals, _) = broadcast::channel(BACKLOG);
        tokio::spawn(write_in_groups(writer_pool.clone(), jobs, signals.clone()));
        Ok(Self { readers, writer, writer_pool, signals })
    }

    pub(crate) async fn read(&self) -> Result<Connection, Error> {
        Ok(Connection::new(EngineConnection::Sqlite(self.readers.acquire().await?)))
    }

    pub(crate) async fn write<T, E, F>(&self, work: F) -> Result<T, E>
    where
        F: for<'t> FnOnce(&'t mut Tx) -> BoxFuture<'t, Result<T, E>> + Send + 'static,
        T: Send + 'static,
        E: From<Error> + Send + 'static,
    {
        let (answer, result) = oneshot::channel();
        let job = WriteJob { work: Some(work), result: None, answer };
        self.writer.send(Box::new(job)).await.map_err(|_| E::from(Error::Closed))?;
        result.await.map_err(|_| E::from(Error::Closed))?
    }

    pub(crate) async fn close(&self) {
        // Writes are done in order: when this one is, so are all that were waiting.
        let _closed_before = self.write(|_| Box::pin(async { Ok::<_, Error>(()) })).await;
        self.readers.close().await;
        self.writer_pool.close().await;
    }
}

/// Why a whole group of writes did not happen. Errors cannot be cloned, and everybody in the group gets one.
#[derive(Clone)]
enum Refusal {
    Closed,
    Full,
    Commit(String),
}

/// One write, with its types erased so that different ones fit into one queue.
#[async_trait::async_trait]
trait Job: Send {
    /// Runs the work and keeps its result; tells whether it succeeded.
    async fn run(&mut self, tx: &mut Tx) -> bool;
    /// Answers the caller, once the commit succeeded or failed.
    fn finish(self: Box<Self>, commit: Result<(), Refusal>);
}

struct WriteJob<T, E, F> {
    work: Option<F>,
    result: Option<Result<T, E>>,
    answer: oneshot::Sender<Result<T, E>>,
}

#[async_trait::async_trait]
impl<T, E, F> Job for WriteJob<T, E, F>
where
    F: for<'t> FnOnce(&'t mut Tx) -> BoxFuture<'t, Result<T, E>> + Send,
    T: Send,
    E: From<Error> + Send,
{
    async fn run(&mut self, tx: &mut Tx) -> bool {
        let Some(work) = self.work.take() else { return false };
        if self.answer.is_closed() {
            // The caller has gone before its turn came. PostgreSQL would not have begun either.
            return false;
        }
        // A panic must not take the writer with it.
        let result = match AssertUnwindSafe(async { work(tx).await }).catch_unwind().await {
            Ok(Ok(_)) if tx.take_failure() => Err(Error::Aborted.into()),
            Ok(result) => result,
            Err(_) => Err(Error::Panicked.into()),
        };
        tx.take_failure();
        let succeeded = result.is_ok();
        self.result = Some(result);
        succeeded
    }

    fn finish(self: Box<Self>, commit: Result<(), Refusal>) {
        let result = match (self.result, commit) {
            (Some(Err(error)), _) => Err(error),
            (Some(Ok(value)), Ok(())) => Ok(value),
            (_, Err(Refusal::Closed)) => Err(E::from(Error::Closed)),
            (_, Err(Refusal::Full)) => Err(E::from(Error::Full)),
            (_, Err(Refusal::Commit(reason))) => Err(E::from(Error::Commit(reason))),
            (None, Ok(())) => Err(E::from(Error::Closed)),
        };
        let _the_caller_may_have_gone = self.answer.send(result);
    }
}

/// The writer: takes whatever waits, runs it in one transaction, commits, answers everybody.
async fn write_in_groups(pool: SqlitePool, mut jobs: mpsc::Receiver<Box<dyn Job>>, signals: broadcast::Sender<Signal>) {
    let mut group: Vec<Box<dyn Job>> = Vec::with_capacity(GROUP);
    while jobs.recv_many(&mut group, GROUP).await > 0 {
        let outcome = match pool.acquire().await {
            Ok(connection) => {
                let mut tx = Tx::new(Connection::new(EngineConnection::Sqlite(connection)));
                run_group(&mut tx, &mut group).await.map(|()| tx.signals)
            }
            Err(error) => Err(Error::from(error)),
        };
        let commit = match outcome {
            Ok(sent) => {
                for signal in sent {
                    let _nobody_listens = signals.send(signal);
                }
                Ok(())
            }
            Err(Error::Closed) => Err(Refusal::Closed),
            Err(error) => {
                tracing::error!(%error, writes = group.len(), "a group of writes could not be committed");
                Err(if matches!(error, Error::Full) { Refusal::Full } else { Refusal::Commit(error.to_string()) })
            }
        };
        for job in group.drain(..) {
            job.finish(commit.clone());
        }
    }
}

async fn run_group(tx: &mut Tx, group: &mut [Box<dyn Job>]) -> Result<(), Error> {
    tx.control("BEGIN IMMEDIATE").await?;
    let outcome = run_jobs(tx, group).await;
    match outcome {
        Ok(true) => match tx.control("COMMIT").await {
            Ok(()) => Ok(()),
            Err(error) => {
                // A full disk refuses the commit and leaves the transaction open.
                let _already_rolled_back = tx.control("ROLLBACK").await;
                Err(error)
            }
        },
        Ok(false) => tx.control("ROLLBACK").await,
        Err(error) => {
            let _already_rolled_back = tx.control("ROLLBACK").await;
            Err(error)
        }
    }
}

/// Runs the jobs, each undone alone when it fails. Tells whether anything is left to commit.
async fn run_jobs(tx: &mut Tx, group: &mut [Box<dyn Job>]) -> Result<bool, Error> {
    if let [only] = group {
        let succeeded = only.run(tx).await;
        if !succeeded {
            tx.signals.clear();
        }
        return Ok(succeeded);
    }
    for job in group.iter_mut() {
        tx.control("SAVEPOINT job").await?;
        let sent = tx.signals.len();
        if !job.run(tx).await {
            tx.signals.truncate(sent);
            // SQLite undoes the whole transaction by itself when the disk is full: then there is no savepoint.
            let undone = tx.control("ROLLBACK TO job").await;
            undone.map_err(|error| if tx.met_full_disk() { Error::Full } else { error })?;
        }
        tx.control("RELEASE job").await?;
    }
    Ok(true)
}
