//! `backlot agents …`: the agents of the account.

use serde_json::{Map, Value, json};

use super::raw_list;
use crate::client::api::{Agent, Answer};
use crate::client::error::Error;
use crate::client::output::{Head, Table, moment};
use crate::client::{Context, prompt};

/// What to do with agents.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Action {
    /// List the agents, newest first
    List {
        /// Only agents in this status: draft, deploying, active, stopped or error
        #[arg(long)]
        status: Option<String>,
    },
    /// Show one agent
    Get {
        /// The agent
        slug: String,
    },
    /// Create an agent; without a repository it takes uploaded code
    Create(Create),
    /// Change an agent; only what is given changes
    Update(Update),
    /// Delete an agent with its secrets, sessions and history
    Delete {
        /// The agent
        slug: String,
        /// Do not ask
        #[arg(short, long)]
        force: bool,
    },
}

/// Arguments of `agents create`.
#[derive(Debug, clap::Args)]
pub(crate) struct Create {
    /// Display name
    name: String,
    /// Repository that `backlot deploy <slug>` builds from (https or ssh)
    git_url: Option<String>,
    /// Name in commands and addresses; made from the name when absent
    #[arg(long)]
    slug: Option<String>,
    #[command(flatten)]
    settings: Settings,
}

/// Arguments of `agents update`.
#[derive(Debug, clap::Args)]
pub(crate) struct Update {
    /// The agent
    slug: String,
    /// Display name
    #[arg(long)]
    name: Option<String>,
    /// Repository to build from
    #[arg(long, value_name = "URL")]
    git_url: Option<String>,
    #[command(flatten)]
    settings: Settings,
}

/// What creating and changing have in common.
#[derive(Debug, clap::Args)]
struct Settings {
    /// A sentence about it
    #[arg(long, value_name = "TEXT")]
    description: Option<String>,
    /// Branch to build
    #[arg(long)]
    branch: Option<String>,
    /// Model that the program is told to use
    #[arg(long)]
    model: Option<String>,
    /// Turns that the program is told to take at most
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=500))]
    max_turns: Option<u32>,
    /// Longest time of one run in seconds
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u32).range(1..=600))]
    timeout: Option<u32>,
}

impl Settings {
    fn put_into(self, body: &mut Map<String, Value>) {
        let mut put = |name: &str, value: Option<Value>| {
            if let Some(value) = value {
                body.insert(name.to_owned(), value);
            }
        };
        put("description", self.description.map(Value::from));
        put("git_branch", self.branch.map(Value::from));
        put("default_model", self.model.map(Value::from));
        put("max_turns", self.max_turns.map(Value::from));
        put("timeout_seconds", self.timeout.map(Value::from));
    }
}

/// Carries the action out.
pub(crate) async fn run(action: Action, ctx: &Context) -> Result<(), Error> {
    match action {
        Action::List { status } => list(status.as_deref(), ctx).await,
        Action::Get { slug } => {
            let agent = ctx.api()?.agent(&slug).await?;
            show(&agent, ctx)
        }
        Action::Create(args) => create(args, ctx).await,
        Action::Update(args) => update(args, ctx).await,
        Action::Delete { slug, force } => delete(&slug, force, ctx).await,
    }
}

async fn list(status: Option<&str>, ctx: &Context) -> Result<(), Error> {
    let agents = ctx.api()?.agents(status).await?;
    if ctx.out.json {
        return ctx.out.json(&raw_list(&agents));
    }
    let mut table = Table::new(&[Head::Text("NAME"), Head::Id("SLUG"), Head::Word("STATUS"), Head::Word("CREATED")]);
    for agent in &agents {
        table.row([agent.name.clone(), agent.slug.clone(), agent.status.clone(), moment(&agent.created_at)]);
    }
    ctx.out.table(&table, "No agents yet. Start one with `backlot init <name>`.")
}

fn show(agent: &Answer<Agent>, ctx: &Context) -> Result<(), Error> {
    if ctx.out.json {
        return ctx.out.json(&agent.raw);
    }
    let source = match (&agent.git_repo_url, &agent.git_branch) {
        (Some(url), Some(branch)) if agent.source_type == "git" => format!("{url} ({branch})"),
        _ if agent.source_type == "local" => "uploaded".into(),
        _ => String::new(),
    };
    let or_none = |text: &Option<String>| text.clone().unwrap_or_default();
    ctx.out.facts(&[
        ("name", agent.name.clone()),
        ("slug", agent.slug.clone()),
        ("description", or_none(&agent.description)),
        ("status", agent.status.clone()),
        ("message", or_none(&agent.status_message)),
        ("source", source),
        ("source hash", or_none(&agent.source_hash)),
        ("model", or_none(&agent.default_model)),
        ("max turns", agent.max_turns.map(|n| n.to_string()).unwrap_or_default()),
        ("timeout", agent.timeout_seconds.map(|n| format!("{n} s")).unwrap_or_default()),
        ("sandbox", or_none(&agent.sandbox_id)),
        ("created", moment(&agent.created_at)),
        ("updated", moment(&agent.updated_at)),
    ])
}

async fn create(args: Create, ctx: &Context) -> Result<(), Error> {
    let mut body = Map::new();
    body.insert("name".into(), json!(args.name));
    body.insert("source_type".into(), json!(if args.git_url.is_some() { "git" } else { "local" }));
    if let Some(url) = args.git_url {
        body.insert("git_repo_url".into(), json!(url));
    }
    if let Some(slug) = args.slug {
        body.insert("slug".into(), json!(slug));
    }
    args.settings.put_into(&mut body);
    let agent = ctx.api()?.create_agent(&Value::Object(body)).await?;
    if ctx.out.json {
        return ctx.out.json(&agent.raw);
    }
    ctx.out.done(&format!("Created {} ({})", agent.slug, agent.status));
    let next = match agent.source_type.as_str() {
        "git" => format!("build it with `backlot deploy {}`", agent.slug),
        _ => format!("upload its code with `backlot deploy {} --dir <folder>`", agent.slug),
    };
    ctx.out.hint(&next);
    Ok(())
}

async fn update(args: Update, ctx: &Context) -> Result<(), Error> {
    let mut body = Map::new();
    if let Some(name) = args.name {
        body.insert("name".into(), json!(name));
    }
    if let Some(url) = args.git_url {
        body.insert("git_repo_url".into(), json!(url));
    }
    args.settings.put_into(&mut body);
    if body.is_empty() {
        return Err(Error::Usage(
            "nothing to change: give at least one option, see `backlot agents update --help`".into(),
        ));
    }
    let agent = ctx.api()?.update_agent(&args.slug, &Value::Object(body)).await?;
    if !ctx.out.json {
        ctx.out.done(&format!("Updated {}", agent.slug));
    }
    show(&agent, ctx)
}

async fn delete(slug: &str, force: bool, ctx: &Context) -> Result<(), Error> {
    let api = ctx.api()?;
    if !force {
        let agent = api.agent(slug).await?;
        let question = format!("Delete {} with its secrets, sessions and history?", agent.slug);
        if !prompt::yes(&question, "give --force")? {
            return Err(Error::failed("not deleted"));
        }
    }
    api.delete_agent(slug).await?;
    ctx.out.done(&format!("Deleted {slug}"));
    Ok(())
}
