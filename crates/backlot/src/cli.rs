//! Argument definitions that every subcommand shares: which server, which key, how to print.
//!
//! They are declared once, as global flags, so that `backlot --json agents list` and
//! `backlot agents list --json` mean the same. The variables are the operator's contract:
//! `BACKLOT_URL` and `BACKLOT_API_KEY` drive the client, a flag beats a variable, and the file that
//! `backlot login` writes comes last.

use std::fmt;

/// What the process exit codes mean; shown below `--help` so that scripts can rely on them.
pub(crate) const EXIT_CODES: &str = "\
Exit codes:
  0    done
  1    failed (the run, the deployment or the server reported an error)
  2    wrong usage: an argument is missing or not valid
  3    not signed in, or the key is not accepted (backlot login)
  4    not found
  5    rate limit reached; the message says how many seconds to wait
  6    the server cannot be reached
  130  interrupted with Ctrl-C

Environment:
  BACKLOT_URL, BACKLOT_API_KEY      which server and key to use (fallbacks: CASTARI_API_URL, CASTARI_API_KEY)
  NO_COLOR                          print without colours
  XDG_CONFIG_HOME                   where backlot/credentials.json is kept (default ~/.config)";

/// Flags that every client subcommand accepts.
#[derive(Debug, Clone, Default, clap::Args)]
pub(crate) struct GlobalOptions {
    /// Address of the server, for example <http://127.0.0.1:8080>
    #[arg(long, global = true, env = "BACKLOT_URL", value_name = "URL", help_heading = "Global options")]
    pub(crate) url: Option<String>,

    /// API key to use instead of the stored one (`-` reads it from standard input)
    #[arg(
        long,
        global = true,
        env = "BACKLOT_API_KEY",
        hide_env_values = true,
        value_name = "KEY",
        help_heading = "Global options"
    )]
    pub(crate) api_key: Option<ApiKey>,

    /// Print the server's objects as JSON, for programs
    #[arg(long, global = true, help_heading = "Global options")]
    pub(crate) json: bool,

    /// Print results only: no progress, summaries or hints
    #[arg(long, short, global = true, help_heading = "Global options")]
    pub(crate) quiet: bool,
}

/// An API key. It prints as `***`, so that no debug output or error can show it.
#[derive(Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(transparent)]
pub(crate) struct ApiKey(String);

impl ApiKey {
    /// Wraps a key as it came from a flag, a variable, a file or the server; outer blanks are dropped.
    pub(crate) fn new(text: &str) -> Self {
        Self(text.trim().to_owned())
    }

    /// The key itself, for the one place that puts it into a request header.
    pub(crate) fn expose(&self) -> &str {
        &self.0
    }

    /// The public part, `cast_` and eight characters, by which the server lists the key.
    /// None when the key does not have that form.
    pub(crate) fn prefix(&self) -> Option<&str> {
        let rest = self.0.strip_prefix("cast_")?;
        let (public, secret) = rest.split_once('_')?;
        (!public.is_empty() && !secret.is_empty()).then(|| &self.0[.."cast_".len() + public.len()])
    }

    /// True when there is nothing but blanks, as an exported but empty variable gives.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl std::str::FromStr for ApiKey {
    type Err = std::convert::Infallible;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(Self::new(text))
    }
}

impl fmt::Debug for ApiKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_never_prints_and_knows_its_public_part() {
        let key = ApiKey::new(" cast_k3Xp09Qa_secretsecret \n");
        assert_eq!(format!("{key:?}"), "***");
        assert_eq!(key.prefix(), Some("cast_k3Xp09Qa"));
        assert_eq!(ApiKey::new("cast_k3Xp09Qa_").prefix(), None);
        assert_eq!(ApiKey::new("eyJ.a.b").prefix(), None);
        let options = GlobalOptions { api_key: Some(key), ..GlobalOptions::default() };
        assert!(!format!("{options:?}").contains("secretsecret"));
    }
}
