//! The way from one program to another, which can be cut: nothing goes over it then, and nobody is told.

use std::sync::Arc;

use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// A way to an address.
#[derive(Debug, Clone)]
pub struct Way {
    address: String,
    cut: Arc<watch::Sender<bool>>,
}

impl Way {
    /// To this address, from a port of its own.
    pub async fn to(target: String) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("it is bound").to_string();
        let way = Self { address, cut: Arc::default() };
        let cut = Arc::clone(&way.cut);
        tokio::spawn(async move {
            // Held while the way is cut: a network that drops packets resets nothing.
            while let Ok((from, _)) = listener.accept().await {
                tokio::spawn(carry(from, target.clone(), cut.subscribe()));
            }
        });
        way
    }

    /// `HOST:PORT`.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Cuts it, or mends it. What was under way while it was cut is lost, with its connections.
    pub fn cut(&self, cut: bool) {
        self.cut.send_replace(cut);
    }
}

async fn carry(mut from: TcpStream, target: String, mut cut: watch::Receiver<bool>) {
    let is_cut = |cut: &bool| *cut;
    if !*cut.borrow_and_update() {
        let Ok(mut to) = TcpStream::connect(&target).await else { return };
        tokio::select! {
            // Either side may be gone; the other hears of it when this is over.
            _ = copy_bidirectional(&mut from, &mut to) => return,
            _ = cut.wait_for(is_cut) => {}
        }
        // Silence, on both ends, until it is mended; then both hear that the connection is gone.
        drop(cut.wait_for(|cut| !cut).await);
        return;
    }
    drop(cut.wait_for(|cut| !cut).await);
}
