//! The store as a synchronous program: one writer, many readers.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::fmt;
use std::fs::File;
use std::io;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use fjall::{AbstractTree as _, Database, Keyspace, PersistMode};
use parking_lot::RwLock;
use tracing::debug;

use super::codec::{self, BUCKET_PREFIX, POSITION_KEY, SIGN_KEY};
use super::config::{Config, MEMTABLE_PARTS, WAITING_FLUSHES_MAX};
use super::errors::{failed, inconsistent};
use super::space;
use crate::event::{MessageId, Projected, UnixMicros};
use crate::projector::bucket::BucketKey;
use crate::projector::{ApplyError, HighWaterMark, Row, StoreBatch, StoreError, StoredMessage};

/// Most buckets that one `expire` drops. Each costs 15 to 50 ms, mostly fsync, and batches wait meanwhile. With
/// life times of all classes in use, less than two buckets come to their end between two calls.
const DROPS_MAX: usize = 4;

/// What an entry of a memtable takes beyond its key and value, in bytes; measured as the resident set per entry.
const ENTRY_OVERHEAD_BYTES: u64 = 128;

/// How often a writer looks whether the background thread has caught up.
const FLUSH_POLL: Duration = Duration::from_millis(1);

/// A time bucket that exists.
#[derive(Clone)]
struct Bucket {
    key: BucketKey,
    keyspace: Keyspace,
}

/// What reads need; shared by all threads.
pub(super) struct Engine {
    database: Database,
    meta: Keyspace,
    /// The newest last. Replaced as a whole, so that a read works on one state.
    buckets: RwLock<Arc<[Bucket]>>,
    keyspaces_directory: PathBuf,
    config: Config,
}

/// What only the one writer needs.
pub(super) struct Writer {
    projected: Projected,
    /// Bytes written to each keyspace since its memtable was last handed to the background thread.
    in_memory: Vec<(Keyspace, u64)>,
}

impl Writer {
    /// The last position that was committed.
    pub(super) const fn projected(&self) -> Projected {
        self.projected
    }
}

impl Engine {
    /// Takes over an open database whose format was checked.
    pub(super) fn new(
        database: Database,
        meta: Keyspace,
        keyspaces_directory: PathBuf,
        config: Config,
    ) -> Result<(Self, Writer), StoreError> {
        let projected = match meta.get(POSITION_KEY).map_err(|error| failed(&error))? {
            Some(value) => codec::position(&value).ok_or_else(|| inconsistent("its position does not decode"))?,
            None => Projected::default(),
        };
        let mut buckets = Vec::new();
        for name in database.list_keyspace_names() {
            if let Some(key) = BucketKey::from_keyspace_name(&name) {
                let keyspace =
                    database.keyspace(&name, || config.keyspace_options()).map_err(|error| failed(&error))?;
                buckets.push(Bucket { key, keyspace });
            }
        }
        buckets.sort_by_key(|bucket| bucket.key.end());
        check_buckets(&meta, &buckets)?;
        let engine = Self { database, meta, buckets: RwLock::new(buckets.into()), keyspaces_directory, config };
        let mut writer = Writer { projected, in_memory: Vec::new() };
        writer.count_recovered(&engine);
        Ok((engine, writer))
    }

    /// Commits a batch: rows, high-water marks and position at once.
    pub(super) fn apply(&self, writer: &mut Writer, batch: &StoreBatch) -> Result<(), ApplyError> {
        if writer.projected != batch.previous {
            return Err(ApplyError::WrongPosition { found: writer.projected, expected: batch.previous });
        }
        let items = batch.rows.len() + batch.high_water_marks.len() + 1;
        let mut write = self.write_of(&batch.rows, items)?;
        self.add_rows(writer, &mut write, &batch.rows)?;
        let mut bytes = POSITION_KEY.len();
        for HighWaterMark { subject, id, .. } in &batch.high_water_marks {
            let key = codec::mark_key(subject);
            bytes += key.len();
            write.insert(&self.meta, key, id.get().to_be_bytes());
        }
        write.insert(&self.meta, POSITION_KEY, batch.projected.sequence().get().to_be_bytes());
        writer.count(&self.meta, batch.high_water_marks.len() + 1, bytes);
        write.commit().map_err(|error| failed(&error))?;
        writer.projected = batch.projected;
        // After the commit: whatever happens here, the batch is in.
        self.bound_memory(writer).map_err(ApplyError::Store)
    }

