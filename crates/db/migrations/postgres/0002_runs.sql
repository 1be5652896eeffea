-- The run journal: every run, its events, and what its model calls used. Owner: domain/runs; model_calls: domain/models.
CREATE TABLE runs (
    id             TEXT NOT NULL PRIMARY KEY,
    account_id     TEXT NOT NULL REFERENCES accounts (id) ON DELETE CASCADE,
    kind           TEXT NOT NULL,                                  -- decides which executor runs it
    subject        TEXT NOT NULL,                                  -- what it is a run of, for example an agent id
    session        TEXT,
    parent_id      TEXT,
    status         TEXT NOT NULL,                                  -- queued, running, completed, failed, stopped
    input          TEXT NOT NULL,
    output         TEXT,
    error          TEXT,
    next_seq       BIGINT NOT NULL,
    worker         TEXT,
    epoch          BIGINT NOT NULL,                                -- grows with every claim; a stalled worker cannot write
    lease_until    BIGINT,
    stop_requested BOOLEAN NOT NULL,
    deadline_at    BIGINT,
    input_tokens   BIGINT NOT NULL,
    output_tokens  BIGINT NOT NULL,
    cost_nano_usd  BIGINT NOT NULL,
    unpriced_calls BIGINT NOT NULL,
    model_calls    BIGINT NOT NULL,
    created_at     BIGINT NOT NULL,
    started_at     BIGINT,
    ended_at       BIGINT
);
CREATE INDEX runs_open ON runs (status, account_id, created_at) WHERE status IN ('queued', 'running');
CREATE INDEX runs_by_turn ON runs (account_id, started_at);          -- who was served last
CREATE INDEX runs_by_subject ON runs (account_id, kind, subject, created_at);
CREATE INDEX runs_by_parent ON runs (parent_id) WHERE parent_id IS NOT NULL;

CREATE TABLE run_events (
    run_id     TEXT NOT NULL REFERENCES runs (id) ON DELETE CASCADE,
    seq        BIGINT NOT NULL,                                    -- 1, 2, 3 … without gaps
    account_id TEXT NOT NULL,
    at         BIGINT NOT NULL,
    kind       TEXT NOT NULL,
    payload    TEXT NOT NULL,
    PRIMARY KEY (run_id, seq)
);

CREATE TABLE idempotency_keys (
    account_id TEXT NOT NULL REFERENCES accounts (id) ON DELETE CASCADE,
    key        TEXT NOT NULL,
    run_id     TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    PRIMARY KEY (account_id, key)
);

CREATE TABLE model_calls (
    id              TEXT NOT NULL PRIMARY KEY,
    account_id      TEXT NOT NULL REFERENCES accounts (id) ON DELETE CASCADE,
    run_id          TEXT,
    provider        TEXT NOT NULL,
    model           TEXT NOT NULL,
    input_tokens    BIGINT NOT NULL,
    output_tokens   BIGINT NOT NULL,
    cache_read      BIGINT NOT NULL,
    cache_write_5m  BIGINT NOT NULL,
    cache_write_1h  BIGINT NOT NULL,
    reasoning       BIGINT NOT NULL,
    cost_nano_usd   BIGINT,                                        -- null: the price is unknown
    estimated       BOOLEAN NOT NULL,
    status          BIGINT NOT NULL,
    duration_ms     BIGINT NOT NULL,
    created_at      BIGINT NOT NULL
);
CREATE INDEX model_calls_by_run ON model_calls (run_id) WHERE run_id IS NOT NULL;
CREATE INDEX model_calls_by_account ON model_calls (account_id, created_at);

CREATE TABLE usage_daily (
    account_id     TEXT NOT NULL REFERENCES accounts (id) ON DELETE CASCADE,
    date           TEXT NOT NULL,                                  -- YYYY-MM-DD, UTC
    subject        TEXT NOT NULL,
    runs           BIGINT NOT NULL,
    input_tokens   BIGINT NOT NULL,
    output_tokens  BIGINT NOT NULL,
    cost_nano_usd  BIGINT NOT NULL,
    unpriced_calls BIGINT NOT NULL,
    PRIMARY KEY (account_id, date, subject)
);
