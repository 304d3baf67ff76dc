CREATE TABLE videos (
    id uuid PRIMARY KEY,
    owner_id uuid NOT NULL,
    title text NOT NULL,
    filename text NOT NULL,
    size bigint NOT NULL CHECK (size >= 0),
    visibility text NOT NULL CHECK (visibility IN ('private', 'unlisted', 'public')),
    -- The version of the media document that the visibility was taken from: an event that came late is known by it.
    visibility_version bigint NOT NULL DEFAULT 0,
    state text NOT NULL CHECK (state IN ('uploading', 'processing', 'playable', 'ready', 'failed', 'deleted')),
    -- Whether the place for the bytes was made; until then the upload is only planned, and nobody was told of it.
    begun boolean NOT NULL DEFAULT false,
    bytes_received bigint NOT NULL DEFAULT 0,
    -- Grows with every change that a viewer of the progress would see.
    version bigint NOT NULL DEFAULT 1,
    -- kinora_video.probe.Source; absent until probed.
    source jsonb,
    -- The object that holds the poster, below the video's prefix.
    poster text,
    poster_time double precision,
    failure_code text NOT NULL DEFAULT '',
    failure_detail text NOT NULL DEFAULT '',
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    transcoding_at timestamptz,
    -- When what is left in the object store is to be removed (again); null when nothing is.
    purge_at timestamptz
);
CREATE INDEX videos_owner ON videos (owner_id, id);
CREATE INDEX videos_uploading ON videos (id) WHERE state = 'uploading';
CREATE INDEX videos_purge ON videos (purge_at) WHERE purge_at IS NOT NULL;

-- What is made of a video: its ladder, and its sound.
CREATE TABLE renditions (
    video_id uuid NOT NULL REFERENCES videos ON DELETE CASCADE,
    name text NOT NULL,
    kind text NOT NULL CHECK (kind IN ('video', 'audio')),
    width int NOT NULL,
    height int NOT NULL,
    frame_rate text NOT NULL,
    -- RFC 6381; absent until its init segment is stored.
    codecs text,
    PRIMARY KEY (video_id, name)
);

-- The pieces of work: any worker may do any of them, and again.
CREATE TABLE parts (
    video_id uuid NOT NULL REFERENCES videos ON DELETE CASCADE,
    index int NOT NULL,
    kind text NOT NULL CHECK (kind IN ('video', 'audio', 'poster')),
    lane text NOT NULL CHECK (lane IN ('first', 'sound', 'bulk')),
    start_seconds double precision NOT NULL,
    -- Null: to the end of the source.
    end_seconds double precision,
    segment_seconds double precision NOT NULL,
    renditions text[] NOT NULL,
    -- Pixels to encode: what this part counts in the progress of the whole.
    cost double precision NOT NULL,
    state text NOT NULL DEFAULT 'waiting' CHECK (state IN ('waiting', 'queued', 'done')),
    -- Begun by a worker that did not live to tell, or failed by ffmpeg. An outage does not count.
    attempts int NOT NULL DEFAULT 0,
    -- 0 to 1; never falls, also when the part is done again.
    progress double precision NOT NULL DEFAULT 0,
    PRIMARY KEY (video_id, index)
);

-- What is stored: a row is written after its object.
CREATE TABLE segments (
    video_id uuid NOT NULL REFERENCES videos ON DELETE CASCADE,
    rendition text NOT NULL,
    part_index int NOT NULL,
    sequence int NOT NULL,
    duration double precision NOT NULL,
    size bigint NOT NULL,
    PRIMARY KEY (video_id, rendition, part_index, sequence)
);

CREATE FUNCTION video_changed() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_notify('video_changed', NEW.id::text);
    RETURN NULL;
END $$;

CREATE TRIGGER video_changed AFTER UPDATE OF version ON videos
    FOR EACH ROW WHEN (NEW.version > OLD.version) EXECUTE FUNCTION video_changed();
