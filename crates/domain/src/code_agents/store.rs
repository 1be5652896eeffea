//! Every query on the tables of code agents.

use backlot_db::{Connection, Engine, Row, Tx, args, dialect};
use serde_json::Value;

use super::{Agent, AgentStatus, NetworkMode, Session, SourceType};
use crate::{
    Error, Timestamp,
    page::{Page, Window},
};

macro_rules! agent_query {
    ($rest:literal) => {
        concat!(
            "SELECT id, account_id, name, slug, description, source_type, git_repo_url, git_branch, source_hash, \
             pending_source, default_model, max_turns, timeout_seconds, agent_config, network, status, status_message, \
             sandbox_id, release_id, start_failures, created_at, updated_at FROM agents ",
            $rest
        )
    };
}

fn corrupt(row: &str, column: &str, reason: impl std::fmt::Display) -> Error {
    Error::internal(anyhow::anyhow!("table `agents` or `releases`, column `{column}`, row `{row}`: {reason}"))
}

fn agent_from(row: &Row) -> Result<Agent, Error> {
    let id = row.text("id")?;
    let small = |column: &str| -> Result<u32, Error> {
        u32::try_from(row.count(column)?).map_err(|error| corrupt(&id, column, error))
    };
    Ok(Agent {
        account_id: row.text("account_id")?,
        name: row.text("name")?,
        slug: row.text("slug")?,
        description: row.opt_text("description")?,
        source_type: row.text("source_type")?.parse::<SourceType>().map_err(|e| corrupt(&id, "source_type", e))?,
        git_repo_url: row.opt_text("git_repo_url")?,
        git_branch: row.text("git_branch")?,
        source_hash: row.opt_text("source_hash")?,
        default_model: row.text("default_model")?,
        max_turns: small("max_turns")?,
        timeout_seconds: small("timeout_seconds")?,
        config: serde_json::from_str(&row.text("agent_config")?).map_err(|e| corrupt(&id, "agent_config", e))?,
        network: row.text("network")?.parse::<NetworkMode>().map_err(|e| corrupt(&id, "network", e))?,
        status: row.text("status")?.parse::<AgentStatus>().map_err(|e| corrupt(&id, "status", e))?,
        status_message: row.opt_text("status_message")?,
        sandbox_id: row.opt_text("sandbox_id")?,
        release_id: row.opt_text("release_id")?,
        pending_source: row.opt_text("pending_source")?,
        start_failures: small("start_failures")?,
        created_at: Timestamp(row.int("created_at")?),
        updated_at: Timestamp(row.int("updated_at")?),
        id,
    })
}

pub(super) async fn insert(tx: &mut Tx, agent: &Agent) -> Result<(), backlot_db::Error> {
    let config = serde_json::to_string(&agent.config).unwrap_or_else(|_| String::from("{}"));
    tx.execute(
        "INSERT INTO agents (id, account_id, name, slug, description, source_type, git_repo_url, git_branch, source_hash, \
         pending_source, default_model, max_turns, timeout_seconds, agent_config, network, status, status_message, \
         sandbox_id, release_id, start_failures, created_at, updated_at) \
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20, $21, $22)",
        args![
            &agent.id,
            &agent.account_id,
            &agent.name,
            &agent.slug,
            agent.description.clone(),
            agent.source_type.as_str(),
            agent.git_repo_url.clone(),
            &agent.git_branch,
            agent.source_hash.clone(),
            agent.pending_source.clone(),
            &agent.default_model,
            agent.max_turns,
            agent.timeout_seconds,
            config,
            agent.network.as_str(),
            agent.status.as_str(),
            agent.status_message.clone(),
            agent.sandbox_id.clone(),
            agent.release_id.clone(),
            agent.start_failures,
            agent.created_at.0,
            agent.updated_at.0
        ],
    )
    .await?;
    Ok(())
}

