-- Agents made of code, their releases and sessions. Owner: domain/code_agents.
CREATE TABLE agents (
    id              TEXT NOT NULL PRIMARY KEY,
    account_id      TEXT NOT NULL REFERENCES accounts (id) ON DELETE CASCADE,
    name            TEXT NOT NULL,
    slug            TEXT NOT NULL,
    description     TEXT,
    source_type     TEXT NOT NULL,                                 -- git, local
    git_repo_url    TEXT,
    git_branch      TEXT NOT NULL,
    source_hash     TEXT,
    pending_source  TEXT,                                          -- blob of uploaded code that is not deployed yet
    default_model   TEXT NOT NULL,                                 -- empty: the server's default of the day
    max_turns       BIGINT NOT NULL,
    timeout_seconds BIGINT NOT NULL,
    agent_config    TEXT NOT NULL,
    network         TEXT NOT NULL,                                 -- public, none
    status          TEXT NOT NULL,                                 -- draft, deploying, active, stopped, error
    status_message  TEXT,
    sandbox_id      TEXT,
    release_id      TEXT,
    start_failures  BIGINT NOT NULL,
    created_at      BIGINT NOT NULL,
    updated_at      BIGINT NOT NULL,
    UNIQUE (account_id, slug)
);

CREATE TABLE releases (
    id            TEXT NOT NULL PRIMARY KEY,
    account_id    TEXT NOT NULL REFERENCES accounts (id) ON DELETE CASCADE,
    agent_id      TEXT NOT NULL REFERENCES agents (id) ON DELETE CASCADE,
    deployment_id TEXT NOT NULL,
    source_hash   TEXT NOT NULL,
    source_blob   TEXT NOT NULL,
    layers        TEXT NOT NULL,                                   -- names of directory layers, uppermost first
    command       TEXT NOT NULL,                                   -- argv
    env           TEXT NOT NULL,                                   -- of the manifest
    created_at    BIGINT NOT NULL
);
CREATE INDEX releases_by_agent ON releases (agent_id, created_at);

CREATE TABLE agent_sessions (
    account_id         TEXT NOT NULL REFERENCES accounts (id) ON DELETE CASCADE,
    agent_id           TEXT NOT NULL REFERENCES agents (id) ON DELETE CASCADE,
    id                 TEXT NOT NULL,
    sandbox_id         TEXT,
    release_id         TEXT,
    created_at         BIGINT NOT NULL,
    last_invocation_at BIGINT,
    PRIMARY KEY (agent_id, id)
);
