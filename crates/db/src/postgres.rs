//! PostgreSQL: a pool, plain transactions, and one listener for signals.

use std::{str::FromStr, time::Duration};

use futures::future::BoxFuture;
use sqlx::{
    Connection as _, PgConnection, PgPool,
    postgres::{PgConnectOptions, PgListener, PgPoolOptions},
};
use tokio::{sync::broadcast, task::JoinHandle};

use crate::{Connection, Error, Signal, Tx, connection::EngineConnection, signal::BACKLOG};

/// The `NOTIFY` channel that carries all signals.
const CHANNEL: &str = "backlot";
/// How long a connection may take to be had.
const PATIENCE: Duration = Duration::from_secs(10);

pub(crate) struct Postgres {
    pub(crate) pool: PgPool,
    pub(crate) signals: broadcast::Sender<Signal>,
    /// Forwards notifications; ends with the last handle.
    forwarding: JoinHandle<()>,
}

impl Postgres {
    pub(crate) async fn open(url: &str) -> Result<Self, Error> {
        let options = PgConnectOptions::from_str(url)
            .map_err(|_| Error::Address("the postgres:// address is malformed".to_owned()))?
            .application_name("backlot");
        look_at_server(&options).await?;
        let pool = PgPoolOptions::new().max_connections(16).acquire_timeout(PATIENCE).connect_with(options).await?;
        let (signals, _) = broadcast::channel(BACKLOG);
        let mut listener = PgListener::connect_with(&pool).await?;
        listener.listen(CHANNEL).await?;
        let forwarding = tokio::spawn(forward_signals(listener, signals.clone()));
        Ok(Self { pool, signals, forwarding })
    }

    pub(crate) async fn read(&self) -> Result<Connection, Error> {
        Ok(Connection::new(EngineConnection::Postgres(self.pool.acquire().await?)))
    }

    pub(crate) async fn write<T, E, F>(&self, work: F) -> Result<T, E>
    where
        F: for<'t> FnOnce(&'t mut Tx) -> BoxFuture<'t, Result<T, E>> + Send,
        E: From<Error>,
    {
        let connection = self.read().await?;
        // The guard closes the connection when the caller is dropped in the middle or the end goes wrong: without it
        // the connection would return to the pool with an open transaction.
        let mut guard = Unfinished(Some(Tx::new(connection)));
        let Some(tx) = guard.0.as_mut() else { return Err(Error::Closed.into()) };
        tx.control("BEGIN").await?;
        let result = match work(tx).await {
            // PostgreSQL answers a COMMIT after a failed statement with a silent rollback.
            Ok(_) if tx.take_failure() => Err(Error::Aborted.into()),
            result => result,
        };
        if result.is_ok() {
            for signal in std::mem::take(&mut tx.signals) {
                tx.execute("SELECT pg_notify($1, $2)", crate::args![CHANNEL, signal.encode()]).await?;
            }
            tx.control("COMMIT").await.map_err(|error| Error::Commit(error.to_string()))?;
        } else if tx.control("ROLLBACK").await.is_err() {
            return result;
        }
        drop(guard.0.take());
        result
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        self.forwarding.abort();
    }
}

/// A transaction that was not brought to its end: its connection is closed instead of reused.
struct Unfinished(Option<Tx>);

impl Drop for Unfinished {
    fn drop(&mut self) {
        if let Some(tx) = self.0.take()
            && let EngineConnection::Postgres(connection) = tx.connection.inner
        {
            drop(connection.detach());
        }
    }
}

/// Connects once to see whether that works: a pool would try again and again, and in the end tell of a time-out.
async fn look_at_server(options: &PgConnectOptions) -> Result<(), Error> {
    /// PostgreSQL 14, in the server's own notation.
    const OLDEST: i32 = 140_000;
    let unreachable = |error: sqlx::Error| Error::Address(format!("no connection to PostgreSQL: {error}"));
    let connecting = tokio::time::timeout(PATIENCE, PgConnection::connect_with(options));
    let mut connection = connecting.await.map_err(|_| unreachable(sqlx::Error::PoolTimedOut))?.map_err(unreachable)?;
    let version: String = sqlx::query_scalar("SHOW server_version_num").fetch_one(&mut connection).await?;
    connection.close().await?;
    match version.parse::<i32>() {
        Ok(number) if number < OLDEST => {
            Err(Error::Address(format!("the server is PostgreSQL {}, but 14 or newer is needed", number / 10_000)))
        }
        _ => Ok(()),
    }
}

async fn forward_signals(mut listener: PgListener, signals: broadcast::Sender<Signal>) {
    loop {
        match listener.recv().await {
            Ok(notification) => {
                let _nobody_listens = signals.send(Signal::decode(notification.payload()));
            }
            // The listener reconnects by itself at the next call.
            Err(sqlx::Error::PoolClosed) => return,
            Err(error) => {
                tracing::warn!(%error, "lost the database's notifications; reconnecting");
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        }
    }
}
