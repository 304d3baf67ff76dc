-- How many tokens in a row before this one were presented again late (docs/adr/0016-late-refreshes.md). A constant
-- default rewrites no row.
ALTER TABLE refresh_tokens ADD COLUMN late_run smallint NOT NULL DEFAULT 0;
