//! Invoking: one prompt in, one answer out, through a sandbox (spec/castari.md 10, 12).

use std::{
    path::PathBuf,
    sync::{Arc, Weak},
    time::Duration,
};

use backlot_sandbox::{Cause, Command, Exit, GATEWAY, HOME, Output, WORKSPACE};
use bytes::Bytes;
use serde_json::{Value, json};

use super::{
    Agent, AgentStatus, CodeAgents, INVOCATION, Invocation, Session,
    build::PATH,
    deploy::journal_failed,
    history::{InvocationInput, InvocationOutput},
    manage::{agent_not_active, agent_not_found},
    pool::{Make, Prepared, start_failed},
    sessions,
    store::{self, Release},
};
use crate::{
    Error, Kind,
    accounts::{Caller, Redactor, Scope, SecretString},
    models::ProviderKeys,
    runs::{AtCommit, Channel, Effect, Executor, Failure, NewRun, Outcome, Run, RunContext, Status},
    text::Utf8Pieces,
};

/// An invocation that somebody asks for.
#[derive(Debug, Clone, Default)]
pub struct Invoke {
    /// Standard input of the program, at most 1 MiB. May be empty.
    pub prompt: String,
    /// The session it belongs to; none means a sandbox that nobody used before.
    pub session_id: Option<String>,
    /// Repeating a key within a day returns the first result.
    pub idempotency_key: Option<String>,
}

/// Bytes of a prompt (spec/castari.md 12.1).
const LARGEST_PROMPT: usize = 1 << 20;
/// Bytes of standard output (spec/castari.md 10.1).
const LARGEST_ANSWER: u64 = 8 << 20;
/// Bytes of standard error that are kept.
const LARGEST_STDERR: u64 = 1 << 20;
/// Time between SIGTERM and SIGKILL at the end of the time limit (spec/castari.md 10.1).
const GRACE: Duration = Duration::from_secs(5);
/// Consecutive failures to start a sandbox that put an agent into the state `error` (spec/castari.md 8.2).
const MOST_START_FAILURES: u64 = 5;
/// Failures that are ours, not the program's: the caller gets an error instead of a failed invocation.
const PLATFORM_FAULTS: &[&str] =
    &["start_failed", "layer_missing", "internal", "journal", "lease_lost", "shutting_down", "storage_full"];

/// Ends after which a sandbox may be without its init, so that a session must not keep it: running out of memory kills
/// whatever the kernel chooses. Or in which the program may still be ending, because nobody could write down what it said.
const UNSOUND_AFTER: &[&str] = &["oom", "start_failed", "journal", "lease_lost"];

impl CodeAgents {
    /// Invokes an agent and waits for the end. A caller that goes away does not end the invocation.
    ///
    /// # Errors
    /// [`Kind::NotFound`]; [`Kind::Conflict`] when the agent is not active; [`Kind::Invalid`]; [`Kind::Busy`] when the
    /// session stays busy; [`Kind::Unavailable`] when no worker becomes free; [`Kind::Internal`] when we failed. What
    /// the program caused is no error but an invocation that failed.
    pub async fn invoke(&self, caller: &Caller, slug: &str, invoke: Invoke) -> Result<Invocation, Error> {
        let run = self.start_invocation(caller, slug, invoke).await?;
        let ended = match tokio::time::timeout(self.settings.queue_patience, self.runs.wait(&run.id)).await {
            Ok(ended) => ended?,
            Err(_) => {
                let failure = Failure::new("capacity", "No capacity available");
                if self.runs.withdraw(&run.id, failure).await? {
                    return Err(no_capacity());
                }
                self.runs.wait(&run.id).await?
            }
        };
        if let (Status::Failed, Some(failure)) = (ended.status, &ended.error) {
            if failure.code == "capacity" || (failure.code == "timeout" && ended.started_at.is_none()) {
                return Err(no_capacity());
            }
            if PLATFORM_FAULTS.contains(&failure.code.as_str()) {
                return Err(Error::new(Kind::Internal, "execution_failed", "Agent execution failed"));
            }
        }
        ended.try_into()
    }