/// Writes what its owner decides.
pub(super) async fn update_settings(tx: &mut Tx, agent: &Agent) -> Result<(), Error> {
    let config = serde_json::to_string(&agent.config).map_err(Error::internal)?;
    tx.execute(
        "UPDATE agents SET name = $2, description = $3, source_type = $4, git_repo_url = $5, git_branch = $6, \
         default_model = $7, max_turns = $8, timeout_seconds = $9, agent_config = $10, network = $11, updated_at = $12 \
         WHERE id = $1",
        args![
            &agent.id,
            &agent.name,
            agent.description.clone(),
            agent.source_type.as_str(),
            agent.git_repo_url.clone(),
            &agent.git_branch,
            &agent.default_model,
            agent.max_turns,
            agent.timeout_seconds,
            config,
            agent.network.as_str(),
            agent.updated_at.0
        ],
    )
    .await?;
    Ok(())
}

/// Writes what deployments decide.
pub(super) async fn update_state(tx: &mut Tx, agent: &Agent) -> Result<(), Error> {
    tx.execute(
        "UPDATE agents SET source_type = $2, source_hash = $3, pending_source = $4, status = $5, status_message = $6, \
         sandbox_id = $7, release_id = $8, start_failures = $9, updated_at = $10 WHERE id = $1",
        args![
            &agent.id,
            agent.source_type.as_str(),
            agent.source_hash.clone(),
            agent.pending_source.clone(),
            agent.status.as_str(),
            agent.status_message.clone(),
            agent.sandbox_id.clone(),
            agent.release_id.clone(),
            agent.start_failures,
            agent.updated_at.0
        ],
    )
    .await?;
    Ok(())
}

/// Tells how far a deployment is, for people who look at the agent.
pub(super) async fn set_status_message(tx: &mut Tx, id: &str, message: &str) -> Result<(), Error> {
    tx.execute("UPDATE agents SET status_message = $2 WHERE id = $1", args![id, message]).await?;
    Ok(())
}

/// A sandbox has started again.
pub(super) async fn forget_start_failures(tx: &mut Tx, id: &str) -> Result<(), Error> {
    tx.execute("UPDATE agents SET start_failures = 0 WHERE id = $1", args![id]).await?;
    Ok(())
}

/// Counts a failure to start a sandbox, and tells how many there were in a row.
pub(super) async fn count_start_failure(tx: &mut Tx, id: &str) -> Result<u64, Error> {
    let row = tx
        .first(
            "UPDATE agents SET start_failures = start_failures + 1 WHERE id = $1 RETURNING start_failures",
            args![id],
        )
        .await?;
    row.map_or(Ok(0), |row| Ok(row.count("start_failures")?))
}

pub(super) async fn find_by_slug(
    connection: &mut Connection,
    account_id: &str,
    slug: &str,
) -> Result<Option<Agent>, Error> {
    connection
        .first(agent_query!("WHERE account_id = $1 AND slug = $2"), args![account_id, slug])
        .await?
        .as_ref()
        .map(agent_from)
        .transpose()
}

pub(super) async fn find(connection: &mut Connection, id: &str) -> Result<Option<Agent>, Error> {
    connection.first(agent_query!("WHERE id = $1"), args![id]).await?.as_ref().map(agent_from).transpose()
}

/// An agent that is about to be changed depending on what it is. On PostgreSQL others who do the same wait, so that none
/// writes back what another has just changed; SQLite has one writer.
pub(super) async fn find_to_change(tx: &mut Tx, id: &str) -> Result<Option<Agent>, Error> {
    if tx.engine() == Engine::Postgres {
        tx.execute("SELECT id FROM agents WHERE id = $1 FOR UPDATE", args![id]).await?;
    }
    find(tx, id).await
}

/// Whether an agent answers invocations. On PostgreSQL it goes on doing so until the transaction ends.
pub(super) async fn answers(tx: &mut Tx, id: &str) -> Result<bool, Error> {
    macro_rules! query {
        ($lock:literal) => {
            concat!("SELECT id FROM agents WHERE id = $1 AND status IN ('active', 'deploying')", $lock)
        };
    }
    let text = dialect::claim(tx.engine(), query!(""), query!(" FOR SHARE"));
    Ok(tx.first(text, args![id]).await?.is_some())
}

