//! Other programs beside the broker: servers that die with the tests, and ports for them.

use std::net::TcpListener;
use std::process::{Child, Command};
use std::sync::atomic::{AtomicBool, AtomicU16, Ordering};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{LazyLock, Mutex, PoisonError};
use std::{io, thread};

type Order = (Command, SyncSender<io::Result<Child>>);

/// The kernel sends the death signal when the *thread* that started the process ends, and a test's thread ends with the
/// test: so one thread that lasts as long as this process starts them all.
static KEEPER: LazyLock<Mutex<SyncSender<Order>>> = LazyLock::new(|| {
    let (orders, ordered) = sync_channel::<Order>(1);
    thread::Builder::new()
        .name("keeper".to_owned())
        .spawn(move || {
            for (mut command, answer) in ordered {
                answer.send(command.spawn()).expect("the test waits for it");
            }
        })
        .expect("a thread");
    Mutex::new(orders)
});

/// Whether programs are to give way to the broker.
static YIELDS: AtomicBool = AtomicBool::new(false);

/// From now on programs run with the lowest priority: where answer times of the broker are measured, a database beside it on
/// the same processors must not be what they measure.
#[allow(dead_code, reason = "the table of bad days uses it")]
pub fn yield_to_others() {
    YIELDS.store(true, Ordering::Relaxed);
}

/// The beginning of a command line whose program gets SIGKILL when this process ends, if [`spawn`] starts it.
pub fn tied() -> Command {
    let mut command = Command::new(if YIELDS.load(Ordering::Relaxed) { "nice" } else { "setpriv" });
    if YIELDS.load(Ordering::Relaxed) {
        command.args(["-n", "19", "setpriv"]);
    }
    command.arg("--pdeathsig=KILL");
    command
}

/// Starts a program on the thread that lasts.
///
/// # Errors
/// Why it cannot be started.
pub fn spawn(command: Command) -> io::Result<Child> {
    let (answer, answered) = sync_channel(1);
    KEEPER.lock().unwrap_or_else(PoisonError::into_inner).send((command, answer)).expect("the keeper runs");
    answered.recv().expect("the keeper answers")
}

/// A free port below those that the kernel gives to clients, so that no client of another test sits on it when a server
/// starts again.
pub fn port() -> u16 {
    const FIRST: u16 = 20_000;
    const COUNT: u16 = 10_000;
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let own = u16::try_from(std::process::id() * 97 % u32::from(COUNT)).expect("below 10,000");
    let mut ports = (0..COUNT).map(|_| FIRST + (own + NEXT.fetch_add(1, Ordering::Relaxed)) % COUNT);
    ports.find(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok()).expect("one of 10,000 ports is free")
}