    /// Starts an invocation and returns as soon as it is durable; [`CodeAgents::follow`] shows how it goes on.
    ///
    /// # Errors
    /// Those of [`CodeAgents::invoke`] that are known before the program runs.
    pub async fn begin(&self, caller: &Caller, slug: &str, invoke: Invoke) -> Result<Invocation, Error> {
        self.start_invocation(caller, slug, invoke).await?.try_into()
    }

    /// Admits an invocation and opens its run.
    async fn start_invocation(&self, caller: &Caller, slug: &str, invoke: Invoke) -> Result<Run, Error> {
        caller.require(Scope::Agents)?;
        if invoke.prompt.len() > LARGEST_PROMPT {
            return Err(Error::invalid("prompt", format!("ensure this value has at most {LARGEST_PROMPT} bytes")));
        }
        if let Some(session) = &invoke.session_id {
            sessions::check_session_id(session)?;
        }
        if let Some(key) = &invoke.idempotency_key
            && (key.is_empty() || key.len() > 255)
        {
            return Err(Error::invalid("Idempotency-Key", "must have 1 to 255 characters"));
        }
        let (mut agent, mut release) = self.admit(caller, slug).await?;
        let turn = match &invoke.session_id {
            Some(session) => Some(self.enter_session(&agent, session).await?),
            None => None,
        };
        if turn.is_some() {
            // It may have been deployed anew or stopped while this one waited for its turn.
            (agent, release) = self.admit(caller, slug).await?;
        }
        let now = self.clock.now();
        let session_id = invoke.session_id.clone().unwrap_or_else(|| self.ids.next("sess", now));
        let input = InvocationInput {
            prompt: invoke.prompt,
            release_id: release.id,
            deployment_id: release.deployment_id,
            keeps_session: invoke.session_id.is_some(),
        };
        let session = invoke.session_id.map(|id| Session {
            id,
            agent_id: agent.id.clone(),
            sandbox_id: None,
            created_at: now,
            last_invocation_at: Some(now),
        });
        let (account_id, agent_id) = (agent.account_id.clone(), agent.id.clone());
        let with: AtCommit = Box::new(move |tx| {
            Box::pin(async move {
                // Once more, now that nobody can stop it in between: whoever stops or removes it ends the runs that are
                // there by then.
                if !store::answers(tx, &agent_id).await? {
                    return Err(agent_not_active());
                }
                match session {
                    Some(session) => store::touch_session(tx, &session, &account_id).await,
                    None => Ok(()),
                }
            })
        });
        let new = NewRun {
            prefix: "inv",
            kind: INVOCATION,
            account_id: agent.account_id.clone(),
            subject: agent.id.clone(),
            session: Some(session_id),
            parent_id: None,
            input: serde_json::to_value(input).map_err(Error::internal)?,
            deadline: Some(
                self.settings.queue_patience + Duration::from_secs(u64::from(agent.timeout_seconds)) + 6 * GRACE,
            ),
            idempotency_key: invoke.idempotency_key,
        };
        let run = self.runs.start(new, Some(with)).await?.run;
        if let Some(turn) = turn {
            self.hold_turn(&run.id, turn);
        }
        Ok(run)
    }

