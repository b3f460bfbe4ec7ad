//! Pages of a subject, and those that are read ahead for whoever reads one after the other.
//!
//! A page that is asked for is a statement of its own. Who asks for one page after the other, at once, gets a reading: a task that
//! reads on while the pages before are sent, in statements of many rows, each of which is planned once for all its pages.
//!
//! A statement asks for no more than there is room for, and is read to its end at full speed. So none waits for a
//! subscriber: while one stalls, some memory is held for a second, and no connection, no transaction and nothing of the server.
//! Nothing is kept in the server's session between two statements, so any pooler will do.
//!
//! A reading never answers with an error, it ends: then the page is asked for by itself, which tells.

use std::collections::VecDeque;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::TryStreamExt as _;
use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio::time::timeout;
use tokio_postgres::types::Type;
use tracing::debug;

use super::connection::{ForMany, Readers, Value};
use super::errors;
use super::reads::{self, Page};
use super::values::Timestamp;
use crate::event::{MessageId, Subject, UnixMicros};
use crate::projector::{StoreError, StoredMessage};

/// Readings at once. Together they hold 32 MiB; whoever else catches up asks page by page.
const READINGS_MAX: usize = 4;

/// What a reading holds ready, in bytes, rows and what belongs to them: some 50 ms of the fastest subscriber.
const ROOM_BYTES: usize = 8 * 1024 * 1024;

/// What a statement is to bring, in bytes. It begins when twice that is free, because bodies differ.
const STATEMENT_BYTES: usize = ROOM_BYTES / 4;

/// Pages that a reading holds ready at most, however small they are.
const PAGES_MAX: usize = 256;

/// Rows of a statement: planning it, 1 ms with a handful of partitions, is then a small part of reading it. It holds a lock that
/// dropping a partition waits for, for some 20 ms.
const ROWS_MAX: usize = 8_192;

/// Memory that a row takes beside its body, in bytes.
const ROW_OVERHEAD_BYTES: usize = 96;

/// How many pages in a row somebody has to have asked for, each within [`PATIENCE`] after the one before. Two are ordered at once by
/// every subscriber, so only those after them say that it takes what it gets.
const PAGES_BEFORE: u32 = 4;

/// How long a reading keeps what nobody asks for.
const PATIENCE: Duration = Duration::from_secs(1);

/// How long the rows of a statement wait for room, if bodies have suddenly become larger than the page before let expect.
const STALL_MAX: Duration = Duration::from_millis(100);

/// Page ends that are remembered: as many as subscribers can have read within [`PATIENCE`] with pages of their own.
const ENDS_MAX: usize = 64;

/// Which page is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Ask {
    /// The subject.
    pub(super) subject: Subject,
    /// Ids above this one.
    pub(super) after: i32,
    /// Messages at most.
    pub(super) messages_max: usize,
    /// No more messages once their bodies have as many bytes.
    pub(super) bytes_max: usize,
}

/// Reads pages.
#[derive(Debug)]
pub(super) struct Pages {
    readers: Arc<Readers>,
    known: Arc<Mutex<Known>>,
    /// One for each reading that may begin.
    places: Arc<Semaphore>,
}

/// Who reads what.
#[derive(Debug, Default)]
struct Known {
    /// Where pages ended, the oldest first.
    ends: VecDeque<End>,
    /// What is being read, by whoever asks for the next page of it.
    readings: Vec<Reading>,
}

/// What would be asked for next, if somebody goes on after a page.
#[derive(Debug)]
struct End {
    next: Ask,
    /// Pages in a row.
    pages: u32,
    at: Instant,
}

/// The near end of a reading.
#[derive(Debug)]
struct Reading {
    next: Ask,
    /// It leaves out what expired before this time, and nothing else.
    now: UnixMicros,
    pages: mpsc::Receiver<(Page, OwnedSemaphorePermit)>,
    used: Instant,
    /// Tells the other end when this one is gone.
    _gone: oneshot::Sender<()>,
}

impl Pages {
    /// Pages by these connections.
    pub(super) fn new(readers: Arc<Readers>) -> Self {
        Self { readers, known: Arc::default(), places: Arc::new(Semaphore::new(READINGS_MAX)) }
    }

