//! The account as this face shows it.

use std::{fmt, net::IpAddr};

use backlot_domain::{
    Timestamp,
    accounts::{Account, Credentials, SecretString},
};
use serde::Serialize;

use crate::http::fields::{Fields, FromFields, text};

/// An account.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub(crate) struct User {
    /// Growing integer.
    id: i64,
    /// Empty when an identity provider tells none.
    email: String,
    /// RFC 3339 in UTC, whole seconds.
    #[schema(example = "2025-01-15T10:30:00Z")]
    created_at: String,
}

impl From<Account> for User {
    fn from(account: Account) -> Self {
        Self {
            id: account.number,
            email: account.email.unwrap_or_default(),
            created_at: whole_seconds(account.created_at),
        }
    }
}

/// The account behind a credential.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub(crate) struct UserResponse {
    pub(super) user: User,
}

/// Times in this API have whole seconds (spec/caster.md 0.2).
pub(super) fn whole_seconds(time: Timestamp) -> String {
    let iso = Timestamp(time.0.div_euclid(1000) * 1000).to_iso();
    iso.replace(".000Z", "Z")
}

/// E-mail and password, as they are sent to register and to sign in.
#[derive(utoipa::ToSchema)]
pub(crate) struct EmailAndPassword {
    /// Case and surrounding white space do not matter.
    #[schema(example = "alice@example.com")]
    email: String,
    /// 8 to 1024 bytes.
    password: String,
}

impl fmt::Debug for EmailAndPassword {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EmailAndPassword").field("email", &self.email).finish_non_exhaustive()
    }
}

impl FromFields for EmailAndPassword {
    fn read(fields: &mut Fields<'_>) -> Self {
        Self {
            email: fields.required("email", text(0, usize::MAX).with_nul()),
            password: fields.required("password", text(0, usize::MAX).with_nul()),
        }
    }
}

impl EmailAndPassword {
    pub(super) fn from(self, address: IpAddr) -> Credentials {
        Credentials { email: self.email, password: SecretString::from(self.password), address }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_whole_seconds() {
        assert_eq!(whole_seconds(Timestamp(1_736_937_000_999)), "2025-01-15T10:30:00Z");
        assert_eq!(whole_seconds(Timestamp(0)), "1970-01-01T00:00:00Z");
    }
}