    /// Commits rows alone.
    pub(super) fn rewrite(&self, writer: &mut Writer, rows: &[Row]) -> Result<(), StoreError> {
        let mut write = self.write_of(rows, rows.len())?;
        self.add_rows(writer, &mut write, rows)?;
        write.commit().map_err(|error| failed(&error))?;
        self.bound_memory(writer)
    }

    /// An empty write of `items` entries, for which there is room.
    fn write_of(&self, rows: &[Row], items: usize) -> Result<fjall::OwnedWriteBatch, StoreError> {
        let row_bytes = |row: &Row| (row.subject.as_str().len() + row.body.len()) as u64 + ENTRY_OVERHEAD_BYTES;
        space::check(&self.keyspaces_directory, rows.iter().map(row_bytes).sum())?;
        Ok(fjall::OwnedWriteBatch::with_capacity(self.database.clone(), items)
            // fdatasync. The journal's size was fixed and synced when it was made, or grows: then the size
            // belongs to what fdatasync makes durable.
            .durability(Some(PersistMode::SyncData)))
    }

    /// Adds the rows bucket by bucket in key order: neighbours in the batch are then neighbours in the memtable,
    /// whose nodes are still in the CPU's cache. Of all costs of a row, finding its place there is the largest.
    fn add_rows(
        &self,
        writer: &mut Writer,
        write: &mut fjall::OwnedWriteBatch,
        rows: &[Row],
    ) -> Result<(), StoreError> {
        let place = |row: &Row| BucketKey::of(row.published_at, row.expiration);
        let mut rows: Vec<(BucketKey, &Row)> = rows.iter().map(|row| (place(row), row)).collect();
        rows.sort_unstable_by(|(bucket, row), (other_bucket, other)| {
            (bucket, &row.subject, row.id).cmp(&(other_bucket, &other.subject, other.id))
        });
        for rows in rows.chunk_by(|(bucket, _), (other, _)| bucket == other) {
            let (bucket, made) = self.bucket(rows[0].0)?;
            if made {
                write.insert(&self.meta, codec::bucket_key(&bucket.key.keyspace_name()), Vec::new());
                write.insert(&bucket.keyspace, SIGN_KEY, Vec::new());
            }
            let mut bytes = 0;
            for (_, row) in rows {
                let key = codec::row_key(&row.subject, row.id);
                let value = codec::row_value(row.published_at, row.expiration, &row.body);
                bytes += key.len() + value.len();
                write.insert(&bucket.keyspace, key, value);
            }
            writer.count(&bucket.keyspace, rows.len(), bytes);
        }
        Ok(())
    }

    /// The row of `key`, unless it is expired at `now`.
    pub(super) fn fetch(&self, key: &[u8], now: UnixMicros) -> Result<Option<StoredMessage>, StoreError> {
        let buckets = Arc::clone(&self.buckets.read());
        // A bucket that is dropped meanwhile keeps its files until this handle goes; and it holds nothing live.
        for bucket in buckets.iter().rev().filter(|bucket| bucket.key.end() > now) {
            let Some(value) = bucket.keyspace.get(key).map_err(|error| failed(&error))? else {
                continue;
            };
            let message = codec::stored_message(&value).ok_or_else(|| {
                inconsistent(&format!("a row in bucket {} does not decode", bucket.key.keyspace_name()))
            })?;
            let live = now < message.expiration.expires_at(message.published_at);
            return Ok(live.then_some(message));
        }
        Ok(None)
    }

