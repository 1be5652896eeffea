//! Every query on the journal's tables.

use backlot_db::{Connection, Row, Tx, args, dialect};
use serde_json::Value;

use super::{Body, CallUsage, DailyUsage, Event, Filter, Run, Status, UsageTotals};
use crate::{
    Error, Timestamp,
    page::{Page, Window},
};

/// The columns of a run, in every query that reads one.
macro_rules! run_query {
    ($rest:literal) => {
        concat!(
            "SELECT id, account_id, kind, subject, session, parent_id, status, input, output, error, epoch, deadline_at, \
             input_tokens, output_tokens, cost_nano_usd, unpriced_calls, model_calls, created_at, started_at, ended_at \
             FROM runs ",
            $rest
        )
    };
}

fn corrupt(run: &str, column: &str, reason: impl std::fmt::Display) -> Error {
    Error::internal(anyhow::anyhow!("table `runs`, column `{column}`, row `{run}`: {reason}"))
}

fn run_from(row: &Row) -> Result<Run, Error> {
    let id = row.text("id")?;
    let json = |column: &str| -> Result<Option<Value>, Error> {
        row.opt_text(column)?
            .map(|text| serde_json::from_str(&text).map_err(|error| corrupt(&id, column, error)))
            .transpose()
    };
    let status = row.text("status")?;
    Ok(Run {
        account_id: row.text("account_id")?,
        kind: row.text("kind")?,
        subject: row.text("subject")?,
        session: row.opt_text("session")?,
        parent_id: row.opt_text("parent_id")?,
        status: Status::parse(&status).ok_or_else(|| corrupt(&id, "status", status))?,
        input: json("input")?.unwrap_or_default(),
        output: json("output")?,
        error: json("error")?
            .map(|value| serde_json::from_value(value).map_err(|error| corrupt(&id, "error", error)))
            .transpose()?,
        epoch: row.int("epoch")?,
        deadline_at: row.opt_int("deadline_at")?.map(Timestamp),
        usage: UsageTotals {
            input_tokens: row.count("input_tokens")?,
            output_tokens: row.count("output_tokens")?,
            cost_nano_usd: row.count("cost_nano_usd")?,
            unpriced_calls: row.count("unpriced_calls")?,
            model_calls: row.count("model_calls")?,
        },
        created_at: Timestamp(row.int("created_at")?),
        started_at: row.opt_int("started_at")?.map(Timestamp),
        ended_at: row.opt_int("ended_at")?.map(Timestamp),
        id,
    })
}

pub(super) async fn find(connection: &mut Connection, id: &str) -> Result<Option<Run>, Error> {
    connection.first(run_query!("WHERE id = $1"), args![id]).await?.as_ref().map(run_from).transpose()
}

pub(super) async fn insert(tx: &mut Tx, run: &Run) -> Result<(), Error> {
    tx.execute(
        "INSERT INTO runs (id, account_id, kind, subject, session, parent_id, status, input, next_seq, epoch, \
         stop_requested, deadline_at, input_tokens, output_tokens, cost_nano_usd, unpriced_calls, model_calls, created_at) \
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, 1, 0, FALSE, $9, 0, 0, 0, 0, 0, $10)",
        args![
            &run.id,
            &run.account_id,
            &run.kind,
            &run.subject,
            run.session.clone(),
            run.parent_id.clone(),
            run.status.as_str(),
            run.input.to_string(),
            run.deadline_at.map(|at| at.0),
            run.created_at.0
        ],
    )
    .await?;
    Ok(())
}

pub(super) async fn find_by_idempotency_key(
    tx: &mut Tx,
    account_id: &str,
    key: &str,
    not_before: i64,
) -> Result<Option<Run>, Error> {
    let row = tx
        .first(
            "SELECT run_id FROM idempotency_keys WHERE account_id = $1 AND key = $2 AND created_at >= $3",
            args![account_id, key, not_before],
        )
        .await?;
    match row {
        Some(row) => find(tx, &row.text("run_id")?).await,
        None => Ok(None),
    }
}

