-- Customers and what is theirs. `root` is the customer: part of every key. `owner` is what a record
-- belongs to. Every table with a `root` shows a transaction the rows of one customer alone: the one that
-- `gb6.root` names in it, whoever owns the tables. Ids are compared byte by byte.

-- Which database this is, and which keeps the catalogue.
CREATE TABLE directory_place (
    one BIGINT NOT NULL PRIMARY KEY CHECK (one = 1),
    shard TEXT COLLATE "C" NOT NULL,
    catalogue TEXT COLLATE "C" NOT NULL
);
-- The catalogue: where each customer is, and whose each instance is or was.
CREATE TABLE catalogue_roots (root TEXT COLLATE "C" NOT NULL PRIMARY KEY, shard TEXT COLLATE "C" NOT NULL);
CREATE TABLE catalogue_instances (instance TEXT COLLATE "C" NOT NULL PRIMARY KEY, root TEXT COLLATE "C" NOT NULL);

CREATE TABLE customers (root TEXT COLLATE "C" NOT NULL PRIMARY KEY);
CREATE TABLE organizations (
    root TEXT COLLATE "C" NOT NULL REFERENCES customers (root),
    id TEXT COLLATE "C" NOT NULL,
    owner TEXT COLLATE "C",
    version BIGINT NOT NULL,
    path TEXT COLLATE "C" NOT NULL,
    slug TEXT COLLATE "C" NOT NULL,
    name TEXT COLLATE "C" NOT NULL,
    kind TEXT COLLATE "C" NOT NULL,
    state TEXT COLLATE "C" NOT NULL,
    settings TEXT COLLATE "C" NOT NULL,
    PRIMARY KEY (root, id),
    UNIQUE (root, owner, slug),
    FOREIGN KEY (root, owner) REFERENCES organizations (root, id)
);
CREATE INDEX organizations_path ON organizations (root, path);
CREATE TABLE instances (
    root TEXT COLLATE "C" NOT NULL,
    id TEXT COLLATE "C" NOT NULL,
    owner TEXT COLLATE "C" NOT NULL,
    version BIGINT NOT NULL,
    region TEXT COLLATE "C" NOT NULL,
    residency TEXT COLLATE "C" NOT NULL,
    state TEXT COLLATE "C" NOT NULL,
    settings TEXT COLLATE "C" NOT NULL,
    PRIMARY KEY (root, id),
    FOREIGN KEY (root, owner) REFERENCES organizations (root, id)
);
CREATE INDEX instances_owner ON instances (root, owner, id);
CREATE TABLE keys (
    root TEXT COLLATE "C" NOT NULL,
    id TEXT COLLATE "C" NOT NULL,
    owner TEXT COLLATE "C" NOT NULL,
    version BIGINT NOT NULL,
    name TEXT COLLATE "C" NOT NULL,
    purpose TEXT COLLATE "C" NOT NULL,
    algorithm TEXT COLLATE "C" NOT NULL,
    public_key TEXT COLLATE "C",
    secret BYTEA,
    state TEXT COLLATE "C" NOT NULL,
    PRIMARY KEY (root, id),
    FOREIGN KEY (root, owner) REFERENCES instances (root, id)
);
CREATE INDEX keys_owner ON keys (root, owner, id);
CREATE TABLE people (
    root TEXT COLLATE "C" NOT NULL,
    id TEXT COLLATE "C" NOT NULL,
    owner TEXT COLLATE "C" NOT NULL,
    version BIGINT NOT NULL,
    subject TEXT COLLATE "C" NOT NULL,
    name TEXT COLLATE "C" NOT NULL,
    state TEXT COLLATE "C" NOT NULL,
    PRIMARY KEY (root, id),
    UNIQUE (root, owner, subject),
    FOREIGN KEY (root, owner) REFERENCES organizations (root, id)
);
CREATE TABLE memberships (
    root TEXT COLLATE "C" NOT NULL,
    id TEXT COLLATE "C" NOT NULL,
    owner TEXT COLLATE "C" NOT NULL,
    version BIGINT NOT NULL,
    person TEXT COLLATE "C" NOT NULL,
    state TEXT COLLATE "C" NOT NULL,
    PRIMARY KEY (root, id),
    FOREIGN KEY (root, owner) REFERENCES instances (root, id),
    FOREIGN KEY (root, person) REFERENCES people (root, id)
);
CREATE INDEX memberships_owner ON memberships (root, owner, id);
CREATE INDEX memberships_person ON memberships (root, person);
CREATE TABLE role_bindings (
    root TEXT COLLATE "C" NOT NULL,
    id TEXT COLLATE "C" NOT NULL,
    owner TEXT COLLATE "C" NOT NULL,
    version BIGINT NOT NULL,
    org TEXT COLLATE "C",
    instance TEXT COLLATE "C",
    person TEXT COLLATE "C" NOT NULL,
    role TEXT COLLATE "C" NOT NULL,
    PRIMARY KEY (root, id),
    UNIQUE (root, owner, person, role),
    CHECK ((org IS NULL) <> (instance IS NULL)),
    FOREIGN KEY (root, org) REFERENCES organizations (root, id),
    FOREIGN KEY (root, instance) REFERENCES instances (root, id),
    FOREIGN KEY (root, person) REFERENCES people (root, id)
);
CREATE INDEX role_bindings_person ON role_bindings (root, person);

