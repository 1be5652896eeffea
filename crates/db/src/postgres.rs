//! PostgreSQL: a pool, plain transactions, and one listener for signals.

use std::{str::FromStr, time::Duration};

use futures::future::BoxFuture;
use sqlx::{
    PgPool,
    postgres::{PgConnectOptions, PgListener, PgPoolOptions},
};
use tokio::sync::broadcast;

use crate::{
    Connection, Error, Signal, Tx,
    connection::EngineConnection,
    signal::BACKLOG,
};

/// The `NOTIFY` channel that carries all signals.
const CHANNEL: &str = "backlot";

pub(crate) struct Postgres {
    pub(crate) pool: PgPool,
    pub(crate) signals: broadcast::Sender<Signal>,
}

impl Postgres {
    pub(crate) async fn open(url: &str) -> Result<Self, Error> {
        let options = PgConnectOptions::from_str(url)
            .map_err(|_| Error::Address("the postgres:// address is malformed".to_owned()))?
            .application_name("backlot");
        let pool = PgPoolOptions::new()
            .max_connections(16)
            .acquire_timeout(Duration::from_secs(10))
            .connect_with(options)
            .await?;
        let (signals, _) = broadcast::channel(BACKLOG);
        let mut listener = PgListener::connect_with(&pool).await?;
        listener.listen(CHANNEL).await?;
        tokio::spawn(forward_signals(listener, signals.clone()));
        Ok(Self { pool, signals })
    }

    pub(crate) async fn read(&self) -> Result<Connection, Error> {
        Ok(Connection { inner: EngineConnection::Postgres(self.pool.acquire().await?) })
    }

    pub(crate) async fn write<T, E, F>(&self, work: F) -> Result<T, E>
    where
        F: for<'t> FnOnce(&'t mut Tx) -> BoxFuture<'t, Result<T, E>> + Send,
        E: From<Error>,
    {
        let connection = self.read().await?;
        // The guard rolls back when the caller is dropped in the middle: without it the connection would
        // return to the pool with an open transaction.
        let mut guard = Unfinished(Some(Tx::new(connection)));
        let Some(tx) = guard.0.as_mut() else { return Err(Error::Closed.into()) };
        tx.execute("BEGIN", vec![]).await?;
        let result = work(tx).await;
        if result.is_ok() {
            for signal in std::mem::take(&mut tx.signals) {
                tx.execute("SELECT pg_notify($1, $2)", crate::args![CHANNEL, signal.encode()]).await?;
            }
            tx.execute("COMMIT", vec![]).await?;
        } else {
            tx.execute("ROLLBACK", vec![]).await?;
        }
        drop(guard.0.take());
        result
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
