//! A TCP proxy in front of a node that simulates network faults.

use std::collections::VecDeque;
use std::future::pending;
use std::io;
use std::net::Ipv4Addr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::ports::listen_on_free_port;

/// A direction through the proxy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// From client to broker.
    ToBroker,
    /// From broker to client.
    ToClient,
}

/// The way to end a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cut {
    /// Reset (RST): both sides see the end at once, and lose unread bytes.
    Reset,
    /// Regular end (FIN): both sides can read all bytes that were sent.
    Close,
}

/// A proxy from a free loopback port to another port, with adjustable faults.
///
/// Dropping the proxy ends all its connections and tasks.
#[derive(Debug)]
pub struct Proxy {
    port: u16,
    weather: watch::Sender<Weather>,
    listens: watch::Receiver<bool>,
    open: watch::Receiver<usize>,
    acceptor: JoinHandle<()>,
}

/// The present faults.
#[derive(Debug, Clone)]
struct Weather {
    refuses: bool,
    held: [bool; 2],
    latency: Duration,
    trickle: Option<Trickle>,
    /// Number of cuts: a connection ends at the first cut after its start.
    cuts: u64,
    cut: Cut,
}

#[derive(Debug, Clone, Copy)]
struct Trickle {
    bytes: usize,
    interval: Duration,
}

impl Proxy {
    /// Starts a proxy to a port of 127.0.0.1, which may be closed at present.
    ///
    /// # Panics
    ///
    /// If there is no free port.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future leaves nothing behind.
    pub async fn start(target: u16) -> Self {
        let (listener, port) = listen_on_free_port().unwrap_or_else(|error| panic!("{error}"));
        let listener = listener
            .set_nonblocking(true)
            .and_then(|()| TcpListener::from_std(listener))
            .unwrap_or_else(|error| panic!("cannot accept on port {port}: {error}"));
        let (weather, forecast) = watch::channel(Weather {
            refuses: false,
            held: [false; 2],
            latency: Duration::ZERO,
            trickle: None,
            cuts: 0,
            cut: Cut::Reset,
        });
        let (tell_listening, listens) = watch::channel(true);
        let (tell_open, open) = watch::channel(0);
        let accepting = accept(listener, port, target, forecast, tell_listening, tell_open);
        Self {
            port,
            weather,
            listens,
            open,
            acceptor: tokio::spawn(accepting),
        }
    }

    /// The URL of an AMQP connection through the proxy, as `guest`.
    #[must_use]
    pub fn url(&self) -> String {
        format!("amqp://guest:guest@127.0.0.1:{}/%2f", self.port)
    }

    /// The port of the proxy.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Number of open connections.
    #[must_use]
    pub fn connections(&self) -> usize {
        *self.open.borrow()
    }

    /// Ends all connections, and returns after their end. New connections are accepted unless the proxy
    /// [refuses](Self::refuse) them.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future does not prevent the cut.
    pub async fn cut(&self, cut: Cut) {
        let mut open = self.open.clone();
        self.weather.send_modify(|weather| {
            weather.cuts += 1;
            weather.cut = cut;
        });
        // The number falls with every ended connection, and rises with clients that reconnect meanwhile.
        let gone = open.wait_for(|open| *open == 0);
        let _ = timeout(Duration::from_secs(1), gone).await;
    }

    /// Refuses new connections, like a port without a listener. Open connections continue.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future does not prevent the refusals.
    pub async fn refuse(&self) {
        self.listen(false).await;
    }

    /// Accepts new connections again.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future does not prevent the change.
    pub async fn accept(&self) {
        self.listen(true).await;
    }

    /// Holds back bytes of one direction while connections stay open, including the end of a connection. Like a network that
    /// recovers, the proxy delivers them later, unless the sender has closed the connection.
    pub fn blackhole(&self, direction: Direction) {
        self.weather
            .send_modify(|weather| weather.held[direction as usize] = true);
    }

    /// Ends all blackholes and delivers the bytes that were held back.
    pub fn lift_blackholes(&self) {
        self.weather
            .send_modify(|weather| weather.held = [false; 2]);
    }

    /// Delays all bytes in both directions. Default: zero.
    pub fn latency(&self, latency: Duration) {
        self.weather
            .send_modify(|weather| weather.latency = latency);
    }

    /// Limits the bytes per interval, for each connection and direction.
    ///
    /// # Panics
    ///
    /// If `bytes` is zero; use a [`blackhole`](Self::blackhole) instead.
    pub fn trickle(&self, bytes: usize, interval: Duration) {
        assert!(bytes > 0, "a trickle of nothing");
        self.weather
            .send_modify(|weather| weather.trickle = Some(Trickle { bytes, interval }));
    }

    /// Removes the limit of bytes per interval, which is the default.
    pub fn lift_trickle(&self) {
        self.weather.send_modify(|weather| weather.trickle = None);
    }

    async fn listen(&self, on: bool) {
        let mut listens = self.listens.clone();
        self.weather.send_modify(|weather| weather.refuses = !on);
        // An error means that the acceptor has panicked, and then the port is closed.
        let _ = listens.wait_for(|listens| *listens == on).await;
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        // The connections are tasks of the acceptor and end with it.
        self.acceptor.abort();
    }
}

