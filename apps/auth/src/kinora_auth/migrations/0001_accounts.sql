CREATE TABLE users (
    id uuid PRIMARY KEY,
    username text NOT NULL,
    email text NOT NULL,
    display_name text NOT NULL,
    bio text NOT NULL,
    roles text[] NOT NULL DEFAULT '{}',
    password_hash text NOT NULL,
    -- Tells a new password from the same one hashed anew.
    password_changed_at timestamptz NOT NULL,
    created_at timestamptz NOT NULL
);
CREATE UNIQUE INDEX users_username ON users (lower(username));
CREATE UNIQUE INDEX users_email ON users (lower(email));

-- One login on one device: the family of its refresh tokens. A session that ended has no row.
CREATE TABLE sessions (
    id uuid PRIMARY KEY,
    user_id uuid NOT NULL REFERENCES users ON DELETE CASCADE,
    user_agent text NOT NULL,
    address text NOT NULL,
    created_at timestamptz NOT NULL,
    last_used_at timestamptz NOT NULL,
    expires_at timestamptz NOT NULL
);
CREATE INDEX sessions_user_id ON sessions (user_id);
CREATE INDEX sessions_expires_at ON sessions (expires_at);

CREATE TABLE refresh_tokens (
    hash bytea PRIMARY KEY,
    session_id uuid NOT NULL REFERENCES sessions ON DELETE CASCADE,
    -- The access token that is handed out together with this refresh token.
    access_id uuid NOT NULL,
    created_at timestamptz NOT NULL,
    used_at timestamptz
);
CREATE INDEX refresh_tokens_session_id ON refresh_tokens (session_id);
CREATE INDEX refresh_tokens_used_at ON refresh_tokens (used_at);

-- Sessions that ended while an access token of theirs may still be valid. Redis holds a copy, for those who verify.
-- It names no user, so that an account can be deleted without a trace.
CREATE TABLE revocations (
    session_id uuid PRIMARY KEY,
    expires_at timestamptz NOT NULL
);
CREATE INDEX revocations_expires_at ON revocations (expires_at);

CREATE TABLE signing_keys (
    kid text PRIMARY KEY,
    encrypted_private_key bytea NOT NULL,
    signs_from timestamptz NOT NULL
);