/// Agents that wait for a deployment.
pub(super) async fn deploying(connection: &mut Connection) -> Result<Vec<Agent>, Error> {
    connection
        .all(agent_query!("WHERE status = 'deploying' ORDER BY updated_at LIMIT 100"), vec![])
        .await?
        .iter()
        .map(agent_from)
        .collect()
}

/// Every agent that answers invocations, most recently changed first.
pub(super) async fn active(connection: &mut Connection, limit: u32) -> Result<Vec<Agent>, Error> {
    connection
        .all(agent_query!("WHERE status = 'active' ORDER BY updated_at DESC LIMIT $1"), args![limit])
        .await?
        .iter()
        .map(agent_from)
        .collect()
}

pub(super) async fn list(
    connection: &mut Connection,
    account_id: &str,
    status: Option<AgentStatus>,
    window: Window,
) -> Result<Page<Agent>, Error> {
    let status = status.map(AgentStatus::as_str);
    let total = connection
        .first(
            "SELECT COUNT(*) AS total FROM agents WHERE account_id = $1 AND ($2 IS NULL OR status = $2)",
            args![account_id, status],
        )
        .await?
        .map(|row| row.count("total"))
        .transpose()?
        .unwrap_or(0);
    let items = connection
        .all(
            agent_query!(
                "WHERE account_id = $1 AND ($2 IS NULL OR status = $2) ORDER BY created_at DESC, id DESC LIMIT $3 OFFSET $4"
            ),
            args![account_id, status, window.limit, window.offset],
        )
        .await?
        .iter()
        .map(agent_from)
        .collect::<Result<_, _>>()?;
    Ok(Page { items, total, window })
}

pub(super) async fn delete(tx: &mut Tx, id: &str) -> Result<(), Error> {
    tx.execute("DELETE FROM agents WHERE id = $1", args![id]).await?;
    Ok(())
}

/// A built, immutable state of an agent's code.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Release {
    pub(super) id: String,
    pub(super) account_id: String,
    pub(super) agent_id: String,
    pub(super) deployment_id: String,
    pub(super) source_hash: String,
    /// Blob of the packed source, so that layers can be rebuilt.
    pub(super) source_blob: String,
    /// Names of layers, uppermost first.
    pub(super) layers: Vec<String>,
    /// The program and its arguments.
    pub(super) command: Vec<String>,
    /// Variables of the manifest.
    pub(super) env: Vec<(String, String)>,
    pub(super) created_at: Timestamp,
}

fn release_from(row: &Row) -> Result<Release, Error> {
    let id = row.text("id")?;
    let json = |column: &str| -> Result<Value, Error> {
        serde_json::from_str(&row.text(column)?).map_err(|e| corrupt(&id, column, e))
    };
    Ok(Release {
        account_id: row.text("account_id")?,
        agent_id: row.text("agent_id")?,
        deployment_id: row.text("deployment_id")?,
        source_hash: row.text("source_hash")?,
        source_blob: row.text("source_blob")?,
        layers: serde_json::from_value(json("layers")?).map_err(|e| corrupt(&id, "layers", e))?,
        command: serde_json::from_value(json("command")?).map_err(|e| corrupt(&id, "command", e))?,
        env: serde_json::from_value(json("env")?).map_err(|e| corrupt(&id, "env", e))?,
        created_at: Timestamp(row.int("created_at")?),
        id,
    })
}

pub(super) async fn insert_release(tx: &mut Tx, release: &Release) -> Result<(), Error> {
    tx.execute(
        "INSERT INTO releases (id, account_id, agent_id, deployment_id, source_hash, source_blob, layers, command, env, created_at) \
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)",
        args![
            &release.id,
            &release.account_id,
            &release.agent_id,
            &release.deployment_id,
            &release.source_hash,
            &release.source_blob,
            serde_json::json!(release.layers).to_string(),
            serde_json::json!(release.command).to_string(),
            serde_json::json!(release.env).to_string(),
            release.created_at.0
        ],
    )
    .await?;
    Ok(())
}

