//! The only place that writes to standard output and standard error.

use std::io::{self, BufWriter, IsTerminal as _, Write};

use super::Failure;

/// Standard output, buffered: a command flushes when a reader would wait.
pub struct Output {
    writer: BufWriter<Box<dyn Write>>,
}

/// What an [`Output`] gathers before it writes by itself.
const BUFFER_BYTES: usize = 64 * 1024;

impl Output {
    /// The process' standard output.
    pub fn stdout() -> Self {
        Self::to(io::stdout())
    }

    /// Any other place, for tests.
    pub fn to(writer: impl Write + 'static) -> Self {
        Self { writer: BufWriter::with_capacity(BUFFER_BYTES, Box::new(writer)) }
    }

    /// Writes bytes as they are.
    pub fn bytes(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        self.writer.write_all(bytes).map_err(|error| failure(&error))
    }

    /// Writes a line.
    pub fn line(&mut self, line: impl AsRef<[u8]>) -> Result<(), Failure> {
        self.bytes(line.as_ref())?;
        self.bytes(b"\n")
    }

    /// Writes a value as one line of JSON.
    pub fn json(&mut self, value: &impl serde::Serialize) -> Result<(), Failure> {
        serde_json::to_writer(&mut self.writer, value).map_err(|error| failure(&error.into()))?;
        self.bytes(b"\n")
    }

    /// Hands everything to the reader.
    pub fn flush(&mut self) -> Result<(), Failure> {
        self.writer.flush().map_err(|error| failure(&error))
    }
}

fn failure(error: &io::Error) -> Failure {
    Failure::writing("standard output", error)
}

/// A line about progress on standard error.
pub fn note(line: &str) {
    // Nobody reads it: nothing is lost, and there is no other place to say so.
    drop(writeln!(io::stderr(), "{line}"));
}

/// Why the command fails, on standard error.
pub fn complain(message: &str) {
    note(&format!("walcast: {message}"));
}

/// Whether a person looks at standard error.
pub fn is_terminal() -> bool {
    io::stderr().is_terminal()
}

#[cfg(test)]
pub(super) mod tests {
    use std::sync::Arc;

    use parking_lot::Mutex;

    use super::*;

    /// Keeps what was written.
    #[derive(Debug, Clone, Default)]
    pub struct Captured(Arc<Mutex<Vec<u8>>>);

    impl Captured {
        pub fn text(&self) -> String {
            String::from_utf8(self.0.lock().clone()).expect("text")
        }

        pub fn bytes(&self) -> Vec<u8> {
            self.0.lock().clone()
        }
    }

    impl Write for Captured {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// A reader that has gone.
    struct Closed;

    impl Write for Closed {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(io::ErrorKind::BrokenPipe.into())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn bytes_and_json_lines_come_out_as_given() {
        let captured = Captured::default();
        let mut output = Output::to(captured.clone());
        output.bytes(b"\0\xff").expect("written");
        output.json(&serde_json::json!({"a": "b\n"})).expect("written");
        assert_eq!(captured.bytes(), b"", "buffered until it is flushed");
        output.flush().expect("written");
        assert_eq!(captured.bytes(), b"\0\xff{\"a\":\"b\\n\"}\n");
    }

    #[test]
    fn a_closed_pipe_ends_quietly() {
        let mut output = Output::to(Closed);
        let big = vec![0; 2 * BUFFER_BYTES];
        let failure = output.bytes(&big).expect_err("closed");
        assert_eq!((failure.exit().code(), failure.message()), (0, None));
    }
}