    /// Keeps the session busy until the run has ended, whether or not anybody still waits for it.
    fn hold_turn(&self, run_id: &str, turn: tokio::sync::OwnedMutexGuard<()>) {
        let (runs, id) = (Arc::clone(&self.runs), run_id.to_owned());
        tokio::spawn(async move {
            while let Err(error) = runs.wait(&id).await {
                if matches!(error.kind, Kind::NotFound | Kind::Unavailable) {
                    break;
                }
                tracing::warn!(run.id = id, ?error, "cannot tell yet whether the turn of a session has ended");
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
            drop(turn);
        });
    }

    /// The agent and its release, if it answers invocations.
    async fn admit(&self, caller: &Caller, slug: &str) -> Result<(Agent, Release), Error> {
        let mut connection = self.db.read().await?;
        let agent =
            store::find_by_slug(&mut connection, &caller.account_id, slug).await?.ok_or_else(agent_not_found)?;
        // While it is deployed again, the old release goes on answering (spec/castari.md 8.2).
        if !matches!(agent.status, AgentStatus::Active | AgentStatus::Deploying) {
            return Err(agent_not_active());
        }
        let release_id = agent.release_id.clone().ok_or_else(agent_not_active)?;
        let release = store::find_release(&mut connection, &release_id).await?.ok_or_else(agent_not_active)?;
        Ok((agent, release))
    }

    async fn enter_session(&self, agent: &Agent, session_id: &str) -> Result<tokio::sync::OwnedMutexGuard<()>, Error> {
        let patience = self.settings.queue_patience;
        tokio::time::timeout(patience, self.sessions.enter(&agent.id, session_id))
            .await
            .map_err(|_| Error::new(Kind::Busy, "session_busy", "Session is busy"))
    }
}

fn no_capacity() -> Error {
    Error::new(Kind::Unavailable, "capacity", "No capacity available").retry_after(Duration::from_secs(5))
}

/// Executes invocations.
pub(super) struct InvocationExecutor {
    pub(super) agents: Weak<CodeAgents>,
    pub(super) parallel: usize,
}

#[async_trait::async_trait]
impl Executor for InvocationExecutor {
    fn slots(&self) -> usize {
        self.parallel
    }

    fn is_metered(&self) -> bool {
        true
    }

    async fn execute(&self, run: &RunContext) -> Outcome {
        let Some(agents) = self.agents.upgrade() else {
            return Outcome::failed(Failure::new("shutting_down", "The server is shutting down"));
        };
        match Box::pin(agents.execute_invocation(run)).await {
            Ok(outcome) => outcome,
            Err(error) => Outcome::from(error),
        }
    }
}

/// What one execution needs.
struct Turn {
    agent: Agent,
    release: Release,
    input: InvocationInput,
    session_id: String,
}

impl CodeAgents {
    async fn execute_invocation(self: &Arc<Self>, run: &RunContext) -> Result<Outcome, Error> {
        let turn = self.load_turn(run).await?;
        let prepared = match self.sandbox_for(&turn).await {
            Ok(prepared) => prepared,
            Err(error) => {
                self.count_start_failure(&turn.agent).await?;
                return Err(error);
            }
        };
        if turn.agent.start_failures > 0 {
            self.forget_start_failures(&turn.agent).await?;
        }
        let sandbox_id = prepared.id.clone();
        let intent = json!({ "sandbox_id": sandbox_id });
        // The program may have had effects: after a crash it is never run a second time.
        let result = run
            .step("program", "run the program", Effect::Once, intent, async {
                Box::pin(self.run_program(run, &turn, &prepared)).await
            })
            .await;
        // Every call of this run is booked before the run ends.
        self.models.settle(&run.run().id).await;
        let is_sound = result.as_ref().err().is_none_or(|failure| !UNSOUND_AFTER.contains(&failure.code.as_str()));
        self.put_back(&turn, prepared, is_sound).await;
        let response_content = run.text_so_far(Channel::Answer).await.map_err(journal_failed)?;
        let response_content = response_content.trim_end_matches(['\n', '\r']).to_owned();
        let (exit, failure) = match result {
            Ok(exit) => (serde_json::from_value::<ProgramExit>(exit).map_err(Error::internal)?, None),
            Err(failure) => {
                let duration_ms = failure.details.get("duration_ms").and_then(Value::as_u64).unwrap_or(0);
                (ProgramExit { duration_ms }, Some(failure))
            }
        };
        let output = InvocationOutput { response_content, sandbox_id: Some(sandbox_id), duration_ms: exit.duration_ms };
        Ok(Outcome { output: serde_json::to_value(output).map_err(Error::internal)?, failure, at_commit: None })
    }

