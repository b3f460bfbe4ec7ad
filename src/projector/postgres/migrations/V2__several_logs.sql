-- Several logs in the same tables: one for each node of a cluster. A broker that is alone has one row, as before.

ALTER TABLE walcast.projection DROP COLUMN only_row;
ALTER TABLE walcast.projection ADD PRIMARY KEY (log_id);
ALTER TABLE walcast.projection ADD COLUMN node text COLLATE "C" UNIQUE;

COMMENT ON TABLE walcast.projection IS 'For each log how far its history is, and who writes it. Changed together with the rows, in one transaction.';
COMMENT ON COLUMN walcast.projection.node IS 'The node of the cluster that this is the log of; null for a broker that is alone.';

CREATE TABLE walcast.cluster (
    only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    members  text    NOT NULL
);

COMMENT ON TABLE walcast.cluster IS 'Whether these are the tables of a cluster, and who shares them. Empty for a broker that is alone.';
COMMENT ON COLUMN walcast.cluster.members IS 'JSON: the newest layout that a node has come with, and each node with its log and its slots.';

CREATE TABLE walcast.lacking (
    subject text        COLLATE "C" PRIMARY KEY,
    until   timestamptz NOT NULL
);

COMMENT ON TABLE walcast.lacking IS 'Subjects of which a live message was not taken by these tables: a dead letter of its node.';
COMMENT ON COLUMN walcast.lacking.until IS 'When the last of those messages expires.';
