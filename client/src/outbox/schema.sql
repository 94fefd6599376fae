-- Rows that are to become records. Insert them in the transaction that changes the aggregate, after it has locked the
-- aggregate's own row: then ids of one aggregate rise in the order of its commits.
CREATE TABLE IF NOT EXISTS outbox (
    -- The record's event id.
    id            bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    -- The record's key: rows of one aggregate are published in the order of their ids.
    aggregate     text        NOT NULL,
    event_type    text        NOT NULL,
    -- Null: a tombstone.
    payload       bytea,
    -- More headers of the record: an object of texts.
    headers       jsonb       NOT NULL DEFAULT '{}',
    created_at    timestamptz NOT NULL DEFAULT clock_timestamp(),
    -- What follows belongs to the relay.
    published_at  timestamptz,
    claimed_until timestamptz NOT NULL DEFAULT '-infinity',
    claimed_by    text,
    attempts      integer     NOT NULL DEFAULT 0,
    next_try_at   timestamptz NOT NULL DEFAULT '-infinity',
    parked_at     timestamptz,
    last_error    text
);
CREATE INDEX IF NOT EXISTS outbox_waiting ON outbox (aggregate, id) WHERE published_at IS NULL;
CREATE INDEX IF NOT EXISTS outbox_in_order ON outbox (id) WHERE published_at IS NULL;