pub(super) async fn find_release(connection: &mut Connection, id: &str) -> Result<Option<Release>, Error> {
    connection.first("SELECT * FROM releases WHERE id = $1", args![id]).await?.as_ref().map(release_from).transpose()
}

/// An agent's releases, newest first.
pub(super) async fn releases(connection: &mut Connection, agent_id: &str) -> Result<Vec<Release>, Error> {
    connection
        .all("SELECT * FROM releases WHERE agent_id = $1 ORDER BY created_at DESC, id DESC LIMIT 100", args![agent_id])
        .await?
        .iter()
        .map(release_from)
        .collect()
}

/// Names of every layer that some release needs.
pub(super) async fn layers_in_use(connection: &mut Connection) -> Result<Vec<String>, Error> {
    let rows = connection.all("SELECT DISTINCT layers FROM releases", vec![]).await?;
    let mut names = Vec::new();
    for row in &rows {
        let layers: Vec<String> = serde_json::from_str(&row.text("layers")?).map_err(|e| corrupt("?", "layers", e))?;
        names.extend(layers);
    }
    Ok(names)
}

/// Remembers that a session was used, creating it when it is new.
pub(super) async fn touch_session(tx: &mut Tx, session: &Session, account_id: &str) -> Result<(), Error> {
    tx.execute(
        "INSERT INTO agent_sessions (account_id, agent_id, id, sandbox_id, created_at, last_invocation_at) \
         VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT (agent_id, id) DO UPDATE SET \
         sandbox_id = excluded.sandbox_id, last_invocation_at = excluded.last_invocation_at",
        args![
            account_id,
            &session.agent_id,
            &session.id,
            session.sandbox_id.clone(),
            session.created_at.0,
            session.last_invocation_at.map(|at| at.0)
        ],
    )
    .await?;
    Ok(())
}

pub(super) async fn list_sessions(
    connection: &mut Connection,
    agent_id: &str,
    window: Window,
) -> Result<Page<Session>, Error> {
    let total = connection
        .first("SELECT COUNT(*) AS total FROM agent_sessions WHERE agent_id = $1", args![agent_id])
        .await?
        .map(|row| row.count("total"))
        .transpose()?
        .unwrap_or(0);
    let items = connection
        .all(
            "SELECT agent_id, id, sandbox_id, created_at, last_invocation_at FROM agent_sessions WHERE agent_id = $1 \
             ORDER BY created_at DESC, id DESC LIMIT $2 OFFSET $3",
            args![agent_id, window.limit, window.offset],
        )
        .await?
        .iter()
        .map(session_from)
        .collect::<Result<_, Error>>()?;
    Ok(Page { items, total, window })
}

fn session_from(row: &Row) -> Result<Session, Error> {
    Ok(Session {
        agent_id: row.text("agent_id")?,
        id: row.text("id")?,
        sandbox_id: row.opt_text("sandbox_id")?,
        created_at: Timestamp(row.int("created_at")?),
        last_invocation_at: row.opt_int("last_invocation_at")?.map(Timestamp),
    })
}

/// Removes a session; tells whether there was one.
pub(super) async fn delete_session(tx: &mut Tx, agent_id: &str, id: &str) -> Result<bool, Error> {
    Ok(tx.execute("DELETE FROM agent_sessions WHERE agent_id = $1 AND id = $2", args![agent_id, id]).await? > 0)
}

/// Sessions of all agents that nobody used since `before`.
pub(super) async fn stale_sessions(
    connection: &mut Connection,
    before: Timestamp,
) -> Result<Vec<(String, String)>, Error> {
    let rows = connection
        .all(
            "SELECT agent_id, id FROM agent_sessions WHERE COALESCE(last_invocation_at, created_at) < $1 LIMIT 100",
            args![before.0],
        )
        .await?;
    rows.iter().map(|row| Ok((row.text("agent_id")?, row.text("id")?))).collect()
}
