-- Customers and what is theirs. `root` is the customer: part of every key. `owner` is what a record
-- belongs to.

-- Which database this is, and which keeps the catalogue.
CREATE TABLE directory_place (
    one INTEGER NOT NULL PRIMARY KEY CHECK (one = 1),
    shard TEXT NOT NULL,
    catalogue TEXT NOT NULL
) STRICT;
-- The catalogue: where each customer is, and whose each instance is or was.
CREATE TABLE catalogue_roots (root TEXT NOT NULL PRIMARY KEY, shard TEXT NOT NULL) STRICT;
CREATE TABLE catalogue_instances (instance TEXT NOT NULL PRIMARY KEY, root TEXT NOT NULL) STRICT;

CREATE TABLE customers (root TEXT NOT NULL PRIMARY KEY) STRICT;
CREATE TABLE organizations (
    root TEXT NOT NULL REFERENCES customers (root),
    id TEXT NOT NULL,
    owner TEXT,
    version INTEGER NOT NULL,
    path TEXT NOT NULL,
    slug TEXT NOT NULL,
    name TEXT NOT NULL,
    kind TEXT NOT NULL,
    state TEXT NOT NULL,
    settings TEXT NOT NULL,
    PRIMARY KEY (root, id),
    UNIQUE (root, owner, slug),
    FOREIGN KEY (root, owner) REFERENCES organizations (root, id)
) STRICT;
CREATE INDEX organizations_path ON organizations (root, path);
CREATE TABLE instances (
    root TEXT NOT NULL,
    id TEXT NOT NULL,
    owner TEXT NOT NULL,
    version INTEGER NOT NULL,
    region TEXT NOT NULL,
    residency TEXT NOT NULL,
    state TEXT NOT NULL,
    settings TEXT NOT NULL,
    PRIMARY KEY (root, id),
    FOREIGN KEY (root, owner) REFERENCES organizations (root, id)
) STRICT;
CREATE INDEX instances_owner ON instances (root, owner, id);
CREATE TABLE keys (
    root TEXT NOT NULL,
    id TEXT NOT NULL,
    owner TEXT NOT NULL,
    version INTEGER NOT NULL,
    name TEXT NOT NULL,
    purpose TEXT NOT NULL,
    algorithm TEXT NOT NULL,
    public_key TEXT,
    secret BLOB,
    state TEXT NOT NULL,
    PRIMARY KEY (root, id),
    FOREIGN KEY (root, owner) REFERENCES instances (root, id)
) STRICT;
CREATE INDEX keys_owner ON keys (root, owner, id);
CREATE TABLE people (
    root TEXT NOT NULL,
    id TEXT NOT NULL,
    owner TEXT NOT NULL,
    version INTEGER NOT NULL,
    subject TEXT NOT NULL,
    name TEXT NOT NULL,
    state TEXT NOT NULL,
    PRIMARY KEY (root, id),
    UNIQUE (root, owner, subject),
    FOREIGN KEY (root, owner) REFERENCES organizations (root, id)
) STRICT;
CREATE TABLE memberships (
    root TEXT NOT NULL,
    id TEXT NOT NULL,
    owner TEXT NOT NULL,
    version INTEGER NOT NULL,
    person TEXT NOT NULL,
    state TEXT NOT NULL,
    PRIMARY KEY (root, id),
    FOREIGN KEY (root, owner) REFERENCES instances (root, id),
    FOREIGN KEY (root, person) REFERENCES people (root, id)
) STRICT;
CREATE INDEX memberships_owner ON memberships (root, owner, id);
CREATE INDEX memberships_person ON memberships (root, person);
CREATE TABLE role_bindings (
    root TEXT NOT NULL,
    id TEXT NOT NULL,
    owner TEXT NOT NULL,
    version INTEGER NOT NULL,
    org TEXT,
    instance TEXT,
    person TEXT NOT NULL,
    role TEXT NOT NULL,
    PRIMARY KEY (root, id),
    UNIQUE (root, owner, person, role),
    CHECK ((org IS NULL) <> (instance IS NULL)),
    FOREIGN KEY (root, org) REFERENCES organizations (root, id),
    FOREIGN KEY (root, instance) REFERENCES instances (root, id),
    FOREIGN KEY (root, person) REFERENCES people (root, id)
) STRICT;
CREATE INDEX role_bindings_person ON role_bindings (root, person);

-- What was changed, in the order of commits.
CREATE TABLE outbox_clock (
    one INTEGER NOT NULL PRIMARY KEY CHECK (one = 1),
    last INTEGER NOT NULL,
    first INTEGER NOT NULL
) STRICT;
INSERT INTO outbox_clock (one, last, first) VALUES (1, 0, 1);
CREATE TABLE outbox (
    number INTEGER NOT NULL PRIMARY KEY,
    root TEXT NOT NULL,
    kind TEXT NOT NULL,
    id TEXT NOT NULL,
    version INTEGER
) STRICT;

-- The audit: a chain of hashes for each organization, and its end.
CREATE TABLE audit_heads (
    root TEXT NOT NULL,
    org TEXT NOT NULL,
    number INTEGER NOT NULL,
    hash BLOB NOT NULL,
    PRIMARY KEY (root, org)
) STRICT;
CREATE TABLE audit_entries (
    root TEXT NOT NULL,
    org TEXT NOT NULL,
    number INTEGER NOT NULL,
    at_ms INTEGER NOT NULL,
    actor TEXT NOT NULL,
    action TEXT NOT NULL,
    target TEXT NOT NULL,
    version INTEGER NOT NULL,
    detail TEXT NOT NULL,
    previous BLOB NOT NULL,
    hash BLOB NOT NULL,
    PRIMARY KEY (root, org, number, at_ms)
) STRICT;

-- Facts of usage, each once.
CREATE TABLE usage_facts (
    root TEXT NOT NULL,
    region TEXT NOT NULL,
    shard INTEGER NOT NULL,
    epoch INTEGER NOT NULL,
    position INTEGER NOT NULL,
    dimension TEXT NOT NULL,
    at_ms INTEGER NOT NULL,
    instance TEXT NOT NULL,
    amount INTEGER NOT NULL,
    PRIMARY KEY (root, region, shard, epoch, position, dimension, at_ms)
) STRICT;
CREATE INDEX usage_facts_instance ON usage_facts (root, instance, dimension, at_ms);