    async fn load_turn(&self, run: &RunContext) -> Result<Turn, Error> {
        let input: InvocationInput = serde_json::from_value(run.run().input.clone()).map_err(Error::internal)?;
        let mut connection = self.db.read().await?;
        let agent = store::find(&mut connection, &run.run().subject).await?.ok_or_else(agent_not_found)?;
        let release = store::find_release(&mut connection, &input.release_id).await?.ok_or_else(agent_not_active)?;
        let agent = self.with_model(agent);
        Ok(Turn { agent, release, input, session_id: run.run().session.clone().unwrap_or_default() })
    }

    /// The session's sandbox, or one that nobody used before.
    async fn sandbox_for(self: &Arc<Self>, turn: &Turn) -> Result<Prepared, Error> {
        if turn.input.keeps_session {
            let prepared = self.session_sandbox(&turn.agent, &turn.release, &turn.session_id).await?;
            self.note_session_sandbox(turn, &prepared.id).await?;
            return Ok(prepared);
        }
        let make = Make::of(&turn.agent, &turn.release);
        let ready = self.pool.take(&turn.agent.id, &make, self.clock.now());
        let prepared = match ready {
            Some(prepared) => prepared,
            None => self.fresh_sandbox(&turn.agent, &turn.release).await?,
        };
        Ok(prepared)
    }

    async fn note_session_sandbox(&self, turn: &Turn, sandbox_id: &str) -> Result<(), Error> {
        let now = self.clock.now();
        let session = Session {
            id: turn.session_id.clone(),
            agent_id: turn.agent.id.clone(),
            sandbox_id: Some(sandbox_id.to_owned()),
            created_at: now,
            last_invocation_at: Some(now),
        };
        let account_id = turn.agent.account_id.clone();
        self.db.write(move |tx| Box::pin(async move { store::touch_session(tx, &session, &account_id).await })).await
    }

    /// Keeps a session's sandbox if it is sound; ends any other and prepares the next one.
    async fn put_back(self: &Arc<Self>, turn: &Turn, prepared: Prepared, is_sound: bool) {
        if turn.input.keeps_session && !is_sound {
            // Its files stay; the next turn gets a new sandbox over them.
            prepared.destroy().await;
            return;
        }
        if turn.input.keeps_session {
            self.rest_session(&turn.agent, &turn.release, &turn.session_id, prepared).await;
            return;
        }
        tokio::spawn(prepared.destroy());
        self.prepare_soon(turn.agent.id.clone());
    }

    /// Counts a failure to start; too many in a row put the agent into the state `error`.
    async fn count_start_failure(&self, agent: &Agent) -> Result<(), Error> {
        let (id, now) = (agent.id.clone(), self.clock.now());
        self.db
            .write(move |tx| {
                Box::pin(async move {
                    if store::count_start_failure(tx, &id).await? < MOST_START_FAILURES {
                        return Ok(());
                    }
                    let Some(mut agent) = store::find_to_change(tx, &id).await? else { return Ok(()) };
                    if agent.status != AgentStatus::Active {
                        // Stopped, or about to be replaced.
                        return Ok(());
                    }
                    agent.status = AgentStatus::Error;
                    agent.status_message = Some(String::from("Its sandboxes do not start; deploy again"));
                    agent.updated_at = now;
                    store::update_state(tx, &agent).await
                })
            })
            .await
    }

    async fn forget_start_failures(&self, agent: &Agent) -> Result<(), Error> {
        let id = agent.id.clone();
        self.db.write(move |tx| Box::pin(async move { store::forget_start_failures(tx, &id).await })).await
    }

