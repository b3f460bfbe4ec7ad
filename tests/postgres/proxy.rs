//! A proxy that loses the server's answer: everything reaches the server, and then the connection breaks.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

/// Forwards to a server on this machine until it is told to lose something.
#[derive(Debug, Clone)]
pub struct Proxy {
    port: u16,
    state: Arc<State>,
}

#[derive(Debug, Default)]
struct State {
    lose_answer: AtomicBool,
    lose_question: AtomicBool,
    hold_commit: AtomicBool,
    lost: AtomicUsize,
}

impl Proxy {
    /// Before the server on this port.
    pub async fn before(server: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let port = listener.local_addr().expect("it is bound").port();
        let state = Arc::new(State::default());
        let accepting = Arc::clone(&state);
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                if let Ok(server) = TcpStream::connect(("127.0.0.1", server)).await {
                    tokio::spawn(forward(client, server, Arc::clone(&accepting)));
                }
            }
        });
        Self { port, state }
    }

    /// Where clients connect.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The next thing that the server says is not passed on, and the connection breaks.
    pub fn lose_next_answer(&self) {
        self.state.lose_answer.store(true, Ordering::SeqCst);
    }

    /// The next thing that a client says is not passed on, and the connection breaks.
    pub fn lose_next_question(&self) {
        self.state.lose_question.store(true, Ordering::SeqCst);
    }

    /// Of the next commit that a client asks for the server never hears, although the connection stays, as if the way had been
    /// cut without a word.
    pub fn hold_next_commit(&self) {
        self.state.hold_commit.store(true, Ordering::SeqCst);
    }

    /// How often a connection was broken.
    pub fn lost(&self) -> usize {
        self.state.lost.load(Ordering::SeqCst)
    }
}

async fn forward(mut client: TcpStream, mut server: TcpStream, state: Arc<State>) {
    let (mut asked, mut answered) = (vec![0; 65_536], vec![0; 65_536]);
    loop {
        tokio::select! {
            read = client.read(&mut asked) => {
                let length = read.unwrap_or(0);
                if length > 0 && state.lose_question.swap(false, Ordering::SeqCst) {
                    state.lost.fetch_add(1, Ordering::SeqCst);
                    return;
                }
                // The message is its kind, its length and the text.
                let commit = asked[..length].windows(7).position(|text| text == b"COMMIT\0").map(|at| at.saturating_sub(5));
                if let Some(before) = commit
                    && state.hold_commit.swap(false, Ordering::SeqCst)
                {
                    state.lost.fetch_add(1, Ordering::SeqCst);
                    drop(server.write_all(&asked[..before]).await);
                    return std::future::pending().await;
                }
                if length == 0 || server.write_all(&asked[..length]).await.is_err() {
                    return;
                }
            }
            read = server.read(&mut answered) => {
                let length = read.unwrap_or(0);
                // Postgres sends this tag once it has committed; what it says before is passed on.
                let commits = answered[..length].windows(7).any(|tag| tag == b"COMMIT\0");
                if commits && state.lose_answer.swap(false, Ordering::SeqCst) {
                    state.lost.fetch_add(1, Ordering::SeqCst);
                    return;
                }
                if length == 0 || client.write_all(&answered[..length]).await.is_err() {
                    return;
                }
            }
        }
    }
}
