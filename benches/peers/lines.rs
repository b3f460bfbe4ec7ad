//! A connection whose answers begin with a line, as those of NATS and Redis do.
//!
//! No client library of theirs: it would bring two more trees of dependencies, and its own cost into their figures. What is here
//! costs less than tonic's client does, in their favour.

use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};

use crate::Failure;

/// Longest line and longest body that are read: both servers answer in less than a kilobyte.
const ANSWER_BYTES_MAX: usize = 64 * 1024;

/// A connection.
pub struct Lines {
    reader: BufReader<OwnedReadHalf>,
    writer: OwnedWriteHalf,
    waiting: Vec<u8>,
}

impl Lines {
    /// Opens one.
    pub async fn connect(address: &str) -> Result<Self, Failure> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        let (reader, writer) = stream.into_split();
        Ok(Self { reader: BufReader::new(reader), writer, waiting: Vec::new() })
    }

    /// Sends it with the next [`Lines::line`] that has to wait: what is answered together goes out together.
    pub fn send(&mut self, bytes: &[u8]) {
        self.waiting.extend_from_slice(bytes);
    }

    /// The next line, without its end.
    pub async fn line(&mut self) -> Result<String, Failure> {
        if self.reader.buffer().is_empty() && !self.waiting.is_empty() {
            self.writer.write_all(&self.waiting).await?;
            self.waiting.clear();
        }
        let mut line = String::new();
        let read = (&mut self.reader).take(ANSWER_BYTES_MAX as u64).read_line(&mut line).await?;
        if read == 0 || !line.ends_with('\n') {
            return Err("the server has closed the connection".into());
        }
        line.truncate(line.trim_end().len());
        Ok(line)
    }

    /// So many bytes, and the end of line behind them.
    pub async fn body(&mut self, bytes: usize) -> Result<String, Failure> {
        if bytes > ANSWER_BYTES_MAX {
            return Err(format!("an answer of {bytes} bytes").into());
        }
        let mut body = vec![0; bytes + 2];
        self.reader.read_exact(&mut body).await?;
        body.truncate(bytes);
        Ok(String::from_utf8(body)?)
    }
}
