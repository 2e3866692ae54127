//! Between a mount and the master: a line that can be cut.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// Between a mount and the master: a line that can be cut.
pub struct Line {
    pub address: SocketAddr,
    cuts: watch::Sender<u64>,
    carried: Arc<AtomicU64>,
}

impl Line {
    pub async fn to(master: SocketAddr) -> Line {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let cuts = watch::Sender::new(0);
        let carried = Arc::new(AtomicU64::new(0));
        let (cut, count) = (cuts.clone(), carried.clone());
        tokio::spawn(async move {
            while let Ok((mut near, _)) = listener.accept().await {
                let (mut cut, count) = (cut.subscribe(), count.clone());
                tokio::spawn(async move {
                    let Ok(mut far) = TcpStream::connect(master).await else { return };
                    count.fetch_add(1, Ordering::Relaxed);
                    tokio::select! {
                        _ = copy_bidirectional(&mut near, &mut far) => {}
                        _ = cut.changed() => {}
                    }
                });
            }
        });
        Line { address, cuts, carried }
    }

    /// Breaks what goes over it now.
    pub fn cut(&self) {
        self.cuts.send_modify(|cuts| *cuts += 1);
    }

    /// Connections so far.
    pub fn carried(&self) -> u64 {
        self.carried.load(Ordering::Relaxed)
    }
}
