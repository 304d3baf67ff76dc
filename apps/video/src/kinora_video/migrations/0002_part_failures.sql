-- Attempts that ffmpeg failed. `attempts` has the others: those of a worker that ended without a word.
ALTER TABLE parts ADD COLUMN failures int NOT NULL DEFAULT 0;
