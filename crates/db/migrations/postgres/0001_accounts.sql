-- Who owns everything, how they prove it, and what they keep secret. Owner: domain/accounts.
CREATE TABLE accounts (
    number        BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY, -- the integer id of the caster face
    id            TEXT NOT NULL UNIQUE,
    email         TEXT UNIQUE,                                     -- lower case; null when an identity provider gives none
    password_hash TEXT,
    issuer        TEXT,
    subject       TEXT,
    disabled_at   BIGINT,
    created_at    BIGINT NOT NULL,
    UNIQUE (issuer, subject)
);

CREATE TABLE api_keys (
    number       BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    id           TEXT NOT NULL UNIQUE,
    account_id   TEXT NOT NULL REFERENCES accounts (id) ON DELETE CASCADE,
    name         TEXT NOT NULL,
    prefix       TEXT NOT NULL UNIQUE,                             -- the public eight characters
    mac          BYTEA NOT NULL,
    scopes       TEXT NOT NULL,
    created_at   BIGINT NOT NULL,
    last_used_at BIGINT,
    revoked_at   BIGINT
);
CREATE INDEX api_keys_by_account ON api_keys (account_id, created_at);

CREATE TABLE refresh_tokens (
    mac        BYTEA NOT NULL PRIMARY KEY,
    account_id TEXT NOT NULL REFERENCES accounts (id) ON DELETE CASCADE,
    family     TEXT NOT NULL,                                      -- all successors of one login
    created_at BIGINT NOT NULL,
    expires_at BIGINT NOT NULL,
    used_at    BIGINT,
    revoked_at BIGINT
);
CREATE INDEX refresh_tokens_by_family ON refresh_tokens (family);

CREATE TABLE secrets (
    account_id  TEXT NOT NULL REFERENCES accounts (id) ON DELETE CASCADE,
    owner       TEXT NOT NULL,                                     -- what the secret belongs to, for example an agent id
    name        TEXT NOT NULL,
    ciphertext  BYTEA NOT NULL,
    data_key    BYTEA NOT NULL,                                    -- the secret's own key, wrapped by the master key
    key_version BIGINT NOT NULL,
    created_at  BIGINT NOT NULL,
    updated_at  BIGINT NOT NULL,
    PRIMARY KEY (account_id, owner, name)
);

-- Unlogged: counting a call must not cost a flush, and a crash may forget the count.
CREATE UNLOGGED TABLE rate_windows (
    principal  TEXT NOT NULL,
    class      TEXT NOT NULL,
    started_at BIGINT NOT NULL,
    used       BIGINT NOT NULL,
    PRIMARY KEY (principal, class)
);