    /// Runs the program to its end, showing what it writes.
    async fn run_program(&self, run: &RunContext, turn: &Turn, prepared: &Prepared) -> Result<Value, Failure> {
        let secrets = self.accounts.open_secrets(&turn.agent.account_id, &turn.agent.id).await?;
        let (keys, secrets) = split_provider_keys(secrets);
        let mut redactor = Redactor::new(&secrets);
        let token = self.models.open_run_token(run.run(), keys);
        let timeout = Duration::from_secs(u64::from(turn.agent.timeout_seconds));
        let command = Command {
            argv: turn.release.command.clone(),
            env: self.environment(run, turn, &prepared.id, &secrets, token.secret(), timeout),
            cwd: PathBuf::from(WORKSPACE),
            stdin: Bytes::from(turn.input.prompt.clone()),
            timeout,
            grace: GRACE,
            stdout_limit: LARGEST_ANSWER,
            stderr_limit: LARGEST_STDERR,
        };
        let mut execution = prepared.sandbox.exec(command).await.map_err(|error| match error {
            backlot_sandbox::Error::Start { program, reason } => {
                Failure::new("nonzero_exit", format!("`{program}` could not be started: {reason}"))
            }
            other => Failure::from(start_failed(other)),
        })?;
        let (mut stdout, mut stderr) = (Utf8Pieces::default(), Utf8Pieces::default());
        let mut stop_was_asked = false;
        let mut stderr_tail = String::new();
        loop {
            let piece = tokio::select! {
                piece = execution.output.recv() => piece,
                () = run.stopped().cancelled(), if !stop_was_asked => {
                    stop_was_asked = true;
                    execution.kill.now();
                    continue;
                }
            };
            match piece {
                Some(Output::Stdout(bytes)) => run.text(Channel::Answer, &stdout.push(&bytes)).await?,
                Some(Output::Stderr(bytes)) => {
                    let text = redactor.push(&stderr.push(&bytes));
                    keep_tail(&mut stderr_tail, &text);
                    run.text(Channel::Stderr, &text).await?;
                }
                None => break,
            }
        }
        run.text(Channel::Answer, &stdout.finish()).await?;
        let mut rest = redactor.push(&stderr.finish());
        rest.push_str(&redactor.finish());
        keep_tail(&mut stderr_tail, &rest);
        run.text(Channel::Stderr, &rest).await?;
        let exit = execution.exit.await.map_err(|_| {
            Failure::from(start_failed(backlot_sandbox::Error::Gone(String::from("it did not say how it ended"))))
        })?;
        judge(&exit, turn.agent.timeout_seconds, &stderr_tail)
    }

