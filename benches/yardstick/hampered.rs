//! The control: a broker that stands still most of the time, which the floors must find out.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

/// How long it stands still, and how long it runs: a tenth of the time, so that even a rate of twice noop's cannot keep its
/// floor when the client has caught up meanwhile, and the pause is longer than any p99 that does.
const STANDS: Duration = Duration::from_millis(90);
const RUNS: Duration = Duration::from_millis(10);

/// Stops a process again and again; lets it run when it goes out of scope.
pub struct Hampered {
    over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Hampered {
    /// Begins.
    pub fn begin(process: Pid) -> Self {
        let over = Arc::new(AtomicBool::new(false));
        let asked = Arc::clone(&over);
        let thread = std::thread::spawn(move || {
            while !asked.load(Ordering::Relaxed) {
                // Gone: then there is nothing to be hampered, and the load says so.
                if kill_process(process, Signal::STOP).is_err() {
                    return;
                }
                std::thread::sleep(STANDS);
                if kill_process(process, Signal::CONT).is_err() {
                    return;
                }
                std::thread::sleep(RUNS);
            }
        });
        Self { over, thread: Some(thread) }
    }
}

impl Drop for Hampered {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        // It cannot panic.
        drop(self.thread.take().map(JoinHandle::join));
    }
}