pub(super) async fn remember_idempotency_key(tx: &mut Tx, run: &Run, key: &str) -> Result<(), Error> {
    tx.execute(
        "INSERT INTO idempotency_keys (account_id, key, run_id, created_at) VALUES ($1, $2, $3, $4) \
         ON CONFLICT (account_id, key) DO UPDATE SET run_id = excluded.run_id, created_at = excluded.created_at",
        args![&run.account_id, key, &run.id, run.created_at.0],
    )
    .await?;
    Ok(())
}

/// Which runs wait: queued ones, and running ones whose lease at the time `$1` is over, of the kinds `$2` (`,a,b,`), but
/// not those that this process itself executes (`$3`, `,a,b,`). A lease may run out while its holder is alive and well:
/// the machine slept, or its clock was put forward. Another node may take the run then; the holder must not, since it
/// would execute the run beside itself.
macro_rules! waiting {
    () => {
        "(status = 'queued' OR (status = 'running' AND lease_until < $1 AND $3 NOT LIKE '%,' || id || ',%')) \
         AND $2 LIKE '%,' || kind || ',%'"
    };
}

/// Picks the next waiting run: that of the account with the fewest running runs; among several such accounts, of the one
/// that was served longest ago; and among an account's runs the oldest.
macro_rules! candidate {
    ($lock:literal) => {
        concat!(
            "WITH waiting AS ( \
                SELECT account_id, MIN(created_at) AS oldest FROM runs WHERE ",
            waiting!(),
            " GROUP BY account_id), \
             busy AS ( \
                SELECT account_id, COUNT(*) AS running FROM runs \
                WHERE status = 'running' AND lease_until >= $1 GROUP BY account_id) \
             SELECT id FROM runs WHERE account_id = ( \
                SELECT waiting.account_id FROM waiting LEFT JOIN busy ON busy.account_id = waiting.account_id \
                ORDER BY COALESCE(busy.running, 0), \
                COALESCE((SELECT MAX(served.started_at) FROM runs AS served \
                    WHERE served.account_id = waiting.account_id), 0), \
                waiting.oldest, waiting.account_id LIMIT 1) AND ",
            waiting!(),
            " ORDER BY created_at, id LIMIT 1",
            $lock
        )
    };
}

/// Claims the next waiting run of one of `kinds` (`,a,b,`), but none of `executing` (`,a,b,`).
pub(super) async fn claim(
    tx: &mut Tx,
    kinds: &str,
    executing: &str,
    worker: &str,
    now: Timestamp,
    lease_until: Timestamp,
) -> Result<Option<Run>, Error> {
    let text = dialect::claim(tx.engine(), candidate!(""), candidate!(" FOR UPDATE SKIP LOCKED"));
    let Some(candidate) = tx.first(text, args![now.0, kinds, executing]).await? else { return Ok(None) };
    let id = candidate.text("id")?;
    tx.execute(
        "UPDATE runs SET status = 'running', worker = $2, epoch = epoch + 1, lease_until = $3, \
         started_at = COALESCE(started_at, $4) WHERE id = $1",
        args![&id, worker, lease_until.0, now.0],
    )
    .await?;
    find(tx, &id).await
}

/// Makes the claims of every other worker void. Only right where no other process can be alive.
pub(super) async fn expire_foreign_leases(tx: &mut Tx, worker: &str) -> Result<u64, Error> {
    Ok(tx.execute("UPDATE runs SET lease_until = 0 WHERE status = 'running' AND worker <> $1", args![worker]).await?)
}

/// Prolongs the claims of a worker on the runs that it executes (`,a,b,`), and tells which of them it still has. What it
/// claimed and could not execute is left to run out.
pub(super) async fn renew_leases(
    tx: &mut Tx,
    worker: &str,
    executing: &str,
    lease_until: Timestamp,
) -> Result<Vec<(String, i64)>, Error> {
    let rows = tx
        .all(
            "UPDATE runs SET lease_until = $2 WHERE worker = $1 AND status = 'running' \
             AND $3 LIKE '%,' || id || ',%' RETURNING id, epoch",
            args![worker, lease_until.0, executing],
        )
        .await?;
    rows.iter().map(|row| Ok((row.text("id")?, row.int("epoch")?))).collect()
}

/// Which of a worker's runs somebody wants stopped.
pub(super) async fn stop_requests(connection: &mut Connection, worker: &str) -> Result<Vec<String>, Error> {
    let rows = connection
        .all("SELECT id FROM runs WHERE status = 'running' AND worker = $1 AND stop_requested", args![worker])
        .await?;
    rows.iter().map(|row| Ok(row.text("id")?)).collect()
}

