//! Every query on `model_calls`.
//!
//! A row is written when the call begins, with status [`OPEN`] and the guessed input, and completed when it ends. A
//! row that is open although nobody works on its call is a call *in doubt*: see `recovery`.

use backlot_db::{Connection, Row, Tx, args};
use backlot_models::Usage;

use crate::{Error, Timestamp};

/// Status of a call that has not ended.
pub(super) const OPEN: u16 = 0;
/// Status of a call whose end nobody saw, because the server died during it.
pub(super) const IN_DOUBT: u16 = 599;

/// A call that begins.
#[derive(Debug, Clone)]
pub(super) struct Opened {
    pub(super) id: String,
    pub(super) account_id: String,
    pub(super) run_id: Option<String>,
    pub(super) provider: String,
    pub(super) model: String,
    /// The guessed input.
    pub(super) input_tokens: u64,
    pub(super) began: Timestamp,
}

/// A call that has ended.
#[derive(Debug, Clone)]
pub(super) struct Ended {
    pub(super) model: String,
    pub(super) usage: Usage,
    pub(super) cost_nano_usd: Option<u64>,
    pub(super) estimated: bool,
    pub(super) status: u16,
    pub(super) duration_ms: u64,
}

macro_rules! insert {
    ($conflict:literal) => {
        concat!(
            "INSERT INTO model_calls (id, account_id, run_id, provider, model, input_tokens, output_tokens, cache_read, \
             cache_write_5m, cache_write_1h, reasoning, cost_nano_usd, estimated, status, duration_ms, created_at) \
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16) ON CONFLICT (id) DO ",
            $conflict
        )
    };
}

pub(super) async fn insert_open(tx: &mut Tx, call: &Opened) -> Result<(), Error> {
    let none_yet: Option<u64> = None;
    tx.execute(
        insert!("NOTHING"),
        args![
            &call.id,
            &call.account_id,
            call.run_id.clone(),
            &call.provider,
            &call.model,
            call.input_tokens,
            0_u64,
            0_u64,
            0_u64,
            0_u64,
            0_u64,
            none_yet,
            true,
            u32::from(OPEN),
            0_u64,
            call.began.0
        ],
    )
    .await?;
    Ok(())
}

/// Completes a call. Tells whether it was open: a call is never booked twice.
pub(super) async fn close(tx: &mut Tx, call: &Opened, end: &Ended) -> Result<bool, Error> {
    let changed = tx
        .execute(
            insert!(
                "UPDATE SET model = excluded.model, input_tokens = excluded.input_tokens, \
                 output_tokens = excluded.output_tokens, cache_read = excluded.cache_read, \
                 cache_write_5m = excluded.cache_write_5m, cache_write_1h = excluded.cache_write_1h, \
                 reasoning = excluded.reasoning, cost_nano_usd = excluded.cost_nano_usd, \
                 estimated = excluded.estimated, status = excluded.status, duration_ms = excluded.duration_ms \
                 WHERE model_calls.status = 0"
            ),
            args![
                &call.id,
                &call.account_id,
                call.run_id.clone(),
                &call.provider,
                &end.model,
                end.usage.input,
                end.usage.output,
                end.usage.cache_read,
                end.usage.cache_write_5m,
                end.usage.cache_write_1h,
                end.usage.reasoning,
                end.cost_nano_usd,
                end.estimated,
                u32::from(end.status),
                end.duration_ms,
                call.began.0
            ],
        )
        .await?;
    Ok(changed > 0)
}

macro_rules! open_calls {
    ($condition:literal) => {
        concat!(
            "SELECT id, account_id, run_id, provider, model, input_tokens, created_at FROM model_calls \
             WHERE status = 0 AND created_at < $1",
            $condition,
            " ORDER BY created_at LIMIT 500"
        )
    };
}

/// Calls that began before a moment and have not ended, of one run or of all.
pub(super) async fn open_before(
    connection: &mut Connection,
    before: Timestamp,
    run_id: Option<&str>,
) -> Result<Vec<Opened>, Error> {
    let rows = match run_id {
        Some(run_id) => connection.all(open_calls!(" AND run_id = $2"), args![before.0, run_id]).await?,
        None => connection.all(open_calls!(""), args![before.0]).await?,
    };
    rows.iter().map(opened_from).collect()
}

fn opened_from(row: &Row) -> Result<Opened, Error> {
    Ok(Opened {
        id: row.text("id")?,
        account_id: row.text("account_id")?,
        run_id: row.opt_text("run_id")?,
        provider: row.text("provider")?,
        model: row.text("model")?,
        input_tokens: row.count("input_tokens")?,
        began: Timestamp(row.int("created_at")?),
    })
}

/// One row of `model_calls`, for the operator and for tests.
pub(super) async fn list(connection: &mut Connection, account_id: &str, limit: u32) -> Result<Vec<super::Call>, Error> {
    let rows = connection
        .all(
            "SELECT id, run_id, provider, model, input_tokens, output_tokens, cache_read, cache_write_5m, cache_write_1h, \
             reasoning, cost_nano_usd, estimated, status, duration_ms, created_at FROM model_calls \
             WHERE account_id = $1 ORDER BY created_at DESC, id DESC LIMIT $2",
            args![account_id, limit],
        )
        .await?;
    rows.iter()
        .map(|row| {
            let cost = row.opt_int("cost_nano_usd")?;
            Ok(super::Call {
                id: row.text("id")?,
                run_id: row.opt_text("run_id")?,
                provider: row.text("provider")?,
                model: row.text("model")?,
                usage: Usage {
                    input: row.count("input_tokens")?,
                    output: row.count("output_tokens")?,
                    cache_read: row.count("cache_read")?,
                    cache_write_5m: row.count("cache_write_5m")?,
                    cache_write_1h: row.count("cache_write_1h")?,
                    reasoning: row.count("reasoning")?,
                },
                cost_nano_usd: cost.and_then(|cost| u64::try_from(cost).ok()),
                estimated: row.bool("estimated")?,
                status: u16::try_from(row.int("status")?).ok().filter(|status| *status != OPEN),
                duration_ms: row.count("duration_ms")?,
                created_at: Timestamp(row.int("created_at")?),
            })
        })
        .collect()
}
