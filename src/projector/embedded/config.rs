//! What the store takes of memory and disk. fjall's own defaults are for one process with few keyspaces:
//! 64 MiB of memtable in each, unbounded in total (717 MB were seen with 2 M rows in many buckets).

use fjall::KeyspaceCreateOptions;
use fjall::compaction::Leveled;
use fjall::config::{BloomConstructionPolicy, FilterPolicy, FilterPolicyEntry};

/// How much memory the store may take. In all about `write_buffer_bytes` x 2 for memtables (the active ones and
/// those on their way to disk), `cache_bytes`, and some 30 MiB of filters, indexes and write buffers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Config {
    /// Bytes of rows in memory that are in the journal but not in tables yet, over all buckets. Default 32 MiB:
    /// a hot bucket then writes tables of 8 MiB or more, large enough to need few compactions.
    pub write_buffer_bytes: u64,
    /// Cache of blocks read from tables, in bytes. Default 16 MiB: fresh messages are served from the hot tail
    /// and the page cache holds the files, so it only saves parsing.
    pub cache_bytes: u64,
    /// Journal on disk, in bytes, above which fjall writes the tables that hold the oldest file back. Default
    /// 64 MiB, the least it takes. A file has 64 MiB, so about two more exist at most; a start reads them all, at
    /// some 200 MiB/s.
    pub journal_bytes: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self { write_buffer_bytes: 32 * MIB, cache_bytes: 16 * MIB, journal_bytes: JOURNAL_BYTES_MIN }
    }
}

const MIB: u64 = 1024 * 1024;

/// The least that fjall takes as [`Config::journal_bytes`].
pub(super) const JOURNAL_BYTES_MIN: u64 = 64 * MIB;

/// Background threads of fjall: one flushes and compacts. With two, fjall 3.1 keeps the first free for
/// flushes by letting it put compactions back into the queue, over and over: a busy loop.
pub(super) const WORKER_THREADS: usize = 1;

/// Open files that fjall keeps: a table each. Far below the usual 1024 a process.
pub(super) const OPEN_FILES_MAX: usize = 256;

/// Largest memtable of one keyspace, as a part of [`Config::write_buffer_bytes`].
pub(super) const MEMTABLE_PARTS: u64 = 2;

/// Memtables waiting for the background thread beyond which a write waits for it.
pub(super) const WAITING_FLUSHES_MAX: usize = 1;

/// Tables of the first level that start a compaction. fjall's 4 doubles the writing; buckets are dropped
/// before most of them get here, and 20 would slow down writes.
const FIRST_LEVEL_TABLES: u8 = 8;

/// Bits a key in the filter of a table: a miss is taken for a hit once in about 800 probes.
const FILTER_BITS_PER_KEY: f32 = 14.0;

impl Config {
    /// Options of every keyspace.
    pub(super) fn keyspace_options(&self) -> KeyspaceCreateOptions {
        let filter = FilterPolicyEntry::Bloom(BloomConstructionPolicy::BitsPerKey(FILTER_BITS_PER_KEY));
        KeyspaceCreateOptions::default()
            .max_memtable_size(self.write_buffer_bytes / MEMTABLE_PARTS)
            // A fetch looks into every bucket, so even the last level sees mostly misses.
            .expect_point_read_hits(false)
            .filter_policy(FilterPolicy::new([filter]))
            .compaction_strategy(std::sync::Arc::new(Leveled::default().with_l0_threshold(FIRST_LEVEL_TABLES)))
    }
}
