-- Signed into the addresses of a private stream, which therefore end with the next change. Counted by a trigger, so that
-- what the version before this one writes while both run counts, too.
ALTER TABLE videos ADD COLUMN visibility_changes int NOT NULL DEFAULT 0;

CREATE FUNCTION visibility_changed() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.visibility_changes := OLD.visibility_changes + 1;
    RETURN NEW;
END $$;

CREATE TRIGGER visibility_changed BEFORE UPDATE OF visibility ON videos
    FOR EACH ROW WHEN (NEW.visibility <> OLD.visibility) EXECUTE FUNCTION visibility_changed();