-- What was changed, in the order of commits.
CREATE TABLE outbox_clock (
    one BIGINT NOT NULL PRIMARY KEY CHECK (one = 1),
    last BIGINT NOT NULL,
    first BIGINT NOT NULL
);
INSERT INTO outbox_clock (one, last, first) VALUES (1, 0, 1);
CREATE TABLE outbox (
    number BIGINT NOT NULL PRIMARY KEY,
    root TEXT COLLATE "C" NOT NULL,
    kind TEXT COLLATE "C" NOT NULL,
    id TEXT COLLATE "C" NOT NULL,
    version BIGINT
);

-- The audit: a chain of hashes for each organization, and its end. A table for each month, made ahead.
CREATE TABLE audit_heads (
    root TEXT COLLATE "C" NOT NULL,
    org TEXT COLLATE "C" NOT NULL,
    number BIGINT NOT NULL,
    hash BYTEA NOT NULL,
    PRIMARY KEY (root, org)
);
CREATE TABLE audit_entries (
    root TEXT COLLATE "C" NOT NULL,
    org TEXT COLLATE "C" NOT NULL,
    number BIGINT NOT NULL,
    at_ms BIGINT NOT NULL,
    actor TEXT COLLATE "C" NOT NULL,
    action TEXT COLLATE "C" NOT NULL,
    target TEXT COLLATE "C" NOT NULL,
    version BIGINT NOT NULL,
    detail TEXT COLLATE "C" NOT NULL,
    previous BYTEA NOT NULL,
    hash BYTEA NOT NULL,
    PRIMARY KEY (root, org, number, at_ms)
) PARTITION BY RANGE (at_ms);

-- Facts of usage, each once. A table for each month, made ahead.
CREATE TABLE usage_facts (
    root TEXT COLLATE "C" NOT NULL,
    region TEXT COLLATE "C" NOT NULL,
    shard BIGINT NOT NULL,
    epoch BIGINT NOT NULL,
    position BIGINT NOT NULL,
    dimension TEXT COLLATE "C" NOT NULL,
    at_ms BIGINT NOT NULL,
    instance TEXT COLLATE "C" NOT NULL,
    amount BIGINT NOT NULL,
    PRIMARY KEY (root, region, shard, epoch, position, dimension, at_ms)
) PARTITION BY RANGE (at_ms);
CREATE INDEX usage_facts_instance ON usage_facts (root, instance, dimension, at_ms);

-- The second wall between customers.
ALTER TABLE customers ENABLE ROW LEVEL SECURITY;
ALTER TABLE customers FORCE ROW LEVEL SECURITY;
CREATE POLICY customer ON customers USING (root = current_setting('gb6.root', true));
ALTER TABLE organizations ENABLE ROW LEVEL SECURITY;
ALTER TABLE organizations FORCE ROW LEVEL SECURITY;
CREATE POLICY customer ON organizations USING (root = current_setting('gb6.root', true));
ALTER TABLE instances ENABLE ROW LEVEL SECURITY;
ALTER TABLE instances FORCE ROW LEVEL SECURITY;
CREATE POLICY customer ON instances USING (root = current_setting('gb6.root', true));
ALTER TABLE keys ENABLE ROW LEVEL SECURITY;
ALTER TABLE keys FORCE ROW LEVEL SECURITY;
CREATE POLICY customer ON keys USING (root = current_setting('gb6.root', true));
ALTER TABLE people ENABLE ROW LEVEL SECURITY;
ALTER TABLE people FORCE ROW LEVEL SECURITY;
CREATE POLICY customer ON people USING (root = current_setting('gb6.root', true));
ALTER TABLE memberships ENABLE ROW LEVEL SECURITY;
ALTER TABLE memberships FORCE ROW LEVEL SECURITY;
CREATE POLICY customer ON memberships USING (root = current_setting('gb6.root', true));
ALTER TABLE role_bindings ENABLE ROW LEVEL SECURITY;
ALTER TABLE role_bindings FORCE ROW LEVEL SECURITY;
CREATE POLICY customer ON role_bindings USING (root = current_setting('gb6.root', true));
ALTER TABLE outbox ENABLE ROW LEVEL SECURITY;
ALTER TABLE outbox FORCE ROW LEVEL SECURITY;
CREATE POLICY customer ON outbox USING (root = current_setting('gb6.root', true));
ALTER TABLE audit_heads ENABLE ROW LEVEL SECURITY;
ALTER TABLE audit_heads FORCE ROW LEVEL SECURITY;
CREATE POLICY customer ON audit_heads USING (root = current_setting('gb6.root', true));
ALTER TABLE audit_entries ENABLE ROW LEVEL SECURITY;
ALTER TABLE audit_entries FORCE ROW LEVEL SECURITY;
CREATE POLICY customer ON audit_entries USING (root = current_setting('gb6.root', true));
ALTER TABLE usage_facts ENABLE ROW LEVEL SECURITY;
ALTER TABLE usage_facts FORCE ROW LEVEL SECURITY;
CREATE POLICY customer ON usage_facts USING (root = current_setting('gb6.root', true));
-- Whoever passes changes on reads those of all customers: which records, never their content.
CREATE POLICY reader ON outbox USING (current_setting('gb6.outbox', true) = 'all');
