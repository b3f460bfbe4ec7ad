//! The trace that a thread works on, for the field `trace_id` of log lines.

use std::cell::Cell;
use std::fmt;
use std::future::poll_fn;
use std::marker::PhantomData;
use std::pin::pin;

use opentelemetry::trace::TraceId;

thread_local! {
    static CURRENT: Cell<Option<TraceId>> = const { Cell::new(None) };
}

/// The trace of the call that this thread works on, for the field `trace_id` of a log line; None if it is not traced.
pub fn current_trace_id() -> Option<impl fmt::Display + use<>> {
    CURRENT.get()
}

/// The trace of a call, or that it has none, to be taken to where somebody else works for it.
#[derive(Debug, Clone, Copy)]
pub struct Current(Option<TraceId>);

impl Current {
    /// What this thread works on.
    pub fn here() -> Self {
        Self(CURRENT.get())
    }

    pub(super) fn of(trace: TraceId) -> Self {
        Self(Some(trace))
    }

    /// Until the guard goes, this thread works on it.
    pub(super) fn enter(self) -> Entered {
        Entered { before: CURRENT.replace(self.0), of_this_thread: PhantomData }
    }

    /// Work for it, for another thread.
    pub fn on_thread<T>(self, work: impl FnOnce() -> T) -> impl FnOnce() -> T {
        move || {
            let _until_done = self.enter();
            work()
        }
    }

    /// Work for it, in another task.
    pub async fn on_task<F: Future>(self, work: F) -> F::Output {
        let mut work = pin!(work);
        poll_fn(|context| {
            let _until_polled = self.enter();
            work.as_mut().poll(context)
        })
        .await
    }
}

/// This thread works on a call.
#[derive(Debug)]
pub struct Entered {
    before: Option<TraceId>,
    of_this_thread: PhantomData<*const ()>,
}

impl Drop for Entered {
    fn drop(&mut self) {
        CURRENT.set(self.before);
    }
}
