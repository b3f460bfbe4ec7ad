//! Opening the directory: made if absent, checked if there.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use fjall::{Database, Keyspace, PersistMode};

use super::KIND;
use super::codec::{self, FORMAT_KEY, FORMAT_VERSION};
use super::config::{Config, JOURNAL_BYTES_MIN, OPEN_FILES_MAX, WORKER_THREADS};
use super::engine::{Engine, Writer, sync_directory};
use super::errors::{failed, inconsistent};
use crate::projector::StoreError;

/// The file whose presence tells that fjall made the directory to the end.
const MARKER_FILE: &str = "version";

/// The folder of fjall's keyspaces.
const KEYSPACES_FOLDER: &str = "keyspaces";

/// The keyspace of format, position and high-water marks.
const META_KEYSPACE: &str = "meta";

/// Why the embedded store cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenStoreError {
    /// Another process has it open.
    #[error("the store directory {path} is in use by another process; stop that one or set another data_dir")]
    InUse {
        /// The directory.
        path: PathBuf,
    },
    /// The operating system refuses.
    #[error(
        "cannot open the store directory {path}: {error}; make it readable and writable, and see that the disk has space"
    )]
    Io {
        /// The directory.
        path: PathBuf,
        /// What the operating system said.
        error: io::Error,
    },
    /// There is something else in the directory.
    #[error("{path} holds files but no store of walcast; move them away or set another data_dir")]
    Foreign {
        /// The directory.
        path: PathBuf,
    },
    /// What is there cannot be read.
    #[error("the store in {path} is damaged: {reason}; move it away and let it be rebuilt from the log")]
    Damaged {
        /// The directory.
        path: PathBuf,
        /// What was found.
        reason: String,
    },
    /// It belongs to another log or a newer walcast, or contradicts itself.
    #[error("cannot use the store in {path}: {error}")]
    Store {
        /// The directory.
        path: PathBuf,
        /// What was found.
        error: StoreError,
    },
}

/// Opens or makes the store.
pub(super) fn open(path: &Path, log_id: u128, config: &Config) -> Result<(Engine, Writer), OpenStoreError> {
    if !path.join(MARKER_FILE).exists() {
        make(path, &codec::format_value(log_id), config)?;
    }
    let (database, meta) = open_database(path, config)?;
    check_format(&meta, log_id).map_err(|error| OpenStoreError::Store { path: path.to_owned(), error })?;
    let keyspaces = path.join(KEYSPACES_FOLDER);
    Engine::new(database, meta, keyspaces, *config)
        .map_err(|error| OpenStoreError::Store { path: path.to_owned(), error })
}

/// Makes an empty store beside `path` and moves it there: fjall cannot go on after a crash half-way.
fn make(path: &Path, format: &[u8], config: &Config) -> Result<(), OpenStoreError> {
    let io = |error| OpenStoreError::Io { path: path.to_owned(), error };
    match fs::read_dir(path) {
        Ok(mut entries) => {
            if entries.next().is_some() {
                return Err(OpenStoreError::Foreign { path: path.to_owned() });
            }
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(io(error)),
    }
    let half_made = path.with_extension("new");
    match fs::remove_dir_all(&half_made) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(io(error)),
    }
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or_else(|| Path::new("."));
    fs::create_dir_all(parent).map_err(io)?;
    {
        let (database, meta) = open_database(&half_made, config)?;
        let fjall = |error| of_fjall(path, error);
        meta.insert(FORMAT_KEY, format).map_err(fjall)?;
        database.persist(PersistMode::SyncAll).map_err(fjall)?;
        sync_directory(&half_made.join(KEYSPACES_FOLDER)).map_err(io)?;
    }
    // Takes the place of an empty directory, too.
    fs::rename(&half_made, path).map_err(io)?;
    sync_directory(parent).map_err(io)
}

/// A store with another format entry.
#[cfg(test)]
pub(super) fn make_with_format(path: &Path, format: &[u8]) -> Result<(), OpenStoreError> {
    make(path, format, &Config::default())
}

fn open_database(path: &Path, config: &Config) -> Result<(Database, Keyspace), OpenStoreError> {
    let fjall = |error| of_fjall(path, error);
    let database = Database::builder(path)
        .cache_size(config.cache_bytes)
        .worker_threads(WORKER_THREADS)
        .max_cached_files(Some(OPEN_FILES_MAX))
        .max_journaling_size(config.journal_bytes.max(JOURNAL_BYTES_MIN))
        // Bodies are compressed in the lower levels; in the journal it would only cost CPU.
        .journal_compression(fjall::CompressionType::None)
        // Every write says itself how durable it is.
        .manual_journal_persist(true)
        .open()
        .map_err(fjall)?;
    let meta = database.keyspace(META_KEYSPACE, || config.keyspace_options()).map_err(fjall)?;
    Ok((database, meta))
}

fn check_format(meta: &Keyspace, log_id: u128) -> Result<(), StoreError> {
    let value = meta
        .get(FORMAT_KEY)
        .map_err(|error| failed(&error))?
        .ok_or_else(|| inconsistent("it does not say which log it belongs to; move it away and let it be rebuilt"))?;
    match codec::format_version(&value) {
        Some(FORMAT_VERSION) => {}
        Some(version) => {
            return Err(inconsistent(&format!(
                "it has format version {version}, this walcast knows {FORMAT_VERSION}; use the walcast that wrote it"
            )));
        }
        None => return Err(inconsistent("its format version does not decode")),
    }
    match codec::format_log_id(&value) {
        Some(found) if found == log_id => Ok(()),
        Some(found) => Err(inconsistent(&format!(
            "it belongs to the log {found:032x}, this is the log {log_id:032x}; restore the directory that belongs to \
             this log, or move this one away and let it be rebuilt"
        ))),
        None => Err(inconsistent("its log identity does not decode")),
    }
}

fn of_fjall(path: &Path, error: fjall::Error) -> OpenStoreError {
    let path = path.to_owned();
    match error {
        fjall::Error::Locked => OpenStoreError::InUse { path },
        fjall::Error::Io(error) => OpenStoreError::Io { path, error },
        fjall::Error::Storage(fjall::LsmError::Io(error)) => OpenStoreError::Io { path, error },
        fjall::Error::InvalidVersion(version) => OpenStoreError::Store {
            path,
            error: StoreError::Inconsistent {
                store: KIND,
                reason: match version {
                    Some(version) => format!("it was written by fjall {version}; use the walcast that wrote it"),
                    None => "it was written by an unknown version of fjall; use the walcast that wrote it".to_owned(),
                },
            },
        },
        other => OpenStoreError::Damaged { path, reason: format!("{other:?}") },
    }
}