pub(super) async fn request_stop(tx: &mut Tx, id: &str) -> Result<(), Error> {
    tx.execute("UPDATE runs SET stop_requested = TRUE WHERE id = $1", args![id]).await?;
    Ok(())
}

/// A run and all its descendants that have not ended.
pub(super) async fn open_tree(tx: &mut Tx, root: &str) -> Result<Vec<Run>, Error> {
    tx.all(
        run_query!(
            "WHERE status IN ('queued', 'running') AND id IN ( \
             WITH RECURSIVE tree AS ( \
                 SELECT id FROM runs AS root WHERE root.id = $1 \
                 UNION ALL SELECT child.id FROM runs AS child JOIN tree ON child.parent_id = tree.id) \
             SELECT id FROM tree)"
        ),
        args![root],
    )
    .await?
    .iter()
    .map(run_from)
    .collect()
}

/// Appends an event to a run that is claimed with this epoch. `None`: the claim is lost or the run has ended.
pub(super) async fn append(
    tx: &mut Tx,
    id: &str,
    epoch: i64,
    now: Timestamp,
    body: Body,
) -> Result<Option<Event>, Error> {
    let row = tx
        .first(
            "UPDATE runs SET next_seq = next_seq + 1 WHERE id = $1 AND epoch = $2 AND status = 'running' \
             RETURNING next_seq - 1 AS seq, account_id",
            args![id, epoch],
        )
        .await?;
    match row {
        Some(row) => insert_event(tx, id, &row, now, body).await.map(Some),
        None => Ok(None),
    }
}

/// Appends an event to a run that is running, whoever has it. `None`: it does not run.
pub(super) async fn append_if_open(tx: &mut Tx, id: &str, now: Timestamp, body: Body) -> Result<Option<Event>, Error> {
    let row = tx
        .first(
            "UPDATE runs SET next_seq = next_seq + 1 WHERE id = $1 AND status = 'running' \
             RETURNING next_seq - 1 AS seq, account_id",
            args![id],
        )
        .await?;
    match row {
        Some(row) => insert_event(tx, id, &row, now, body).await.map(Some),
        None => Ok(None),
    }
}

async fn insert_event(tx: &mut Tx, id: &str, row: &Row, at: Timestamp, body: Body) -> Result<Event, Error> {
    let seq = row.int("seq")?;
    let payload = serde_json::to_value(&body).map_err(Error::internal)?;
    let kind = payload.get("kind").and_then(Value::as_str).unwrap_or_default().to_owned();
    tx.execute(
        "INSERT INTO run_events (run_id, seq, account_id, at, kind, payload) VALUES ($1, $2, $3, $4, $5, $6)",
        args![id, seq, row.text("account_id")?, at.0, kind, payload.to_string()],
    )
    .await?;
    tx.signal("run", id);
    Ok(Event { seq, at, body })
}

/// Ends a run that is claimed with this epoch. `None`: the claim is lost or the run has ended already.
pub(super) async fn end(
    tx: &mut Tx,
    id: &str,
    epoch: i64,
    now: Timestamp,
    body: Body,
    output: Option<Value>,
) -> Result<Option<(Run, Event)>, Error> {
    let Some(event) = append(tx, id, epoch, now, body).await? else { return Ok(None) };
    close(tx, id, now, &event.body, output).await.map(|run| run.map(|run| (run, event)))
}

/// Ends a run that nobody has claimed. `None`: somebody has.
pub(super) async fn end_queued(
    tx: &mut Tx,
    id: &str,
    now: Timestamp,
    body: Body,
) -> Result<Option<(Run, Event)>, Error> {
    let row = tx
        .first(
            "UPDATE runs SET next_seq = next_seq + 1 WHERE id = $1 AND status = 'queued' \
             RETURNING next_seq - 1 AS seq, account_id",
            args![id],
        )
        .await?;
    let Some(row) = row else { return Ok(None) };
    let event = insert_event(tx, id, &row, now, body).await?;
    close(tx, id, now, &event.body, None).await.map(|run| run.map(|run| (run, event)))
}

