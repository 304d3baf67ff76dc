-- The media service's draft of the video's document, which video.upload_started names; null for uploads without one.
ALTER TABLE videos ADD COLUMN draft_id uuid;
