//! Starts processes that die with this one, however it ends.

use std::io;
use std::process::{Child, Command};
use std::sync::OnceLock;
use std::sync::mpsc::{Sender, channel};
use std::thread;

type Order = (Command, Sender<io::Result<Child>>);

/// The kernel sends the death signal when the *thread* that started the process ends, and a test's thread ends with the
/// test: so one thread that lasts as long as this process starts them all.
static LAUNCHER: OnceLock<Sender<Order>> = OnceLock::new();

/// Starts `program` with the arguments and environment that `configure` adds; it gets SIGKILL when this process ends.
///
/// # Errors
/// Why it cannot be started.
pub fn start(program: &str, configure: impl FnOnce(&mut Command)) -> io::Result<Child> {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "--", program]);
    configure(&mut command);
    let launcher = LAUNCHER.get_or_init(|| {
        let (orders, taken) = channel::<Order>();
        thread::spawn(move || {
            for (mut command, answer) in taken {
                answer.send(command.spawn()).expect("who ordered waits for the answer");
            }
        });
        orders
    });
    let (answer, started) = channel();
    launcher.clone().send((command, answer)).expect("the thread never ends");
    started.recv().expect("the thread answers")
}
