//! All configuration, read once at start: flags beat variables, variables beat the file (operator's contract).
//!
//! [`ServeArgs`] names every setting as a flag with its variable, [`file::File`] the same names as keys of
//! `backlot.toml`. [`Config::resolve`] merges both into [`Config`], checks it, and is the only place that knows the
//! defaults. Nothing outside this folder reads the environment of the server.

mod file;
mod providers;

pub(crate) use providers::LOCAL_MODEL;

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    str::FromStr,
    time::Duration,
};

use anyhow::{Context as _, bail};
use backlot_domain::{
    DataFolder,
    accounts::{self, RateLimits, Signup},
    code_agents, models,
};
use backlot_faces::FacesSettings;
use backlot_models::prices::Prices;
use ipnet::IpNet;

/// `backlot serve`: flags and variables.
#[derive(Debug, Clone, Default, clap::Args)]
pub(crate) struct ServeArgs {
    /// Where to find the configuration file [default: ./backlot.toml if it exists]
    #[arg(long, env = "BACKLOT_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    /// Address for HTTP: API faces, dashboard and sites [default: 127.0.0.1:8080]
    #[arg(long, env = "BACKLOT_LISTEN", value_name = "ADDR")]
    listen: Option<String>,
    /// Folder for the database, blobs, keys and sandboxes [default: ./backlot-data]
    #[arg(long, env = "BACKLOT_DATA", value_name = "DIR")]
    data: Option<PathBuf>,
    /// `sqlite://…` or `postgres://…` [default: SQLite inside the data folder]
    #[arg(long, env = "BACKLOT_DATABASE_URL", value_name = "URL", hide_env_values = true)]
    database_url: Option<String>,
    /// `file://…` [default: blobs/ inside the data folder]
    #[arg(long, env = "BACKLOT_BLOBS_URL", value_name = "URL")]
    blobs_url: Option<String>,
    /// How clients reach this server [default: http:// and the listen address]
    #[arg(long, env = "BACKLOT_PUBLIC_URL", value_name = "URL")]
    public_url: Option<String>,
    /// Domain under which sites are served [default: localhost]
    #[arg(long, env = "BACKLOT_SITES_DOMAIN", value_name = "DOMAIN")]
    sites_domain: Option<String>,
    /// Address for git over SSH, or `off` [default: 127.0.0.1:2222]
    #[arg(long, env = "BACKLOT_SSH_LISTEN", value_name = "ADDR")]
    ssh_listen: Option<String>,
    /// Sandbox driver: process [default: process]
    #[arg(long, env = "BACKLOT_SANDBOX", value_name = "DRIVER")]
    sandbox: Option<String>,
    /// Who may register: first (only while no account exists), open, closed [default: first]
    #[arg(long, env = "BACKLOT_SIGNUP", value_name = "WHO")]
    signup: Option<String>,
    /// Anonymous site deploys: on, off, auto [default: auto]
    #[arg(long, env = "BACKLOT_ANONYMOUS", value_name = "WHEN")]
    anonymous: Option<String>,
    /// Private networks that outbound requests may reach, as CIDRs [default: none]
    #[arg(long, env = "BACKLOT_ALLOW_NETWORKS", value_name = "CIDR,…")]
    allow_networks: Option<String>,
    /// PEM file of further certificate authorities
    #[arg(long, env = "BACKLOT_EXTRA_CA", value_name = "FILE")]
    extra_ca: Option<PathBuf>,
    /// Names of the server's own variables that install steps may see
    #[arg(long, env = "BACKLOT_BUILD_ENV", value_name = "NAME,…")]
    build_env: Option<String>,
    /// Rate limits: on or off [default: on]
    #[arg(long, env = "BACKLOT_RATE_LIMITS", value_name = "ON|OFF")]
    rate_limits: Option<String>,
    /// Model that answers where a program asks for none we have: provider/model-id [default: the best one configured]
    #[arg(long, env = "BACKLOT_DEFAULT_MODEL", value_name = "MODEL")]
    default_model: Option<String>,
    /// TOML file with model prices that override the built-in ones
    #[arg(long, env = "BACKLOT_PRICES", value_name = "FILE")]
    prices: Option<PathBuf>,
}

/// The environment, read here and nowhere else.
#[expect(clippy::disallowed_methods, reason = "this is the one place that reads the environment")]
fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.trim().is_empty())
}

