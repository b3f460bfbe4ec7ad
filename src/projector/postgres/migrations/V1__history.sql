-- The history of one log of walcast. Read from these tables as you like; only walcast writes to them.

CREATE TABLE walcast.messages (
    subject      text        COLLATE "C" NOT NULL,
    id           integer     NOT NULL,
    sequence     bigint      NOT NULL,
    published_at timestamptz NOT NULL,
    expires_at   timestamptz NOT NULL,
    kept_until   timestamptz NOT NULL,
    body         bytea       NOT NULL,
    PRIMARY KEY (subject, id, kept_until)
) PARTITION BY LIST (kept_until);

COMMENT ON TABLE walcast.messages IS 'Messages with a life time, until they expire. Live ones: WHERE expires_at > now().';
COMMENT ON COLUMN walcast.messages.subject IS 'The stream that the message was published on, 1 to 255 bytes.';
COMMENT ON COLUMN walcast.messages.id IS 'The id that publishing returned: dense, from 1, per subject.';
COMMENT ON COLUMN walcast.messages.sequence IS 'The place of the message in the log: one order over all subjects.';
COMMENT ON COLUMN walcast.messages.published_at IS 'When the broker took the message, exact to the microsecond.';
COMMENT ON COLUMN walcast.messages.expires_at IS 'From here on Fetch does not find it: published_at plus the life time, which is whole seconds.';
COMMENT ON COLUMN walcast.messages.kept_until IS 'When the row goes, with its whole partition: expires_at rounded up.';
COMMENT ON COLUMN walcast.messages.body IS 'The message, byte for byte.';

-- Updated with every batch: room in the pages keeps the updates in place (HOT) and the table small.
CREATE TABLE walcast.subjects (
    subject text    COLLATE "C" PRIMARY KEY,
    last_id integer NOT NULL
) WITH (fillfactor = 60);

COMMENT ON TABLE walcast.subjects IS 'Every subject with the last id that was projected, fire and forget included.';

CREATE TABLE walcast.projection (
    only_row   boolean     PRIMARY KEY DEFAULT true CHECK (only_row),
    log_id     text        NOT NULL,
    epoch      bigint      NOT NULL,
    holder     text        NOT NULL,
    connection bigint      NOT NULL,
    projected  bigint      NOT NULL,
    taken_at   timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now()
) WITH (fillfactor = 10);

COMMENT ON TABLE walcast.projection IS 'How far the history is, and who writes it. Changed together with the rows, in one transaction.';
COMMENT ON COLUMN walcast.projection.log_id IS 'The log that this is the history of.';
COMMENT ON COLUMN walcast.projection.epoch IS 'Which start of that log has the store; an older one is fenced.';
COMMENT ON COLUMN walcast.projection.holder IS 'A random name of the process that has the store.';
COMMENT ON COLUMN walcast.projection.connection IS 'Counts the connections of that process: what an earlier one still sends is void.';
COMMENT ON COLUMN walcast.projection.projected IS 'The last sequence of the log that is in these tables.';

-- Plans are kept in the server's session, so they outlive an unnamed statement: planning over all partitions costs more than looking.
CREATE FUNCTION walcast.fetch(of_subject text, of_id integer, at_time timestamptz)
RETURNS TABLE (published_at timestamptz, expires_at timestamptz, body bytea)
LANGUAGE plpgsql STABLE AS $$
BEGIN
    RETURN QUERY SELECT m.published_at, m.expires_at, m.body FROM walcast.messages AS m
        WHERE m.subject = of_subject AND m.id = of_id AND m.expires_at > at_time AND m.kept_until > at_time;
END $$;

COMMENT ON FUNCTION walcast.fetch IS 'The message with this id on this subject, unless it is expired at that time.';
