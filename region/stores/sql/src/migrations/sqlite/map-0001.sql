-- Agreed records. A namespace has one revision, raised by every change; a record whose value is null
-- was deleted.
CREATE TABLE map_spaces (
    space TEXT NOT NULL PRIMARY KEY,
    revision INTEGER NOT NULL,
    forgotten INTEGER NOT NULL
) STRICT;
CREATE TABLE map_entries (
    space TEXT NOT NULL,
    key TEXT NOT NULL,
    value BLOB,
    revision INTEGER NOT NULL,
    PRIMARY KEY (space, key)
) STRICT, WITHOUT ROWID;
CREATE INDEX map_entries_revision ON map_entries (space, revision);
CREATE INDEX map_entries_deleted ON map_entries (space, revision) WHERE value IS NULL;