/// Everything the server needs to know, checked.
pub(crate) struct Config {
    pub(crate) listen: SocketAddr,
    pub(crate) data: DataFolder,
    pub(crate) database_url: String,
    pub(crate) blobs: PathBuf,
    pub(crate) public_url: Option<String>,
    pub(crate) allow_networks: Vec<IpNet>,
    pub(crate) extra_ca: Option<PathBuf>,
    pub(crate) build_env: Vec<(String, String)>,
    /// The text of `BACKLOT_MASTER_KEY`; without it the key is a file in the data folder.
    pub(crate) master_key: Option<String>,
    pub(crate) accounts: accounts::Settings,
    pub(crate) models: models::Settings,
    /// Host names of faces and origins of browsers.
    pub(crate) faces: FacesSettings,
}

impl Config {
    /// Merges flags, variables and file, and checks the result.
    pub(crate) fn resolve(args: ServeArgs) -> anyhow::Result<Self> {
        let file = file::File::load(args.config.as_deref())?;
        let text = |flag: Option<String>, key: &Option<String>, default: &str| {
            flag.or_else(|| key.clone()).unwrap_or_else(|| default.to_owned())
        };
        let listen = text(args.listen, &file.listen, "127.0.0.1:8080");
        let listen = SocketAddr::from_str(&listen)
            .with_context(|| format!("--listen: `{listen}` is not an address such as 127.0.0.1:8080"))?;
        let data = args.data.or(file.data).unwrap_or_else(|| PathBuf::from("backlot-data"));
        let data = DataFolder(std::path::absolute(&data).with_context(|| format!("--data: {}", data.display()))?);
        let database_url = args
            .database_url
            .or(file.database_url)
            .unwrap_or_else(|| format!("sqlite://{}", data.database().display()));
        let blobs = match args.blobs_url.or(file.blobs_url) {
            None => data.blobs(),
            Some(url) => match url.strip_prefix("file://") {
                Some(path) if path.starts_with('/') => PathBuf::from(path),
                _ => bail!("--blobs-url: `{url}` is not file:///some/folder; other stores are not supported yet"),
            },
        };
        one_of("--sandbox", &text(args.sandbox, &file.sandbox, "process"), &["process"])?;
        one_of("--anonymous", &text(args.anonymous, &file.anonymous, "auto"), &["on", "off", "auto"])?;
        let signup = match one_of("--signup", &text(args.signup, &file.signup, "first"), &["first", "open", "closed"])?
        {
            "open" => Signup::Open,
            "closed" => Signup::Closed,
            _ => Signup::First,
        };
        let rate_limits =
            one_of("--rate-limits", &text(args.rate_limits, &file.rate_limits, "on"), &["on", "off"])? == "on";
        let allow_networks = list(args.allow_networks, file.allow_networks)
            .iter()
            .map(|network| {
                network.parse::<IpNet>().with_context(|| format!("--allow-networks: `{network}` is no CIDR"))
            })
            .collect::<Result<_, _>>()?;
        let extra_ca = args.extra_ca.or(file.extra_ca);
        let extra_ca_pem = extra_ca.as_deref().map(read_ca).transpose()?;
        let build_env = list(args.build_env, file.build_env)
            .into_iter()
            .filter_map(|name| variable(&name).map(|value| (name, value)))
            .collect();
        let mut prices = Prices::built_in();
        if let Some(path) = args.prices.or(file.prices) {
            let text = std::fs::read_to_string(&path).with_context(|| format!("--prices: {}", path.display()))?;
            prices.merge(Prices::parse(&text).with_context(|| format!("--prices: {}", path.display()))?);
        }
        Ok(Self {
            listen,
            database_url,
            blobs,
            public_url: args.public_url.or(file.public_url),
            allow_networks,
            extra_ca,
            build_env,
            master_key: variable("BACKLOT_MASTER_KEY"),
            accounts: accounts::Settings {
                signup,
                rate_limits: RateLimits { enabled: rate_limits, ..RateLimits::default() },
                identity_provider: providers::identity(extra_ca_pem.as_deref())?,
                ..accounts::Settings::default()
            },
            models: models::Settings {
                providers: providers::configured(&file.providers)?,
                default_model: args.default_model.or(file.default_model),
                local: Some(providers::local_model(&data)),
                prices,
                extra_ca: extra_ca_pem,
                ..models::Settings::default()
            },
            faces: FacesSettings {
                cors_origins: file.faces.cors_origins,
                castari_host: file.faces.castari,
                caster_host: file.faces.caster,
                uploads: Some(data.uploads()),
                ..FacesSettings::default()
            },
            data,
        })
    }

