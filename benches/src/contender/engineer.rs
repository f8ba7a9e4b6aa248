//! lapin as a good engineer writes it: one task per request, a table of waiting calls, timeouts, everything awaited.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::StreamExt;
use lapin::options::{BasicAckOptions, BasicPublishOptions};
use lapin::types::ShortString;
use lapin::{BasicProperties, Channel, Connection};
use tokio::sync::oneshot;
use uuid::Uuid;

use super::{Outcome, PREFETCH, channel, reply_queue, serve_queue};
use crate::load::{Load, Samples, Window};

const TIMEOUT: Duration = Duration::from_secs(30);

/// Serves until the connection ends.
pub async fn serve(url: &str, queue: &str, ready: impl FnOnce()) -> Outcome {
    let (_connection, channel) = channel(url).await?;
    let mut requests = serve_queue(&channel, queue, false, Some(PREFETCH)).await?;
    ready();
    while let Some(delivery) = requests.next().await {
        let delivery = delivery?;
        let channel = channel.clone();
        tokio::spawn(async move {
            if let Err(error) = answer(&channel, &delivery).await {
                eprintln!("no answer was sent: {error}");
            }
        });
    }
    Ok(())
}

async fn answer(channel: &Channel, delivery: &lapin::message::Delivery) -> Outcome {
    let reply_to = delivery
        .properties
        .reply_to()
        .clone()
        .ok_or("no reply_to")?;
    let id = delivery
        .properties
        .correlation_id()
        .clone()
        .ok_or("no correlation_id")?;
    let properties = BasicProperties::default().with_correlation_id(id);
    channel
        .basic_publish(
            "".into(),
            reply_to,
            BasicPublishOptions::default(),
            &delivery.data,
            properties,
        )
        .await?
        .await?;
    delivery.ack(BasicAckOptions::default()).await?;
    Ok(())
}

type Waiting = Arc<Mutex<HashMap<String, oneshot::Sender<Vec<u8>>>>>;

struct Client {
    _connection: Connection,
    channel: Channel,
    queue: ShortString,
    reply_to: ShortString,
    waiting: Waiting,
}

impl Client {
    async fn connect(url: &str, queue: &str) -> Outcome<Self> {
        let (connection, channel) = channel(url).await?;
        let (reply_to, mut replies) = reply_queue(&channel).await?;
        let waiting = Waiting::default();
        let table = waiting.clone();
        tokio::spawn(async move {
            while let Some(Ok(delivery)) = replies.next().await {
                let id = delivery.properties.correlation_id().as_ref();
                let caller = id.and_then(|id| lock(&table).remove(id.as_str()));
                if let Some(caller) = caller {
                    let _ = caller.send(delivery.data); // It may have given up.
                }
            }
        });
        Ok(Self {
            _connection: connection,
            channel,
            queue: queue.into(),
            reply_to,
            waiting,
        })
    }

    async fn call(&self, body: &[u8]) -> Outcome<Vec<u8>> {
        let id = Uuid::new_v4().to_string();
        let (caller, answer) = oneshot::channel();
        lock(&self.waiting).insert(id.clone(), caller);
        let properties = BasicProperties::default()
            .with_correlation_id(id.into())
            .with_reply_to(self.reply_to.clone());
        self.channel
            .basic_publish(
                "".into(),
                self.queue.clone(),
                BasicPublishOptions::default(),
                body,
                properties,
            )
            .await?
            .await?;
        Ok(tokio::time::timeout(TIMEOUT, answer).await??)
    }
}

fn lock<T>(table: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    table.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Calls until the time is over.
pub async fn call(url: &str, queue: &str, load: &Load, window: Window) -> Outcome<Samples> {
    let client = Arc::new(Client::connect(url, queue).await?);
    let body: Arc<[u8]> = load.body().into();
    let samples = load.in_tasks(window, |_| {
        let (client, body) = (client.clone(), body.clone());
        move || {
            let (client, body) = (client.clone(), body.clone());
            async move {
                client.call(&body).await.expect("an echo does not fail");
            }
        }
    });
    Ok(samples.await)
}