async fn close(
    tx: &mut Tx,
    id: &str,
    now: Timestamp,
    body: &Body,
    output: Option<Value>,
) -> Result<Option<Run>, Error> {
    let (status, failure) = match body {
        Body::Failed { failure } => (Status::Failed, Some(failure)),
        Body::Stopped => (Status::Stopped, None),
        _ => (Status::Completed, None),
    };
    let error = failure.map(serde_json::to_string).transpose().map_err(Error::internal)?;
    tx.execute(
        "UPDATE runs SET status = $2, output = $3, error = $4, ended_at = $5, lease_until = NULL WHERE id = $1",
        args![id, status.as_str(), output.map(|output| output.to_string()), error, now.0],
    )
    .await?;
    find(tx, id).await
}

/// Whether a run of a kind has not ended, whosever it is.
pub(super) async fn is_any_open(connection: &mut Connection, kind: &str) -> Result<bool, Error> {
    let row = connection
        .first("SELECT id FROM runs WHERE status IN ('queued', 'running') AND kind = $1 LIMIT 1", args![kind])
        .await?;
    Ok(row.is_some())
}

/// Queued runs past their deadline.
pub(super) async fn overdue(connection: &mut Connection, now: Timestamp) -> Result<Vec<String>, Error> {
    let rows = connection
        .all(
            "SELECT id FROM runs WHERE status = 'queued' AND deadline_at IS NOT NULL AND deadline_at < $1 LIMIT 100",
            args![now.0],
        )
        .await?;
    rows.iter().map(|row| Ok(row.text("id")?)).collect()
}

pub(super) async fn events_after(
    connection: &mut Connection,
    run_id: &str,
    after: i64,
    limit: u32,
) -> Result<Vec<Event>, Error> {
    let rows = connection
        .all(
            "SELECT seq, at, payload FROM run_events WHERE run_id = $1 AND seq > $2 ORDER BY seq LIMIT $3",
            args![run_id, after, limit],
        )
        .await?;
    rows.iter()
        .map(|row| {
            let seq = row.int("seq")?;
            let body = serde_json::from_str(&row.text("payload")?).map_err(|error| {
                Error::internal(anyhow::anyhow!("table `run_events`, column `payload`, row `{run_id}` {seq}: {error}"))
            })?;
            Ok(Event { seq, at: Timestamp(row.int("at")?), body })
        })
        .collect()
}

/// The recorded steps of a run and the number of its text blocks, which is what a resumed execution needs.
pub(super) async fn recorded(connection: &mut Connection, run_id: &str) -> Result<Vec<Event>, Error> {
    let rows = connection
        .all(
            "SELECT seq, at, payload FROM run_events WHERE run_id = $1 \
             AND kind IN ('step_started', 'step_finished', 'text') ORDER BY seq",
            args![run_id],
        )
        .await?;
    rows.iter()
        .map(|row| {
            let body = serde_json::from_str(&row.text("payload")?)
                .map_err(|error| corrupt(run_id, "run_events.payload", error))?;
            Ok(Event { seq: row.int("seq")?, at: Timestamp(row.int("at")?), body })
        })
        .collect()
}

pub(super) async fn add_usage(tx: &mut Tx, run_id: &str, usage: CallUsage) -> Result<(), Error> {
    tx.execute(
        "UPDATE runs SET input_tokens = input_tokens + $2, output_tokens = output_tokens + $3, \
         cost_nano_usd = cost_nano_usd + $4, unpriced_calls = unpriced_calls + $5, model_calls = model_calls + 1 \
         WHERE id IN ( \
             WITH RECURSIVE up AS ( \
                 SELECT own.id, own.parent_id FROM runs AS own WHERE own.id = $1 \
                 UNION ALL SELECT parent.id, parent.parent_id FROM runs AS parent JOIN up ON parent.id = up.parent_id) \
             SELECT id FROM up)",
        args![
            run_id,
            usage.input_tokens,
            usage.output_tokens,
            usage.cost_nano_usd.unwrap_or(0),
            u32::from(usage.cost_nano_usd.is_none())
        ],
    )
    .await?;
    Ok(())
}

