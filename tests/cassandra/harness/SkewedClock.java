/** The clock of a node that is wrong by a fixed time: what Cassandra takes for write times, TTL and now(). */
public class SkewedClock implements org.apache.cassandra.utils.Clock {
    private static final long AHEAD_MILLIS = Long.getLong("walcast.clock_ahead_millis");

    public long nanoTime() {
        return System.nanoTime();
    }

    public long currentTimeMillis() {
        return System.currentTimeMillis() + AHEAD_MILLIS;
    }
}