    /// The live rows of these keys, which are of one subject, as [`crate::projector::Store::after`] has them.
    pub(super) fn after(
        &self,
        keys: RangeInclusive<Vec<u8>>,
        messages_max: usize,
        bytes_max: usize,
        now: UnixMicros,
    ) -> Result<Vec<(MessageId, StoredMessage)>, StoreError> {
        let buckets = Arc::clone(&self.buckets.read());
        let live = buckets.iter().filter(|bucket| bucket.key.end() > now);
        let mut runs: Vec<_> = live.map(|bucket| bucket.keyspace.range(keys.clone())).collect();
        // The next row of each bucket; the one with the least id is taken. A row is in one bucket only.
        let mut next = BinaryHeap::new();
        let read = |next: &mut BinaryHeap<_>, runs: &mut Vec<fjall::Iter>, run: usize| -> Result<(), StoreError> {
            let Some(row) = runs[run].next() else { return Ok(()) };
            let (key, value) = row.into_inner().map_err(|error| failed(&error))?;
            let id = codec::row_id(&key).ok_or_else(|| inconsistent("the key of a row does not decode"))?;
            next.push(Reverse((id, run, value)));
            Ok(())
        };
        for run in 0..runs.len() {
            read(&mut next, &mut runs, run)?;
        }
        let (mut found, mut bytes) = (Vec::new(), 0);
        while let Some(Reverse((id, run, value))) = next.pop() {
            let message =
                codec::stored_message(&value).ok_or_else(|| inconsistent(&format!("row {id} does not decode")))?;
            if now < message.expiration.expires_at(message.published_at) {
                if found.len() >= messages_max || bytes >= bytes_max {
                    break;
                }
                bytes += message.body.len();
                found.push((id, message));
            }
            read(&mut next, &mut runs, run)?;
        }
        Ok(found)
    }

    /// The high-water mark under `key`.
    pub(super) fn high_water_mark(&self, key: &[u8]) -> Result<Option<MessageId>, StoreError> {
        let Some(value) = self.meta.get(key).map_err(|error| failed(&error))? else {
            return Ok(None);
        };
        codec::mark(&value).map(Some).ok_or_else(|| inconsistent("a high-water mark does not decode"))
    }

    /// Drops buckets without live rows, the oldest first.
    pub(super) fn expire(&self, writer: &mut Writer, now: UnixMicros) -> Result<(), StoreError> {
        let buckets = Arc::clone(&self.buckets.read());
        let ended = buckets.iter().filter(|bucket| bucket.key.end() <= now).take(DROPS_MAX);
        let ended: Vec<Bucket> = ended.cloned().collect();
        if ended.is_empty() {
            return Ok(());
        }
        let kept = buckets.iter().filter(|bucket| ended.iter().all(|other| other.key != bucket.key));
        *self.buckets.write() = kept.cloned().collect();
        for bucket in ended {
            let name = bucket.key.keyspace_name();
            writer.in_memory.retain(|(keyspace, _)| *keyspace != bucket.keyspace);
            // First: a bucket that is noted and gone would be one that was lost.
            let mut write =
                fjall::OwnedWriteBatch::with_capacity(self.database.clone(), 1).durability(Some(PersistMode::SyncData));
            write.remove(&self.meta, codec::bucket_key(&name));
            write.commit().map_err(|error| failed(&error))?;
            self.database.delete_keyspace(bucket.keyspace).map_err(|error| failed(&error))?;
            debug!(bucket = name, "dropped an expired bucket");
        }
        Ok(())
    }

    /// The bucket of this key, and whether it was made because it did not exist. Called by the one writer.
    fn bucket(&self, key: BucketKey) -> Result<(Bucket, bool), StoreError> {
        let found = self.buckets.read().iter().rev().find(|bucket| bucket.key == key).cloned();
        if let Some(bucket) = found {
            return Ok((bucket, false));
        }
        let name = key.keyspace_name();
        let keyspace =
            self.database.keyspace(&name, || self.config.keyspace_options()).map_err(|error| failed(&error))?;
        // fjall does not sync the directory above the new one. Rows of a keyspace whose directory is gone after
        // a power cut would be skipped when the journal is read again.
        sync_directory(&self.keyspaces_directory).map_err(|error| failed(&error))?;
        let bucket = Bucket { key, keyspace };
        let mut buckets = self.buckets.write();
        let mut extended = buckets.to_vec();
        let place = extended.partition_point(|other| other.key.end() <= key.end());
        extended.insert(place, bucket.clone());
        debug!(bucket = name, buckets = extended.len(), "opened a bucket");
        *buckets = extended.into();
        Ok((bucket, true))
    }

