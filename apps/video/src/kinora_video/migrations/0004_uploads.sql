-- Unknown as long as the client has not said it (tus, creation-defer-length).
ALTER TABLE videos ALTER COLUMN size DROP NOT NULL;
-- The object store's id of the multipart upload. With the video's id it names the upload; null until tusd has told it.
ALTER TABLE videos ADD COLUMN multipart_id text;

-- Parts of files that are uploaded by themselves (tus, concatenation), until a final upload is made of them. A table of
-- its own, because nothing that knows videos shall take one of these for one.
CREATE TABLE partials (
    id uuid PRIMARY KEY,
    owner_id uuid NOT NULL,
    size bigint CHECK (size >= 0),
    multipart_id text,
    -- The video whose upload is made of it: a partial upload is used once.
    final_id uuid,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    -- When what is left in the object store is to be removed (again); null while it is in use.
    purge_at timestamptz
);
CREATE INDEX partials_owner ON partials (owner_id);
CREATE INDEX partials_final ON partials (final_id);
CREATE INDEX partials_purge ON partials (purge_at) WHERE purge_at IS NOT NULL;