/// Adds an ended run to its account's day.
pub(super) async fn add_to_day(tx: &mut Tx, run: &Run, now: Timestamp) -> Result<(), Error> {
    tx.execute(
        "INSERT INTO usage_daily (account_id, date, subject, runs, input_tokens, output_tokens, cost_nano_usd, unpriced_calls) \
         VALUES ($1, $2, $3, 1, $4, $5, $6, $7) \
         ON CONFLICT (account_id, date, subject) DO UPDATE SET runs = usage_daily.runs + 1, \
         input_tokens = usage_daily.input_tokens + excluded.input_tokens, \
         output_tokens = usage_daily.output_tokens + excluded.output_tokens, \
         cost_nano_usd = usage_daily.cost_nano_usd + excluded.cost_nano_usd, \
         unpriced_calls = usage_daily.unpriced_calls + excluded.unpriced_calls",
        args![
            &run.account_id,
            now.date(),
            &run.subject,
            run.usage.input_tokens,
            run.usage.output_tokens,
            run.usage.cost_nano_usd,
            run.usage.unpriced_calls
        ],
    )
    .await?;
    Ok(())
}

pub(super) async fn daily_usage(
    connection: &mut Connection,
    account_id: &str,
    from_date: &str,
    subject: Option<&str>,
) -> Result<Vec<DailyUsage>, Error> {
    let rows = connection
        .all(
            "SELECT date, CAST(SUM(runs) AS BIGINT) AS runs, CAST(SUM(input_tokens) AS BIGINT) AS input_tokens, \
             CAST(SUM(output_tokens) AS BIGINT) AS output_tokens, CAST(SUM(cost_nano_usd) AS BIGINT) AS cost_nano_usd, \
             CAST(SUM(unpriced_calls) AS BIGINT) AS unpriced_calls FROM usage_daily \
             WHERE account_id = $1 AND date >= $2 AND ($3 IS NULL OR subject = $3) GROUP BY date ORDER BY date",
            args![account_id, from_date, subject],
        )
        .await?;
    rows.iter()
        .map(|row| {
            Ok(DailyUsage {
                date: row.text("date")?,
                runs: row.count("runs")?,
                totals: UsageTotals {
                    input_tokens: row.count("input_tokens")?,
                    output_tokens: row.count("output_tokens")?,
                    cost_nano_usd: row.count("cost_nano_usd")?,
                    unpriced_calls: row.count("unpriced_calls")?,
                    model_calls: 0,
                },
            })
        })
        .collect()
}

/// The conditions of [`list`], with the parameters `$1` … `$7`.
macro_rules! filtered {
    ($head:expr, $tail:literal) => {
        concat!(
            $head,
            " WHERE account_id = $1 AND kind = $2 AND ($3 IS NULL OR subject = $3) AND ($4 IS NULL OR session = $4) \
             AND ($5 = '' OR $5 LIKE '%,' || status || ',%') AND ($6 IS NULL OR created_at >= $6) \
             AND ($7 IS NULL OR created_at < $7)",
            $tail
        )
    };
}

pub(super) async fn list(connection: &mut Connection, filter: &Filter, window: Window) -> Result<Page<Run>, Error> {
    let statuses: String = if filter.statuses.is_empty() {
        String::new()
    } else {
        filter.statuses.iter().fold(String::from(","), |list, status| list + status.as_str() + ",")
    };
    let parameters = || {
        args![
            &filter.account_id,
            filter.kind,
            filter.subject.clone(),
            filter.session.clone(),
            &statuses,
            filter.since.map(|at| at.0),
            filter.until.map(|at| at.0)
        ]
    };
    let total = connection
        .first(filtered!("SELECT COUNT(*) AS total FROM runs", ""), parameters())
        .await?
        .map(|row| row.count("total"))
        .transpose()?
        .unwrap_or(0);
    let mut with_window = parameters();
    with_window.extend(args![window.limit, window.offset]);
    let rows = connection
        .all(filtered!(run_query!(""), " ORDER BY created_at DESC, id DESC LIMIT $8 OFFSET $9"), with_window)
        .await?;
    let items = rows.iter().map(run_from).collect::<Result<_, _>>()?;
    Ok(Page { items, total, window })
}

/// Removes every run of a subject, for when the subject itself is removed. Daily usage stays.
pub(super) async fn delete_of_subject(tx: &mut Tx, account_id: &str, subject: &str) -> Result<(), Error> {
    tx.execute("DELETE FROM runs WHERE account_id = $1 AND subject = $2", args![account_id, subject]).await?;
    Ok(())
}
