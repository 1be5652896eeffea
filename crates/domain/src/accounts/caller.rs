//! Who is asking.

use std::{collections::BTreeSet, fmt, str::FromStr, sync::Arc};

use crate::{Error, Kind};

/// What a credential may do (design: "a key has scopes").
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Scope {
    /// Everything, managing keys included.
    All,
    /// Manage and call agents.
    Agents,
    /// Open and drive sessions.
    Sessions,
}

impl Scope {
    /// The scope's name in requests and in the database.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::All => "all",
            Self::Agents => "agents",
            Self::Sessions => "sessions",
        }
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Scope {
    type Err = Error;
    fn from_str(text: &str) -> Result<Self, Error> {
        match text {
            "all" => Ok(Self::All),
            "agents" => Ok(Self::Agents),
            "sessions" => Ok(Self::Sessions),
            _ => Err(Error::invalid("scopes", format!("`{text}` is not a scope; there are all, agents, sessions"))),
        }
    }
}

/// An authenticated caller. Every operation of the domain takes one; its account decides what exists for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// The account, `usr_…`.
    pub account_id: Arc<str>,
    /// The API key that was used, `ak_…`; absent for access tokens.
    pub key_id: Option<Arc<str>>,
    /// What the credential may do.
    pub scopes: BTreeSet<Scope>,
}

impl Caller {
    /// Insists on a scope.
    ///
    /// # Errors
    /// [`Kind::Forbidden`] when the credential has neither it nor [`Scope::All`].
    pub fn require(&self, scope: Scope) -> Result<(), Error> {
        if self.scopes.contains(&Scope::All) || self.scopes.contains(&scope) {
            return Ok(());
        }
        Err(Error::new(Kind::Forbidden, "insufficient_scope", format!("This key lacks the scope `{scope}`")))
    }
}