    /// The next messages, without those that are expired at `now`; none if there are no more.
    pub(super) async fn after(&self, ask: Ask, now: UnixMicros) -> Result<Vec<(MessageId, StoredMessage)>, StoreError> {
        if let Some(messages) = self.read_ahead(&ask, now).await {
            return Ok(messages);
        }
        let [messages_max, bytes_max] =
            [ask.messages_max, ask.bytes_max].map(|max| i64::try_from(max).unwrap_or(i64::MAX));
        let values: [Value<'_>; 5] = [
            (&ask.subject.as_str() as _, Type::TEXT),
            (&ask.after as _, Type::INT4),
            (&Timestamp(now) as _, Type::TIMESTAMPTZ),
            (&messages_max as _, Type::INT8),
            (&bytes_max as _, Type::INT8),
        ];
        let mut page = Page::default();
        for row in self.readers.ask_in_order(reads::AFTER, &values).await? {
            page.push(&row)?;
        }
        if ask.is_reached_by(&page) {
            self.notice(ask, &page, now);
        }
        Ok(page.into_messages())
    }

    /// Forgets what is read ahead: rows may have come before it.
    pub(super) fn forget(&self) {
        *self.known.lock() = Known::default();
    }

    /// The page, if it is read already or being read.
    async fn read_ahead(&self, ask: &Ask, now: UnixMicros) -> Option<Vec<(MessageId, StoredMessage)>> {
        let mut reading = self.known.lock().take(ask, now)?;
        loop {
            let (page, room) = reading.pages.recv().await?;
            reading.next.after = page.last()?.to_wire();
            let mut messages = page.into_messages();
            drop(room);
            // It was read some time before.
            messages.retain(|(_, message)| now < message.expiration.expires_at(message.published_at));
            if !messages.is_empty() {
                reading.used = Instant::now();
                self.known.lock().readings.push(reading);
                return Some(messages);
            }
        }
    }

    /// Remembers where a page ended; begins to read ahead for those who have read several in a row.
    fn notice(&self, ask: Ask, page: &Page, now: UnixMicros) {
        let Some(last) = page.last() else { return };
        let next = Ask { after: last.to_wire(), ..ask.clone() };
        let mut known = self.known.lock();
        let pages = known.pages_until(&ask) + 1;
        let place = if pages < PAGES_BEFORE { None } else { Arc::clone(&self.places).try_acquire_owned().ok() };
        let Some(place) = place else {
            known.remember(End { next, pages, at: Instant::now() });
            return;
        };
        let (sender, receiver) = mpsc::channel(PAGES_MAX);
        let (gone, is_gone) = oneshot::channel();
        known.readings.push(Reading { next: next.clone(), now, pages: receiver, used: Instant::now(), _gone: gone });
        let reader = Reader {
            readers: Arc::clone(&self.readers),
            room: Arc::new(Semaphore::new(ROOM_BYTES)),
            pages: sender,
            page: Page::default(),
            row_bytes: cost(page).div_ceil(page.len().max(1)),
            next,
            now,
        };
        let known = Arc::downgrade(&self.known);
        #[expect(clippy::disallowed_methods, reason = "ends by itself, a second after the last page was asked for")]
        tokio::spawn(async move {
            let _place = place;
            reader.run().await;
            let mut is_gone = is_gone;
            while timeout(PATIENCE, &mut is_gone).await.is_err() {
                let Some(known) = known.upgrade() else { return };
                known.lock().readings.retain(|reading| reading.used.elapsed() < PATIENCE);
            }
        });
    }
}

impl Ask {
    /// Whether a page is as large as it may be, so that there may be more.
    fn is_reached_by(&self, page: &Page) -> bool {
        page.len() >= self.messages_max || page.bytes() >= self.bytes_max
    }
}

impl Known {
    /// The reading whose next page this is.
    fn take(&mut self, ask: &Ask, now: UnixMicros) -> Option<Reading> {
        // A clock that went back asks for what was left out.
        let found = self.readings.iter().position(|reading| reading.next == *ask && reading.now <= now)?;
        Some(self.readings.swap_remove(found))
    }

    /// How many pages were read in a row until this one is asked for.
    fn pages_until(&mut self, ask: &Ask) -> u32 {
        self.ends.retain(|end| end.at.elapsed() < PATIENCE);
        let found = self.ends.iter().position(|end| end.next == *ask).and_then(|found| self.ends.remove(found));
        found.map_or(0, |end| end.pages)
    }

    fn remember(&mut self, end: End) {
        if self.ends.len() == ENDS_MAX {
            self.ends.pop_front();
        }
        self.ends.push_back(end);
    }
}

