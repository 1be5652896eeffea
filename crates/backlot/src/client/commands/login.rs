//! `backlot login`: get an API key for this machine and store it.
//!
//! With e-mail and password the server hands out a short-lived access token, with which a key named after this
//! machine is made; only the key is stored. A key that exists already can be given instead.

use serde_json::Value;

use crate::cli::ApiKey;
use crate::client::api::Api;
use crate::client::credentials::{DEFAULT_SERVER, Entry, Store, Target, parse_server, server_name};
use crate::client::error::Error;
use crate::client::{Context, env, prompt};

/// Arguments of `login`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Without --email and --api-key the address, e-mail and password are asked for.
In a script:  echo \"$PASSWORD\" | backlot login --url URL --email me@example.com --password-stdin
         or:  backlot login --url URL --api-key KEY")]
pub(crate) struct Args {
    /// E-mail of the account
    #[arg(long, value_name = "EMAIL")]
    email: Option<String>,

    /// Read the password from standard input instead of asking
    #[arg(long)]
    password_stdin: bool,

    /// Make a new account instead of signing in to an existing one
    #[arg(long)]
    register: bool,
}

/// Signs in and writes the credentials file.
pub(crate) async fn run(args: Args, ctx: &Context) -> Result<(), Error> {
    let path = ctx.credentials_path()?;
    let mut store = Store::load(&path)?;
    let server = match ctx.options.url.as_deref().filter(|u| !u.trim().is_empty()) {
        Some(url) => parse_server(url)?,
        None => {
            let usual = store.default.clone().unwrap_or_else(|| DEFAULT_SERVER.to_owned());
            let scripted = args.password_stdin || ctx.options.api_key.is_some();
            if scripted || !prompt::is_interactive() {
                parse_server(&usual)?
            } else {
                parse_server(&prompt::text("Server:", Some(&usual), "give --url")?)?
            }
        }
    };
    let by_password = args.register || args.email.is_some() || args.password_stdin;
    let given = if by_password {
        None
    } else {
        let options = crate::cli::GlobalOptions { url: Some(server_name(&server).to_owned()), ..ctx.options.clone() };
        crate::client::credentials::resolve(&options, &Store::default(), env)?.key.map(|(key, _)| key)
    };
    let created_by_login = given.is_none();
    let api = Api::new(&Target { server: server.clone(), key: None })?;
    let api_key = match given {
        Some(key) => key,
        None if args.register => register(&args, &api).await?,
        None => sign_in(&args, &api).await?,
    };
    let me = api.with_key(api_key.clone()).me().await?;
    let name = server_name(&server).to_owned();
    store.servers.insert(name.clone(), Entry { api_key, email: Some(me.email.clone()), created_by_login });
    store.default = Some(name.clone());
    store.save(&path)?;
    if ctx.out.json {
        let mut report = me.raw.clone();
        report["server"] = Value::String(name);
        return ctx.out.json(&report);
    }
    ctx.out.done(&format!("Logged in to {name} as {}", me.email));
    Ok(())
}

async fn register(args: &Args, api: &Api) -> Result<ApiKey, Error> {
    let (email, password) = credentials(args, true)?;
    let answer = api.register(&email, &password).await.map_err(|e| match e.status() {
        Some(409) => e.with_hint("there is such an account already; leave out --register"),
        Some(403) => e.with_hint("this server takes no new accounts (its --signup setting); ask its operator"),
        _ => e,
    })?;
    match answer.get("api_key").and_then(Value::as_str) {
        Some(key) if !key.is_empty() => Ok(ApiKey::new(key)),
        _ => Err(Error::failed(
            "the server made the account, but answered without an API key; sign in with `backlot login`",
        )),
    }
}

async fn sign_in(args: &Args, api: &Api) -> Result<ApiKey, Error> {
    let (email, password) = credentials(args, false)?;
    let answer = api.login(&email, &password).await.map_err(|e| match e.status() {
        Some(401) => e.with_hint("check e-mail and password; a new account needs --register"),
        _ => e,
    })?;
    let token = answer.get("access_token").and_then(Value::as_str).ok_or_else(|| {
        Error::failed_with(
            "this server does not hand out access tokens for a password",
            "make an API key there and use `backlot login --api-key KEY`",
        )
    })?;
    let signed_in = api.with_key(ApiKey::new(token));
    Ok(signed_in.create_key(&key_name(), &[]).await?.key.clone())
}

fn credentials(args: &Args, is_new: bool) -> Result<(String, String), Error> {
    let email = match &args.email {
        Some(email) => email.trim().to_owned(),
        None => prompt::text("E-mail:", None, "give --email, or use --api-key")?.trim().to_owned(),
    };
    let password = if args.password_stdin {
        prompt::stdin_line(4096, "the password")?
    } else {
        prompt::secret("Password:", is_new, "give --password-stdin and the password on standard input")?
    };
    if email.is_empty() || password.is_empty() {
        return Err(Error::Usage("e-mail and password must not be empty".into()));
    }
    Ok((email, password))
}

/// `backlot login on <hostname>`, within the API's 100 characters.
fn key_name() -> String {
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let host = if host.is_empty() { "an unnamed machine".to_owned() } else { host };
    format!("backlot login on {host}").chars().take(100).collect()
}
