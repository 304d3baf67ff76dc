-- One export of a user's own data (docs/adr/0023-export.md). It ends with the session that requested it.
CREATE TABLE exports (
    id uuid PRIMARY KEY,
    user_id uuid NOT NULL UNIQUE REFERENCES users ON DELETE CASCADE,
    session_id uuid NOT NULL REFERENCES sessions ON DELETE CASCADE,
    created_at timestamptz NOT NULL,
    expires_at timestamptz NOT NULL,
    -- The next page to read: of which service, and after which record of it.
    source text NOT NULL,
    cursor text NOT NULL DEFAULT '',
    -- 0 to 1.
    progress double precision NOT NULL DEFAULT 0,
    pages int NOT NULL DEFAULT 0,
    records bigint NOT NULL DEFAULT 0,
    -- In bytes, of all pages.
    size bigint NOT NULL DEFAULT 0,
    -- Until then it belongs to the process that works on it.
    leased_until timestamptz NOT NULL DEFAULT '-infinity',
    finished_at timestamptz
);
CREATE INDEX exports_session_id ON exports (session_id);
CREATE INDEX exports_expires_at ON exports (expires_at);

-- Compressed lines. Concatenated in order, they are the file.
CREATE TABLE export_pages (
    export_id uuid NOT NULL REFERENCES exports ON DELETE CASCADE,
    number int NOT NULL,
    data bytea NOT NULL,
    PRIMARY KEY (export_id, number)
);