    /// Settings of code agents, once it is known where sandboxes find the gateway.
    pub(crate) fn code_agents(&self, gateway: SocketAddr) -> code_agents::Settings {
        let limits = backlot_sandbox::Limits::default();
        code_agents::Settings {
            data: self.data.code_agents(),
            gateway: Some(gateway),
            allow_networks: self.allow_networks.clone(),
            extra_ca: self.extra_ca.clone(),
            build_env: self.build_env.clone(),
            limits,
            warm_per_agent: 1,
            warm_total: 8,
            warm_idle: Duration::from_secs(30 * 60),
            parallel_invocations: 20,
            queue_patience: Duration::from_secs(30),
            session_idle: Duration::from_secs(10 * 60),
            session_life: Duration::from_secs(7 * 24 * 3600),
        }
    }
}

fn one_of<'a>(flag: &str, value: &str, allowed: &[&'a str]) -> anyhow::Result<&'a str> {
    allowed
        .iter()
        .find(|word| **word == value)
        .copied()
        .with_context(|| format!("{flag}: `{value}` is none of {}", allowed.join(", ")))
}

fn list(flag: Option<String>, key: Option<Vec<String>>) -> Vec<String> {
    match flag {
        Some(text) => text.split(',').map(str::trim).filter(|part| !part.is_empty()).map(str::to_owned).collect(),
        None => key.unwrap_or_default(),
    }
}

fn read_ca(path: &Path) -> anyhow::Result<Vec<u8>> {
    let pem = std::fs::read(path).with_context(|| format!("--extra-ca: {}", path.display()))?;
    if !pem.windows(27).any(|window| window == b"-----BEGIN CERTIFICATE-----") {
        bail!("--extra-ca: {} holds no certificate in PEM form", path.display());
    }
    Ok(pem)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolve(args: ServeArgs) -> Result<Config, String> {
        Config::resolve(args).map_err(|error| format!("{error:#}"))
    }

    #[test]
    fn defaults_are_the_operators_contract() {
        let folder = tempfile::tempdir().expect("temp dir");
        let data = Some(folder.path().to_owned());
        let config = resolve(ServeArgs { data, ..ServeArgs::default() }).expect("defaults are fine");
        assert_eq!(config.listen.to_string(), "127.0.0.1:8080");
        assert!(config.database_url.ends_with("/backlot.db"));
        assert!(config.blobs.ends_with("blobs"));
        assert_eq!(config.accounts.signup, Signup::First);
        assert!(config.accounts.rate_limits.enabled);
    }

    #[test]
    fn mistakes_name_the_flag_and_the_choices() {
        for (args, telling) in [
            (ServeArgs { listen: Some("8080".into()), ..ServeArgs::default() }, "--listen"),
            (ServeArgs { signup: Some("maybe".into()), ..ServeArgs::default() }, "first, open, closed"),
            (ServeArgs { sandbox: Some("none".into()), ..ServeArgs::default() }, "--sandbox"),
            (ServeArgs { allow_networks: Some("10.0.0.0/33".into()), ..ServeArgs::default() }, "10.0.0.0/33"),
            (ServeArgs { rate_limits: Some("1".into()), ..ServeArgs::default() }, "--rate-limits"),
            (ServeArgs { blobs_url: Some("s3://x/y".into()), ..ServeArgs::default() }, "--blobs-url"),
            (ServeArgs { extra_ca: Some("/nowhere.pem".into()), ..ServeArgs::default() }, "--extra-ca"),
        ] {
            let error = resolve(args).map(drop).expect_err(telling);
            assert!(error.contains(telling), "{error}");
        }
    }

    #[test]
    fn a_flag_beats_the_file_and_unknown_keys_are_named() {
        let folder = tempfile::tempdir().expect("temp dir");
        let path = folder.path().join("backlot.toml");
        std::fs::write(&path, "listen = \"127.0.0.1:1\"\nsignup = \"open\"\n").expect("write");
        let args = || ServeArgs { config: Some(path.clone()), ..ServeArgs::default() };
        assert_eq!(resolve(args()).expect("file").listen.port(), 1);
        assert_eq!(resolve(args()).expect("file").accounts.signup, Signup::Open);
        let flag = ServeArgs { listen: Some("127.0.0.1:2".into()), ..args() };
        assert_eq!(resolve(flag).expect("flag").listen.port(), 2);
        std::fs::write(&path, "lisen = \"x\"\n").expect("write");
        assert!(resolve(args()).map(drop).expect_err("typo").contains("lisen"));
    }
}