    /// Hands memtables to the background thread, the largest first, so that all together stay within
    /// their bound; waits for it when it does not keep up. fjall bounds each memtable, but not their sum.
    fn bound_memory(&self, writer: &mut Writer) -> Result<(), StoreError> {
        while let Some(largest) = writer.largest_to_flush(&self.config) {
            largest.rotate_memtable().map_err(|error| failed(&error))?;
            writer.in_memory.retain(|(keyspace, _)| *keyspace != largest);
            while self.database.outstanding_flushes() > WAITING_FLUSHES_MAX {
                // Tells a background thread that has died of an error, so that this cannot wait for ever.
                self.database.persist(PersistMode::Buffer).map_err(|error| failed(&error))?;
                std::thread::sleep(FLUSH_POLL);
            }
        }
        Ok(())
    }
}

/// Whether every bucket that was made is there with what it was made with. fjall takes a keyspace whose files are gone for
/// an empty one, and every row of it would be called expired.
fn check_buckets(meta: &Keyspace, buckets: &[Bucket]) -> Result<(), StoreError> {
    for noted in meta.prefix(BUCKET_PREFIX) {
        let noted = noted.key().map_err(|error| failed(&error))?;
        let found = buckets.iter().find(|bucket| codec::bucket_key(&bucket.key.keyspace_name()) == *noted);
        let sign = found.map(|bucket| bucket.keyspace.get(SIGN_KEY)).transpose().map_err(|error| failed(&error))?;
        if sign.flatten().is_none() {
            let name = String::from_utf8_lossy(&noted[BUCKET_PREFIX.len()..]).into_owned();
            return Err(inconsistent(&format!(
                "its bucket {name} has lost its files; restore the directory from a backup, or move it away to have what \
                 the log still holds projected anew"
            )));
        }
    }
    Ok(())
}

impl Writer {
    fn count(&mut self, keyspace: &Keyspace, entries: usize, bytes: usize) {
        let bytes = ENTRY_OVERHEAD_BYTES * entries as u64 + bytes as u64;
        match self.in_memory.iter_mut().rev().find(|(other, _)| other.id() == keyspace.id()) {
            Some((_, total)) => *total += bytes,
            None => self.in_memory.push((keyspace.clone(), bytes)),
        }
    }

    /// What the journal has put into memory at the start.
    fn count_recovered(&mut self, engine: &Engine) {
        let buckets = Arc::clone(&engine.buckets.read());
        for keyspace in buckets.iter().map(|bucket| &bucket.keyspace).chain([&engine.meta]) {
            let memtable = keyspace.tree.active_memtable();
            self.count(keyspace, memtable.len(), usize::try_from(memtable.size()).unwrap_or(usize::MAX));
        }
    }

    fn largest_to_flush(&self, config: &Config) -> Option<Keyspace> {
        let total: u64 = self.in_memory.iter().map(|(_, bytes)| bytes).sum();
        let (keyspace, bytes) = self.in_memory.iter().max_by_key(|(_, bytes)| *bytes)?;
        (total > config.write_buffer_bytes || *bytes > config.write_buffer_bytes / MEMTABLE_PARTS)
            .then(|| keyspace.clone())
    }
}

/// Makes the entries of a directory durable.
pub(super) fn sync_directory(path: &std::path::Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

impl fmt::Debug for Engine {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Engine").field("buckets", &self.buckets.read().len()).finish_non_exhaustive()
    }
}

impl fmt::Debug for Writer {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Writer").field("projected", &self.projected).finish_non_exhaustive()
    }
}