async fn listen(port: u16) -> TcpListener {
    TcpListener::bind((Ipv4Addr::LOCALHOST, port))
        .await
        .unwrap_or_else(|error| panic!("cannot listen on port {port}: {error}"))
}

async fn accept(
    listener: TcpListener,
    port: u16,
    target: u16,
    mut weather: watch::Receiver<Weather>,
    tell_listening: watch::Sender<bool>,
    tell_open: watch::Sender<usize>,
) {
    let mut listener = Some(listener);
    let mut connections = JoinSet::new();
    loop {
        let refuses = weather.borrow_and_update().refuses;
        if refuses {
            listener = None;
        } else if listener.is_none() {
            listener = Some(listen(port).await);
        }
        tell_listening.send_replace(!refuses);
        let accepting = async {
            match &listener {
                Some(listener) => listener.accept().await,
                None => pending().await,
            }
        };
        tokio::select! {
            // The sender is the proxy, which aborts this task when it is dropped.
            Ok(()) = weather.changed() => {}
            Some(_) = connections.join_next() => {}
            Ok((client, _)) = accepting => {
                connections.spawn(carry(client, target, weather.clone()));
            }
        }
        tell_open.send_replace(connections.len());
    }
}

/// Forwards one connection until both sides have ended it, or until it is cut.
async fn carry(mut client: TcpStream, target: u16, mut weather: watch::Receiver<Weather>) {
    let before = weather.borrow().cuts;
    let Ok(mut broker) = TcpStream::connect((Ipv4Addr::LOCALHOST, target)).await else {
        // The kernel has accepted the connection already. A reset is the closest equivalent of a refusal.
        let _ = client.set_zero_linger();
        return;
    };
    let _ = (client.set_nodelay(true), broker.set_nodelay(true));
    let cut = {
        let (from_client, to_client) = client.split();
        let (from_broker, to_broker) = broker.split();
        let (there, back) = (weather.clone(), weather.clone());
        let carrying = async {
            tokio::try_join!(
                pass_on(from_client, to_broker, there, Direction::ToBroker),
                pass_on(from_broker, to_client, back, Direction::ToClient),
            )
        };
        tokio::select! {
            carried = carrying => match carried {
                Ok(_) => Cut::Close,
                // One side has reset the connection.
                Err(_) => Cut::Reset,
            },
            Ok(weather) = weather.wait_for(|weather| weather.cuts != before) => weather.cut,
        }
    };
    if cut == Cut::Reset {
        let _ = (client.set_zero_linger(), broker.set_zero_linger());
    }
}

/// Bytes and the time of their delivery. Empty bytes are the end, an error is a reset.
type Chunk = (Instant, io::Result<Vec<u8>>);

/// Forwards one direction of a connection, including its end.
async fn pass_on(
    source: ReadHalf<'_>,
    sink: WriteHalf<'_>,
    weather: watch::Receiver<Weather>,
    direction: Direction,
) -> io::Result<()> {
    // Simulates the buffers of a network: a sender has to wait while the receiver does not read.
    const UNDER_WAY: usize = 64;
    let (reader, chunks) = mpsc::channel(UNDER_WAY);
    tokio::try_join!(
        read(source, reader, weather.clone()),
        write(sink, chunks, weather, direction),
    )?;
    Ok(())
}

async fn read(
    mut source: ReadHalf<'_>,
    chunks: mpsc::Sender<Chunk>,
    weather: watch::Receiver<Weather>,
) -> io::Result<()> {
    let mut buffer = vec![0; 16 * 1024];
    loop {
        let read = source.read(&mut buffer).await;
        let is_last = !matches!(read, Ok(1..));
        let due = Instant::now() + weather.borrow().latency;
        // An error means that the writer has failed, which ends both.
        let chunk = read.map(|length| buffer[..length].to_vec());
        let _ = chunks.send((due, chunk)).await;
        if is_last {
            return Ok(());
        }
    }
}

async fn write(
    mut sink: WriteHalf<'_>,
    mut chunks: mpsc::Receiver<Chunk>,
    mut weather: watch::Receiver<Weather>,
    direction: Direction,
) -> io::Result<()> {
    while let Some((due, chunk)) = chunks.recv().await {
        sleep_until(due).await;
        let mut chunk = Some(chunk);
        let mut unsent = VecDeque::new();
        loop {
            let passes = weather.wait_for(|weather| !weather.held[direction as usize]);
            // An error means that the proxy is dropped, and this task with it.
            let Ok(trickle) = passes.await.map(|weather| weather.trickle) else {
                return Ok(());
            };
            if let Some(chunk) = chunk.take() {
                unsent.extend(chunk?);
            }
            let length = trickle.map_or(unsent.len(), |trickle| trickle.bytes.min(unsent.len()));
            let part: Vec<u8> = unsent.drain(..length).collect();
            sink.write_all(&part).await?;
            if let Some(trickle) = trickle {
                sleep(trickle.interval).await;
            }
            if unsent.is_empty() {
                break;
            }
        }
    }
    sink.shutdown().await
}
