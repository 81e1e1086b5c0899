-- Agreed records. A namespace has one revision, raised by every change; a record whose value is null
-- was deleted. Keys are compared byte by byte.
CREATE TABLE map_spaces (
    space TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    revision BIGINT NOT NULL,
    forgotten BIGINT NOT NULL
) WITH (fillfactor = 50);
CREATE TABLE map_entries (
    space TEXT COLLATE "C" NOT NULL,
    key TEXT COLLATE "C" NOT NULL,
    value BYTEA,
    revision BIGINT NOT NULL,
    PRIMARY KEY (space, key)
);
CREATE INDEX map_entries_revision ON map_entries (space, revision);
CREATE INDEX map_entries_deleted ON map_entries (space, revision) WHERE value IS NULL;