    /// The program's environment; what comes later wins (spec/castari.md 10.3).
    fn environment(
        &self,
        run: &RunContext,
        turn: &Turn,
        sandbox_id: &str,
        secrets: &[(String, SecretString)],
        token: &str,
        timeout: Duration,
    ) -> Vec<(String, String)> {
        let agent = &turn.agent;
        let gateway = GATEWAY.trim_end_matches(":80");
        let model = agent.config.model.as_ref().unwrap_or(&agent.default_model);
        let turns = agent.config.max_turns.unwrap_or(agent.max_turns);
        let mut env = std::collections::BTreeMap::new();
        let mut set = |name: &str, value: String| drop(env.insert(name.to_owned(), value));
        for (name, value) in [("LANG", "C.UTF-8"), ("TZ", "UTC"), ("CI", "1"), ("PYTHONUNBUFFERED", "1")] {
            set(name, value.to_owned());
        }
        for (name, value) in &turn.release.env {
            set(name, value.clone());
        }
        for (name, value) in secrets {
            set(name, value.expose().to_owned());
        }
        for (name, value) in [("PATH", PATH), ("HOME", HOME), ("TMPDIR", "/tmp"), ("IS_SANDBOX", "1")] {
            set(name, value.to_owned());
        }
        set("ANTHROPIC_API_KEY", token.to_owned());
        set("ANTHROPIC_BASE_URL", format!("http://{gateway}/gateway/anthropic"));
        set("ANTHROPIC_MODEL", model.clone());
        set("OPENAI_API_KEY", token.to_owned());
        set("OPENAI_BASE_URL", format!("http://{gateway}/gateway/openai/v1"));
        set("OPENAI_API_BASE", format!("http://{gateway}/gateway/openai/v1"));
        set("CASTARI_DEFAULT_MODEL", model.clone());
        set("CASTARI_MAX_TURNS", turns.to_string());
        if let Some(prompt) = &agent.config.system_prompt {
            set("CASTARI_SYSTEM_PROMPT", prompt.clone());
        }
        set("CASTARI_AGENT_ID", agent.id.clone());
        set("CASTARI_AGENT_SLUG", agent.slug.clone());
        set("CASTARI_INVOCATION_ID", run.run().id.clone());
        set("CASTARI_SESSION_ID", turn.session_id.clone());
        set("CASTARI_SANDBOX_ID", sandbox_id.to_owned());
        set("CASTARI_TIMEOUT_SECONDS", agent.timeout_seconds.to_string());
        set("CASTARI_DEADLINE_UNIX_MS", self.clock.now().after(timeout).0.to_string());
        env.into_iter().collect()
    }
}

/// What the journal keeps of a program's end.
#[derive(serde::Serialize, serde::Deserialize)]
struct ProgramExit {
    duration_ms: u64,
}

/// Secrets that are keys of providers go to the gateway; the program sees the run's token instead
/// (spec/castari.md 14).
fn split_provider_keys(secrets: Vec<(String, SecretString)>) -> (ProviderKeys, Vec<(String, SecretString)>) {
    let mut keys = ProviderKeys::default();
    let mut rest = Vec::with_capacity(secrets.len());
    for (name, value) in secrets {
        match name.as_str() {
            "ANTHROPIC_API_KEY" => keys.anthropic = Some(value),
            "OPENAI_API_KEY" => keys.openai = Some(value),
            // Meant for builds and fetching only.
            name if name.starts_with("BUILD_") || name == super::secrets::GIT_TOKEN => {}
            _ => rest.push((name, value)),
        }
    }
    (keys, rest)
}

/// What a program's end means (spec/castari.md 12.1).
fn judge(exit: &Exit, timeout_seconds: u32, stderr_tail: &str) -> Result<Value, Failure> {
    let duration_ms = u64::try_from(exit.duration.as_millis()).unwrap_or(u64::MAX);
    let (code, message) = match (exit.cause, exit.code) {
        (Cause::Exited, Some(0)) => return Ok(json!(ProgramExit { duration_ms })),
        (Cause::Exited, Some(code)) => ("nonzero_exit", format!("The program exited with status {code}")),
        (Cause::Exited, None) => ("killed", String::from("The program was ended by a signal")),
        (Cause::Timeout, _) => ("timeout", format!("Timeout exceeded after {timeout_seconds} s")),
        (Cause::OutOfMemory, _) => ("oom", String::from("The program needed more memory than its sandbox has")),
        (Cause::DiskLimit, _) => ("disk_limit", String::from("The program wrote more than its sandbox may hold")),
        (Cause::OutputLimit, _) => {
            ("output_limit", format!("The program wrote more than {} MiB to standard output", LARGEST_ANSWER >> 20))
        }
        (Cause::Killed, _) => ("stopped", String::from("The invocation was stopped")),
    };
    let mut details = json!({ "duration_ms": duration_ms });
    if let Some(fields) = details.as_object_mut() {
        if !stderr_tail.is_empty() {
            fields.insert(String::from("stderr_tail"), json!(stderr_tail));
        }
        if let Some(code) = exit.code {
            fields.insert(String::from("exit_code"), json!(code));
        }
        if let Some(signal) = exit.signal {
            fields.insert(String::from("signal"), json!(signal_name(signal)));
        }
    }
    Err(Failure { code: code.to_owned(), message, details })
}

/// Adds to the end of a program's standard error that is kept with its failure.
fn keep_tail(tail: &mut String, text: &str) {
    const LONGEST: usize = 4096;
    tail.push_str(text);
    if tail.len() > LONGEST {
        let from = (tail.len() - LONGEST..tail.len()).find(|at| tail.is_char_boundary(*at)).unwrap_or(0);
        tail.drain(..from);
    }
}

fn signal_name(signal: i32) -> String {
    match signal {
        2 => String::from("SIGINT"),
        6 => String::from("SIGABRT"),
        8 => String::from("SIGFPE"),
        9 => String::from("SIGKILL"),
        11 => String::from("SIGSEGV"),
        13 => String::from("SIGPIPE"),
        15 => String::from("SIGTERM"),
        31 => String::from("SIGSYS"),
        other => format!("signal {other}"),
    }
}