/// What a page takes of the room of a reading, in bytes.
fn cost(page: &Page) -> usize {
    let bytes = page.bytes() + page.len() * ROW_OVERHEAD_BYTES;
    // One that is larger than all of it may still be read, alone.
    bytes.clamp(ROOM_BYTES / PAGES_MAX, ROOM_BYTES)
}

/// The far end of a reading.
#[derive(Debug)]
struct Reader {
    readers: Arc<Readers>,
    /// Bytes that may still be read, and those of the pages that nobody has taken yet.
    room: Arc<Semaphore>,
    pages: mpsc::Sender<(Page, OwnedSemaphorePermit)>,
    /// What is not a page yet.
    page: Page,
    /// What a row takes of the room, as far as the pages before tell.
    row_bytes: usize,
    next: Ask,
    now: UnixMicros,
}

impl Reader {
    /// Reads until there are no more, or nobody asks, or something fails.
    async fn run(mut self) {
        loop {
            let room = self.room.acquire_many(u32::try_from(2 * STATEMENT_BYTES).unwrap_or(u32::MAX));
            if timeout(PATIENCE, room).await.is_err() || self.pages.is_closed() {
                return;
            }
            let rows_max = (STATEMENT_BYTES / self.row_bytes.max(1)).clamp(1, ROWS_MAX);
            match self.read(rows_max).await {
                Ok(rows) if rows < rows_max => break,
                Ok(_) => {}
                Err(error) => {
                    debug!(%error, "reading ahead ended");
                    return;
                }
            }
        }
        if self.page.len() > 0 {
            // Whoever asks next finds out.
            drop(self.hand_over().await);
        }
    }

    /// One statement: how many rows it had.
    async fn read(&mut self, rows_max: usize) -> Result<usize, StoreError> {
        let (readers, mut taken) = (Arc::clone(&self.readers), None);
        let bound = readers.timeout();
        let read = timeout(bound, self.read_with(&readers, &mut taken, rows_max)).await;
        let read = read.unwrap_or_else(|_| Err(errors::late("reading ahead", bound)));
        if let (Err(_), Some(connection)) = (&read, taken) {
            readers.abandon(connection).await;
        }
        read
    }

    async fn read_with<'a>(
        &mut self,
        readers: &'a Readers,
        taken: &mut Option<ForMany<'a>>,
        rows_max: usize,
    ) -> Result<usize, StoreError> {
        let client = taken.insert(readers.for_many().await?).client();
        let (subject, after) = (self.next.subject.as_str().to_owned(), self.next.after);
        let (now, limit) = (Timestamp(self.now), i64::try_from(rows_max).unwrap_or(i64::MAX));
        let values: [Value<'_>; 4] = [
            (&subject as _, Type::TEXT),
            (&after as _, Type::INT4),
            (&now as _, Type::TIMESTAMPTZ),
            (&limit as _, Type::INT8),
        ];
        let of_server = |error: tokio_postgres::Error| errors::at_run_time(errors::store(&error));
        let rows = async {
            let mut rows = pin!(client.query_typed_raw(reads::AHEAD, values).await.map_err(of_server)?);
            let mut count = 0;
            while let Some(row) = rows.try_next().await.map_err(of_server)? {
                count += 1;
                self.page.push(&row)?;
                if self.next.is_reached_by(&self.page) {
                    self.hand_over().await?;
                }
            }
            Ok(count)
        };
        // All go out together; the first that fails ends all of them.
        let begun = async { client.batch_execute(reads::BEGIN_IN_ORDER).await.map_err(of_server) };
        let ended = async { client.batch_execute("COMMIT").await.map_err(of_server) };
        let ((), count, ()) = futures_util::try_join!(begun, rows, ended)?;
        if let Some(last) = self.page.last() {
            self.next.after = last.to_wire();
        }
        Ok(count)
    }

    /// Makes a page of what was read.
    async fn hand_over(&mut self) -> Result<(), StoreError> {
        let page = std::mem::take(&mut self.page);
        let (cost, ended) = (cost(&page), || errors::unavailable("nobody takes what is read ahead"));
        if let Some(last) = page.last() {
            self.next.after = last.to_wire();
        }
        self.row_bytes = cost.div_ceil(page.len().max(1));
        let room = Arc::clone(&self.room).acquire_many_owned(u32::try_from(cost).unwrap_or(u32::MAX));
        let room = timeout(STALL_MAX, room).await.map_err(|_| ended())?.map_err(|_| ended())?;
        self.pages.try_send((page, room)).map_err(|_| ended())
    }
}
